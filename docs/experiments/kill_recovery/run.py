"""Kill a training run again and again; see that it never loses more than the steps since its last checkpoint.

    python docs/experiments/kill_recovery/run.py --output_dir runs/kills --kills 200

A tiny BERT with dropout is pre-trained as two stages of two replicas on permuted ranks, and saved every two steps, in
the background after every other start. SIGKILL hits one rank or all of them, half of the times while a checkpoint is
being written, otherwise at any moment, the start included. After each kill all checkpoints must be whole and none may
be gone; the run goes on with --resume, and at its end weights, moments and state must be those of the run that nothing
disturbed, to the bit. Then the next run begins, until there were enough kills.

Every kill is a line in `kills.jsonl`; the same command goes on from there. The last lines printed are the summary.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))
os.environ.update(DS_ACCELERATOR="cpu", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")

from ds_bert.checkpoint import folders  # noqa: E402
from ds_bert.checkpoint.manifest import faults  # noqa: E402
from tests.support.checkpoints import contents  # noqa: E402
from tests.support.jobs import Pretraining  # noqa: E402
from tests.support.processes import Failed, Returned  # noqa: E402
from tests.support.text import prepare_data, write_model  # noqa: E402

WORLD, STEPS, SAVE_STEPS = 4, 24, 2
MAP = {"module_to_stage_map": [0, 0, 0, 1, 1, 1], "stage_to_rank_map": {"0": [3, 1], "1": [0, 2]}}
ARGUMENTS = {
    "max_steps": STEPS,
    "save_steps": SAVE_STEPS,
    "max_seq_length": 32,
    "max_predictions_per_seq": 5,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "learning_rate": 3e-3,
    "logging_steps": 1,
    "deepspeed_config": "fp32_zero1",
    "ddp_timeout": 30,
    "disable_tqdm": True,
}
LOG = "kills.jsonl"
POLL = 0.0005  # seconds


@dataclass(frozen=True)
class Kill:
    """One kill, and what was there after it.

    Args:
        run: number of the run.
        inside: whether a checkpoint was being written.
        rank: that was killed; None for all.
        seconds: since the start.
        newest: step of the newest checkpoint afterwards; 0 for none.
        seconds_to_end: until all ranks had ended.
    """

    run: int
    inside: bool
    rank: int | None
    seconds: float
    newest: int
    seconds_to_end: float


@dataclass(frozen=True)
class Undisturbed:
    """The run that nothing disturbed.

    Args:
        final: the files of its last checkpoint.
        seconds: that it took.
    """

    final: dict[str, bytes]
    seconds: float


@dataclass(frozen=True)
class Moment:
    """When to kill what: ``delay`` seconds after the start, or after the beginning of the ``saves``-th save."""

    saves: int
    delay: float
    rank: int | None


def prepare(folder: Path) -> list[Any]:
    """Make data, a model and a stage map, unless they are there; return the job's words."""
    if not (folder / "run.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder / "data", ignore_errors=True)
        data = prepare_data(folder)
        model = write_model(folder / "bert.json")
        (folder / "map.json").write_text(json.dumps(MAP))
        files = {"train_path": str(data), "config_name": str(model), "stage_map": str(folder / "map.json")}
        (folder / "run.json").write_text(json.dumps(ARGUMENTS | files))
    return [folder / "run.json"]


def run_undisturbed(folder: Path, words: list[Any]) -> Undisturbed:
    """Train once without a kill."""
    shutil.rmtree(folder / "undisturbed", ignore_errors=True)
    begin = time.monotonic()
    job = Pretraining(folder / "undisturbed", [*words, "--output_dir", folder / "undisturbed" / "out"], WORLD)
    _check_success(job.wait(300), job)
    seconds = time.monotonic() - begin
    return Undisturbed(contents(folder / "undisturbed" / "out" / f"checkpoint-{STEPS}"), seconds)


def live(folder: Path, run: int, words: list[Any], moment: Moment | None, keep: int = 0) -> Kill | None:
    """Start or go on with a run until its moment, then kill; return None where it came to its end before.

    Args:
        folder, run, words: of the campaign, the run's number, the job's.
        moment: None to let it come to its end.
        keep: the run's --save_total_limit.
    """
    out, begin, before = folder / f"run-{run}", time.monotonic(), _newest(folder / f"run-{run}")
    words = [*words, "--output_dir", out, "--save_total_limit", keep, "--resume"]
    job = Pretraining(folder / f"printed-{run}", words, WORLD)
    if moment is None or _comes_to_its_end_before(moment, job, out):
        _check_success(job.wait(300), job)
        check_checkpoints(out, before, keep)
        return None
    for victim in range(WORLD) if moment.rank is None else [moment.rank]:
        job.signal(victim, signal.SIGKILL)
    was_inside, killed = _is_saving(out), time.monotonic()
    hung = [str(outcome) for outcome in job.wait(90).values() if "still running" in str(outcome)]
    assert not hung, f"run {run}: {hung[0]}"
    newest = check_checkpoints(out, before, keep)
    return Kill(run, was_inside, moment.rank, round(killed - begin, 3), newest, round(time.monotonic() - killed, 3))


def check_checkpoints(out: Path, before: int, keep: int) -> int:
    """See that all checkpoints are there that must be, and whole; return the step of the newest, 0 for none.

    Args:
        out: the run's folder.
        before: step of the newest one that was there.
        keep: how many of the newest must be there; 0 for all. A kill may have come before the others were removed.
    """
    steps = [folders.step_of(checkpoint) for checkpoint in folders.checkpoints(out)]
    newest = max(steps, default=0)
    written = list(range(SAVE_STEPS, newest + 1, SAVE_STEPS))
    assert newest >= before, f"{out}: checkpoint-{before} was there, now checkpoint-{newest} is the newest"
    is_complete = len(steps) >= len(written[-keep:]) and steps == written[len(written) - len(steps) :]
    assert is_complete, f"{out}: has the checkpoints of steps {steps}, written were those of {written}"
    found = [fault for checkpoint in folders.checkpoints(out) for fault in faults(checkpoint)]
    assert not found, f"{out}: {found[0]}"
    return newest


def _comes_to_its_end_before(moment: Moment, job: Pretraining, out: Path) -> bool:
    """Wait for the moment; return whether the run ended before it came."""
    for _ in range(moment.saves):
        if _wait(job, 300, lambda: not _is_saving(out)) or _wait(job, 300, lambda: _is_saving(out)):
            return True
    return _wait(job, moment.delay, lambda: False)


def _wait(job: Pretraining, seconds: float, happened: Callable[[], bool]) -> bool:
    """Wait until something has happened or the time is up; return True if the run ended before."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not happened():
        if all(connection.poll() for connection in job.ranks._connections):
            return True
        time.sleep(POLL)
    return False


def _is_saving(out: Path) -> bool:
    return any(out.glob(".checkpoint-*.partial"))


def _newest(out: Path) -> int:
    found = folders.checkpoints(out)
    return folders.step_of(found[-1]) if found else 0


def _check_success(outcomes: dict[int, Returned | Failed], job: Pretraining) -> None:
    for rank, outcome in outcomes.items():
        assert isinstance(outcome, Returned) and outcome.value.status == 0, f"rank {rank}: {outcome}\n{job.printed()}"


def campaign(folder: Path, kills: int, say: Callable[[str], None] = print, keep: int = 0) -> list[Kill]:
    """Kill until there were ``kills``, half of them inside saving; return them all.

    Args:
        folder: where all of it lies.
        kills: how many.
        say: told of each, and of each run's end.
        keep: --save_total_limit of every other run, the first among them; the others keep all.

    Raises:
        AssertionError: a checkpoint was lost or damaged, a run hung, or its end is not that of the undisturbed run.
    """
    words = prepare(folder)
    undisturbed = run_undisturbed(folder, words)
    log = folder / LOG
    done = [Kill(**json.loads(line)) for line in log.read_text().splitlines()] if log.is_file() else []
    run = max((int(path.name.partition("-")[2]) for path in folder.glob("run-*")), default=0)
    while True:
        moment = _next_moment(done, kills, undisturbed.seconds, random.Random(f"{len(done)} {run}"))
        kill = live(folder, run, words + ["--save_async"] * (len(done) % 2), moment, 0 if run % 2 else keep)
        if kill:
            done.append(kill)
            with open(log, "a") as file:
                file.write(json.dumps(asdict(kill)) + "\n")
            say(f"{len(done)}: {kill}")
            continue
        final = contents(folder / f"run-{run}" / f"checkpoint-{STEPS}")
        differing = sorted(
            name for name in final.keys() | undisturbed.final if final.get(name) != undisturbed.final.get(name)
        )
        assert not differing, f"run {run}: {', '.join(differing)} differ from the undisturbed run's"
        say(f"run {run} ended as the undisturbed one, to the bit")
        if moment is None:
            return done
        (folder / f"run-{run + 1}").mkdir()
        shutil.rmtree(folder / f"run-{run}")
        run += 1


def _next_moment(done: list[Kill], kills: int, seconds: float, chance: random.Random) -> Moment | None:
    """Choose the next kill, of the kind that is rarer so far; None where there were enough of both."""
    insides = sum(kill.inside for kill in done)
    others = len(done) - insides
    if insides >= kills // 2 and len(done) >= kills:
        return None
    rank = chance.choice([None, chance.randrange(WORLD)])
    if insides <= others:
        return Moment(chance.randrange(1, 4), chance.uniform(0, 0.05), rank)
    return Moment(0, chance.uniform(0, seconds), rank)


def summarize(done: list[Kill]) -> dict[str, Any]:
    """Count kills by kind, and the seconds that the survivors took to end."""
    of_one = [kill for kill in done if kill.rank is not None]
    return {
        "kills": len(done),
        "inside saving": sum(kill.inside for kill in done),
        "of one rank": len(of_one),
        "runs that were killed": len({kill.run for kill in done}),
        "before the first checkpoint": sum(kill.newest == 0 for kill in done),
        "slowest end of survivors, seconds": max((kill.seconds_to_end for kill in of_one), default=0.0),
    }


def main() -> None:
    """Run the experiment and print its summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=200)
    arguments = parser.parse_args()
    done = campaign(arguments.output_dir.resolve(), arguments.kills)
    print("\n".join(f"{name}: {value}" for name, value in summarize(done).items()))


if __name__ == "__main__":
    main()
