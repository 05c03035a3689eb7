"""The job as people start it: `deepspeed`, `torchrun`, plain `python`, with and without a C++ compiler."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from ds_bert.checkpoint.folders import checkpoints
from ds_bert.training.log import read_log
from tests.support.jobs import wait_for
from tests.support.processes import free_port
from tests.support.refusal import LAUNCHER, the_sentence

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "pipelines" / "pretrain.py")
BIN = Path(sys.executable).parent
PYTHON = [sys.executable, SCRIPT]
DEEPSPEED = [str(BIN / "deepspeed"), "--num_accelerators", "2", "--master_port", "0", SCRIPT]
TORCHRUN = [str(BIN / "torchrun"), "--standalone", "--nproc_per_node", "2", SCRIPT]
CTRL_C = signal.SIGINT


def environment(**changes: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in LAUNCHER} | changes


def command(launcher: list[str], *words: object) -> list[str]:
    launcher = [str(free_port()) if word == "0" else word for word in launcher]
    return [*launcher, *map(str, words)]


def run(launcher: list[str], *words: object, **changes: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(launcher, *words), env=environment(**changes), capture_output=True, text=True, timeout=180
    )


@pytest.fixture
def run_json(tmp_path: Path, prepared: Path, model: Path) -> Path:
    arguments: dict[str, Any] = {
        "config_name": str(model),
        "train_path": str(prepared),
        "output_dir": str(tmp_path / "out"),
        "max_steps": 3,
        "max_seq_length": 32,
        "max_predictions_per_seq": 5,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "logging_steps": 1,
        "disable_tqdm": True,
    }
    path = tmp_path / "run.json"
    path.write_text(json.dumps(arguments))
    return path


@contextmanager
def started(launcher: list[str], *words: object) -> Iterator[subprocess.Popen]:
    """A launcher in the making, in a process group of its own; nothing of it is left behind."""
    process = subprocess.Popen(
        command(launcher, *words),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    known: list[psutil.Process] = []
    try:
        yield process
    finally:
        if process.poll() is None:
            known = psutil.Process(process.pid).children(recursive=True)
        for left in [*known, process]:
            if left.is_running() if isinstance(left, psutil.Process) else left.poll() is None:
                left.kill()


def ranks_of(launcher: subprocess.Popen) -> list[psutil.Process]:
    """The processes that train, which have no children of their own that run the script."""
    found = [process for process in psutil.Process(launcher.pid).children(recursive=True) if is_rank(process)]
    return sorted(found, key=lambda process: process.environ().get("RANK", ""))


def is_rank(process: psutil.Process) -> bool:
    words = process.cmdline()
    return len(words) > 2 and SCRIPT in words[1:3] and "RANK" in process.environ()


def steps_logged(run_json: Path) -> int:
    return len(read_log(run_json.parent / "out"))


@pytest.mark.slow
def test_a_port_in_use_is_said(run_json: Path) -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        launcher = [str(port) if word == "0" else word for word in DEEPSPEED]
        ended = run(launcher, run_json, "--num_stages", 2)
    assert ended.returncode == 1, ended.stderr
    assert f"error: port {port} of 127.0.0.1: in use" in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "said"),
    [
        (0, "of 2 ranks 1 has not come, for the 5 s"),
        (1, "first rank does not answer"),
    ],
)
def test_a_rank_that_never_comes_is_said(run_json: Path, rank: int, said: str) -> None:
    port = str(free_port())
    alone = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    ended = run(PYTHON, run_json, "--num_stages", 2, "--start_timeout", 5, **alone, MASTER_PORT=port)
    assert ended.returncode == 1, ended.stderr
    assert f"error: port {port} of 127.0.0.1: " in ended.stderr and said in ended.stderr, ended.stderr
    assert "Traceback" not in ended.stderr


def one_of_two(rank: int, port: int) -> dict[str, str]:
    numbers = {"RANK": rank, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1", "DS_ACCELERATOR": "cpu"} | {name: str(n) for name, n in numbers.items()}


def test_a_rank_of_another_node_refuses_a_full_folder_without_waiting_for_the_first(
    run_json: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").touch()
    ended = run(PYTHON, run_json, "--num_stages", 2, **one_of_two(1, free_port()))
    assert "--output_dir is not empty" in the_sentence(ended.returncode, ended.stderr)


@pytest.mark.slow
def test_a_rank_that_comes_late_finds_the_folder_free(run_json: Path, tmp_path: Path) -> None:
    port, words = free_port(), [run_json, "--num_stages", 2]
    first = subprocess.Popen(command(PYTHON, *words), env=environment(**one_of_two(0, port)))
    try:
        wait_for((tmp_path / "out").exists)
        time.sleep(5)  # it could have written something by now
        late = run(PYTHON, *words, **one_of_two(1, port))
        assert (late.returncode, first.wait(60)) == (0, 0), late.stderr
    finally:
        first.kill()


@pytest.mark.slow
def test_ranks_that_are_told_different_things_do_not_train(run_json: Path) -> None:
    port, words = free_port(), [run_json, "--num_stages", 2]
    first = subprocess.Popen(command(PYTHON, *words), env=environment(**one_of_two(0, port)))
    try:
        other = run(PYTHON, *words, "--learning_rate", 0.5, **one_of_two(1, port))
        assert (first.wait(60), other.returncode) == (2, 2), other.stderr
    finally:
        first.kill()


@pytest.mark.parametrize(
    ("launcher", "status"),
    [(PYTHON, 2), *(pytest.param(*case, marks=pytest.mark.slow) for case in [(DEEPSPEED, 2), (TORCHRUN, 1)])],
)
def test_a_wrong_argument_is_said_once(run_json: Path, launcher: list[str], status: int) -> None:
    ended = run(launcher, run_json, "--num_stages", 3)
    assert ended.returncode == status, ended.stderr
    sentences = [line for line in ended.stderr.splitlines() if line.startswith("error: --num_stages is 3")]
    assert len(sentences) == 1, ended.stderr
    if launcher is not TORCHRUN:  # which adds a report of its own
        assert "Traceback" not in ended.stdout + ended.stderr
    if launcher is PYTHON:
        assert the_sentence(ended.returncode, ended.stderr) == ended.stderr.strip()
    assert not (run_json.parent / "out").exists()


@pytest.mark.slow
def test_without_a_compiler(run_json: Path, tmp_path: Path) -> None:
    nothing = tmp_path / "bin"
    nothing.mkdir()
    ended = run(PYTHON, run_json, PATH=str(nothing), CXX=str(nothing / "c++"), TORCH_EXTENSIONS_DIR=str(tmp_path / "x"))
    assert ended.returncode == 0, ended.stderr
    assert [path.name for path in checkpoints(tmp_path / "out")] == ["checkpoint-3"]
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [DEEPSPEED, TORCHRUN])
def test_launchers_train(run_json: Path, tmp_path: Path, launcher: list[str]) -> None:
    nothing = tmp_path / "bin"
    nothing.mkdir()
    flags = ["--num_stages", 2, "--save_steps", 0]
    ended = run(launcher, run_json, *flags, PATH=str(nothing), TORCH_EXTENSIONS_DIR=str(tmp_path / "x"))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("speed:") == 1 and ended.stdout.count("saved:") == 1
    assert "embeddings, encoder layers 0–1 on rank 0 | encoder layers 2–3, head on rank 1" in ended.stdout
    alone = run(PYTHON, run_json, "--output_dir", tmp_path / "alone")
    assert alone.returncode == 0, alone.stderr
    losses = [
        [entry["train/loss"] for entry in read_log(folder) if "train/loss" in entry]
        for folder in (tmp_path / "out", tmp_path / "alone")
    ]
    assert len(losses[0]) == 3 and losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "number", "whom"), [(DEEPSPEED, CTRL_C, "group"), (DEEPSPEED, signal.SIGTERM, "launch.py"),
                                     (TORCHRUN, CTRL_C, "group"), (TORCHRUN, signal.SIGTERM, "launcher")]
)  # fmt: skip
def test_a_signal_to_the_launcher_ends_all_with_a_checkpoint(
    run_json: Path, launcher: list[str], number: signal.Signals, whom: str
) -> None:
    flags = [run_json, "--num_stages", 2, "--max_steps", 100000, "--save_steps", 0]
    with started(launcher, *flags) as process:
        wait_for(lambda: steps_logged(run_json) >= 3, 120)
        ranks = ranks_of(process)
        assert len(ranks) == 2
        if whom == "group":
            os.killpg(process.pid, number)
        else:
            target = ranks[0].parent() if whom == "launch.py" else psutil.Process(process.pid)
            target.send_signal(number)
        printed, _ = process.communicate(timeout=90)
        gone, alive = psutil.wait_procs(ranks, timeout=60)
    assert not alive and len(gone) == 2
    assert process.returncode != 0
    (checkpoint,) = checkpoints(run_json.parent / "out")
    step = checkpoint.name.removeprefix("checkpoint-")
    assert f"after step {step}; go on with --resume" in printed, printed


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [DEEPSPEED, TORCHRUN])
def test_a_killed_rank_ends_all(run_json: Path, launcher: list[str]) -> None:
    flags = [run_json, "--num_stages", 2, "--max_steps", 100000, "--save_steps", 0]
    with started(launcher, *flags) as process:
        wait_for(lambda: steps_logged(run_json) >= 3, 120)
        ranks = ranks_of(process)
        ranks[1].kill()
        printed, _ = process.communicate(timeout=90)
        gone, alive = psutil.wait_procs(ranks, timeout=30)
    assert not alive and len(gone) == 2
    assert process.returncode != 0
    assert "error: rank 0 (stage 0, replica 0)" in printed, printed


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [DEEPSPEED, TORCHRUN])
@pytest.mark.parametrize("hung", [0, 1])
def test_a_hung_rank_ends_all_within_the_timeout(run_json: Path, launcher: list[str], hung: int) -> None:
    timeout = 15
    flags = ["--num_stages", 2, "--max_steps", 100000, "--save_steps", 0, "--ddp_timeout", timeout]
    with started(launcher, run_json, *flags) as process:
        wait_for(lambda: steps_logged(run_json) >= 3, 120)
        ranks = ranks_of(process)
        time.sleep(2.5)  # two beats: the others know the process, and its step
        ranks[hung].suspend()
        begin = time.monotonic()
        printed, _ = process.communicate(timeout=90)
        seconds = time.monotonic() - begin
        alive = psutil.wait_procs(ranks, timeout=30)[1]
    assert not alive and process.returncode != 0
    assert seconds < timeout + 10, printed
    other = 1 - hung
    assert f"error: rank {other} (stage {other}, replica 0): after step " in printed, printed
    assert f"rank {hung} (stage {hung}, replica 0), after step " in printed, printed
    assert not checkpoints(run_json.parent / "out")
