"""`ds-bert launch`: restarts after crashes and nothing else, signals handed on, no process left behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from ds_bert.checkpoint.folders import checkpoints
from ds_bert.cli import main
from ds_bert.training.arguments import TrainingArguments
from ds_bert.training.log import read_log
from ds_bert.training.parser import parse_arguments
from ds_bert.training.supervise import Supervisor, output_dir_of, with_resume
from tests.support.jobs import wait_for
from tests.support.refusal import LAUNCHER
from tests.support.text import prepare_data, write_model

# A job that ends its k-th run with the k-th status it is told, writing a checkpoint first where there is a "+".
JOB = """
import pathlib, sys
folder, runs = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[1] + ".runs")
number = len(runs.read_text().splitlines()) if runs.exists() else 0
with open(runs, "a") as file:
    print(" ".join(sys.argv[3:]), file=file)
status = sys.argv[2].split(",")[number]
if status.endswith("+"):
    (folder / f"checkpoint-{number + 1}").mkdir(parents=True)
sys.exit(int(status.rstrip("+")))
"""
# A job that refuses what the user asks for.
MISTAKEN_JOB = """
import os, sys
from ds_bert.errors import UserError, exit_on_user_error
def job():
    if os.environ["LOCAL_RANK"] == "0":
        with open(sys.argv[1], "a") as runs:
            runs.write("a run")
    raise UserError("runs/a: --output_dir is not empty")
sys.exit(exit_on_user_error(job))
"""
# A launcher with a rank in a session of its own, which says when it has started and ends as it is told.
RANK = """
import pathlib, signal, sys, time
folder, ignores = pathlib.Path(sys.argv[1]), sys.argv[2] == "stubborn"
def note(number, frame):
    (folder / f"signal-{number}").touch()
    if not ignores:
        sys.exit(128 + number)
signal.signal(signal.SIGINT, note), signal.signal(signal.SIGTERM, note)
(folder / "started").touch()
while True:
    time.sleep(0.05)
"""
LAUNCHER_OF_RANK = """
import subprocess, sys
sys.exit(subprocess.run([sys.executable, "-c", *sys.argv[1:]]).returncode)
"""


def is_alive(process: psutil.Process) -> bool:
    """Whether it still runs; nobody may be there to collect the status of one that has ended."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def run_job(folder: Path, statuses: str, max_restarts: int = 3, *flags: str) -> tuple[int, list[str]]:
    """Supervise the job; return the exit status and each run's further words."""
    command = [sys.executable, "-c", JOB, str(folder), statuses, "--output_dir", str(folder), *flags]
    status = Supervisor(command, max_restarts, pause=0.01).run()
    return status, (folder.parent / f"{folder.name}.runs").read_text().splitlines()


def test_a_crashed_job_is_started_again_with_resume_once(tmp_path: Path) -> None:
    status, runs = run_job(tmp_path / "out", "1,139,0")
    first = f"--output_dir {tmp_path / 'out'}"
    assert status == 0
    assert runs == [first, f"{first} --resume", f"{first} --resume"]


@pytest.mark.parametrize("status", [0, 2, 130, 143])
def test_these_statuses_are_final(tmp_path: Path, status: int) -> None:
    first = f"--output_dir {tmp_path / 'out'}"
    assert run_job(tmp_path / "out", f"1,{status},1") == (status, [first, f"{first} --resume"])


def test_restarts_end_and_a_checkpoint_begins_their_count_anew(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status, runs = run_job(tmp_path / "without", "1,1,7,0", 2)
    assert (status, len(runs)) == (7, 3)
    assert "exit status 7, and 2 restarts without a new checkpoint: giving up" in capfd.readouterr().err
    status, runs = run_job(tmp_path / "with", "1,1,1+,1,5,0", 2)
    assert (status, len(runs)) == (5, 5)


def test_pauses_grow(tmp_path: Path) -> None:
    supervisor = Supervisor([sys.executable, "-c", "raise SystemExit(1)"], 3, pause=1.0)
    pauses: list[float] = []
    supervisor._pause = lambda seconds: bool(pauses.append(seconds))  # type: ignore[method-assign]
    assert supervisor.run() == 1 and pauses == [1, 2, 4]


def test_the_output_dir_is_found(tmp_path: Path) -> None:
    run_json, other = tmp_path / "run.json", tmp_path / "engine.json"
    run_json.write_text('{"output_dir": "runs/a", "max_steps": 3}')
    other.write_text("{}")
    words = ["deepspeed", "job.py", str(other), str(run_json)]
    assert output_dir_of(words) == Path("runs/a")
    assert output_dir_of([*words, "--output_dir", "runs/b"]) == output_dir_of([*words, "--output_dir=runs/b"])
    assert output_dir_of([*words, "--output_dir", "runs/b"]) == Path("runs/b")
    assert output_dir_of(words[:3]) is None


@pytest.mark.parametrize(
    "given", [[], ["--resume"], ["--resume", "false"], ["--resume=false"], ["--resume", "--seed=1"]]
)
def test_a_restart_resumes_whatever_the_command_said_of_it(given: list[str]) -> None:
    arguments, _ = parse_arguments(TrainingArguments, with_resume(["--max_steps", "3", *given]))
    assert arguments.resume


def test_a_mistake_is_not_repeated_where_the_launcher_hides_its_status(tmp_path: Path) -> None:
    job = tmp_path / "job.py"
    job.write_text(MISTAKEN_JOB)
    torchrun = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc_per_node", "2"]
    assert Supervisor([*torchrun, str(job), str(tmp_path / "runs")], 2, pause=0.01).run() == 2
    assert (tmp_path / "runs").read_text() == "a run"


@pytest.mark.parametrize("words", [["--"], [], ["--", "/no/such/launcher", "x"], ["--max_restarts", "-1", "--", "x"]])
def test_what_cannot_be_run_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["launch", *words]) == 2
    assert capsys.readouterr().err.count("error: ") == 1


def supervised(words: list[str]) -> subprocess.Popen:
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
    command = [sys.executable, "-m", "ds_bert.cli", "launch", "--max_restarts", "2", "--", *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_whole_job_and_ends_it(tmp_path: Path, number: signal.Signals) -> None:
    launcher = supervised([sys.executable, "-c", LAUNCHER_OF_RANK, RANK, str(tmp_path), "obedient"])
    wait_for(lambda: (tmp_path / "started").exists(), 20)
    family = psutil.Process(launcher.pid).children(recursive=True)
    assert len(family) == 2
    launcher.send_signal(number)
    launcher.communicate(timeout=20)
    assert launcher.returncode == 128 + number
    assert (tmp_path / f"signal-{number}").exists()
    wait_for(lambda: not any(map(is_alive, family)), 5)


def test_who_ignores_signals_is_killed_in_the_end(tmp_path: Path) -> None:
    command = ["setsid", sys.executable, "-c", RANK, str(tmp_path), "stubborn"]
    script = f"import subprocess, time; subprocess.Popen({command}); time.sleep(2); raise SystemExit(9)"
    supervisor = Supervisor([sys.executable, "-c", script], 0, patience=0.5)
    assert supervisor.run() == 9
    assert (tmp_path / "started").exists() and (tmp_path / f"signal-{signal.SIGTERM}").exists()
    wait_for(lambda: not supervisor._processes(), 5)


@pytest.mark.slow
def test_a_pretraining_goes_on_after_one_of_its_ranks_is_killed(tmp_path: Path) -> None:
    root, bin_folder = Path(__file__).resolve().parents[2], Path(sys.executable).parent
    data, model = prepare_data(tmp_path), write_model(tmp_path / "bert.json")
    script, out = str(root / "pipelines" / "pretrain.py"), tmp_path / "out"
    words = [str(bin_folder / "torchrun"), "--standalone", "--nproc_per_node", "2", script]
    words += ["--config_name", str(model), "--train_path", str(data), "--num_stages", "2", "--max_seq_length", "32"]
    words += ["--max_steps", "60", "--save_steps", "5", "--logging_steps", "1", "--disable_tqdm", "True"]
    job = supervised([*words, "--output_dir", str(out)])
    wait_for(lambda: len(checkpoints(out)) >= 1, 120)
    ranks = [
        process for process in psutil.Process(job.pid).children(recursive=True) if script in process.cmdline()[1:3]
    ]
    ranks[-1].kill()
    printed, _ = job.communicate(timeout=240)
    assert job.returncode == 0, printed
    assert printed.count("restart 1 of 2 with --resume") == 1
    assert checkpoints(out)[-1].name == "checkpoint-60"
    assert [entry["step"] for entry in read_log(out) if "train/loss" in entry] == list(range(1, 61))
    assert not any(map(is_alive, ranks))
