"""The demo's commands, as `make` has them: every line that a newcomer sees is known, on a terminal and in a pipe."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.jobs import REPOSITORY
from tests.support.processes import free_port
from tests.support.terminal import on_terminal, plain_environment

pytestmark = pytest.mark.slow
STEPS = 20
LABELS = "model device cut order batch steps data aim mark speed busy memory sent chart trace saved"
JOB = [
    r"ds_bert [\d.]+: pretrain.py( on 2 ranks)?; reading model and data \.\.\.",
    rf"({'|'.join(LABELS.split())}): +\S.*",
    rf"step {STEPS}: held-out loss [\d.]+, mlm_loss .*",
    r" *[\d.]+ ┤ *●?( *●)*",
    r" +└─+",
    rf" *train/loss, steps 1 to {STEPS}",
]
PROGRESS = [rf"step \d+/{STEPS}: loss [\d.]+, learning rate \S+(, [\d.]+ samples/s)?, \d\d:\d\d left"]
BAR = [rf" *\d+%\|.*\| \d+/{STEPS} \[.*\]", " *"]
PREPARE = [r"\S+: [\d,]+ documents, .*", r"next: deepspeed .*"]
PREPARE_BARS = [r"(vocabulary|tokenise): .*", " *"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The demo's two commands, for this Python, a folder of their own, and few steps."""
    folder = tmp_path_factory.mktemp("demo")
    make = ["make", "--dry-run", "demo", f"VENV={Path(sys.executable).parent.parent}"]
    recipe = subprocess.run(make, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines()
    prepare, train = (line for line in recipe if re.search("prepare --|deepspeed -q", line) and "echo" not in line)
    whole = {"module_to_stage_map": [0] * 6, "stage_to_rank_map": {"0": [0]}}
    (folder / "one.json").write_text(json.dumps(whole))
    train = train.replace("deepspeed -q", f"deepspeed -q --master_port {free_port()}")
    few = f"--max_steps {STEPS} --train_path {folder}/demo-data --output_dir {folder}/demo"
    return prepare.replace("runs/", f"{folder}/"), f"{train} {few}"


def unknown(printed: str, known: list[str]) -> list[str]:
    """The lines that are none of the known ones."""
    lines = re.sub(r"\x1b\[[\d;]*m", "", printed).replace("\x1b[A", "").replace("\r", "\n").splitlines()
    return [line for line in lines if not any(re.fullmatch(pattern, line) for pattern in known)]


def piped(command: str) -> tuple[str, str]:
    environment = {name: value for name, value in plain_environment().items() if name != "DS_ACCELERATOR"}
    ended = subprocess.run(
        command, shell=True, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=200
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout, ended.stderr


def test_in_a_pipe(demo: tuple[str, str]) -> None:
    prepare, train = demo
    # and started without a launcher, where nothing says what there is to compute on
    words, one_stage = train.partition("pretrain.py ")[2], Path(train.split()[-1]).with_name("one.json")
    alone = f"{sys.executable} pipelines/pretrain.py {words} --stage_map {one_stage}"
    for command, known in ((prepare, PREPARE), (train, JOB + PROGRESS), (alone, JOB + PROGRESS)):
        printed, errors = piped(command)
        assert not unknown(printed, known) and not errors
        assert len(printed.splitlines()) > 2


def test_on_a_terminal(demo: tuple[str, str]) -> None:
    prepare, train = (command.replace("/demo-data", "/shown-data") for command in demo)
    for command, known in ((prepare, PREPARE + PREPARE_BARS), (train, JOB + BAR)):
        status, printed = on_terminal(["env", "-u", "DS_ACCELERATOR", "sh", "-c", command], cwd=REPOSITORY, timeout=200)
        assert status == 0 and not unknown(printed, known)
        assert "%|" in printed or "tokenise" in printed
        assert printed.count("\n") < 45  # bars stay on their lines
