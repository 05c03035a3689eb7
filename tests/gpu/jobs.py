"""A real job: killed in mid-run, resumed, and compared with one that nothing disturbed.

python -m tests.gpu.traced tests.gpu.jobs FOLDER     # makes its data
"""

import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from ds_bert.checkpoint.manifest import Entry, faults, read_manifest
from tests.gpu.ranks import Bench, CheckFailed, Ranks, run_ranks

WORLD, VICTIM, SURVIVOR = 2, 1, 0
STEPS, SAVE_STEPS = 100, 20
END_SECONDS = 15.0  # that the survivor of a kill may take
SENTENCE = re.compile(
    r"^error: rank 0 \(stage 0, replica 0\): after step \d+: .*rank 1 \(stage 1, replica 0\).*", re.MULTILINE
)
NOISE = (
    10.0  # times by which two runs may differ more than two undisturbed ones, where kernels do not repeat themselves
)
OF_THE_CALL = ("arguments.json",)  # names the output folder
ARGUMENTS: dict[str, Any] = {
    "num_stages": WORLD,
    "max_steps": STEPS,
    "save_steps": SAVE_STEPS,
    "logging_steps": 10,
    "max_seq_length": 32,
    "max_predictions_per_seq": 5,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-3,
    "deepspeed_config": "fp32_zero1",
    "tf32": "false",
}


def prepare(folder: Path) -> None:
    """Make a corpus of made-up words, its data folder, and a model with dropout."""
    from tests.support.text import prepare_data, write_model

    folder.mkdir(parents=True, exist_ok=True)
    prepare_data(folder)
    write_model(folder / "bert.json")


def words(bench: Bench, output_dir: str) -> list[object]:
    """The job's command line."""
    flags = [word for name, value in ARGUMENTS.items() for word in (f"--{name}", value)]
    files = ["--train_path", bench.folder / "job/data", "--config_name", bench.folder / "job/bert.json"]
    return ["pipelines/pretrain.py", *flags, *files, "--output_dir", bench.folder / output_dir, "--disable_tqdm"]


def run_twice(bench: Bench) -> dict[str, Any]:
    """A check: the undisturbed job runs to its end; the figures say whether it repeats itself to the bit."""
    run_ranks(bench, ["tests.gpu.jobs", bench.folder / "job"], "job/printed", "cpu")
    for name in ("job/first", "job/second"):
        run_ranks(bench, words(bench, name), f"{name}-printed", count=WORLD)
    first, second = (last_checkpoint(bench.folder / name) for name in ("job/first", "job/second"))
    differing = differing_files(first, second)
    return {"same bits twice": not differing, "deviation of the second": deviation(second, first) if differing else 0.0}


def kill(bench: Bench) -> dict[str, Any]:
    """A check: SIGKILL of one rank ends the other in time, with its sentence and exit status 1; all saved is whole."""
    out, printed = bench.folder / "job/killed", bench.folder / "job/killed-printed"
    with Ranks(words(bench, "job/killed"), printed, bench.device, WORLD) as ranks:
        first = out / f"checkpoint-{SAVE_STEPS}"
        ranks.wait_for(first.is_dir, bench.deadline - END_SECONDS, f"{first.name} was written")
        os.kill(ranks.processes[VICTIM].pid, signal.SIGKILL)
        begin, survivor = time.monotonic(), ranks.processes[SURVIVOR]
        while survivor.poll() is None and time.monotonic() < begin + END_SECONDS:
            time.sleep(0.005)
        seconds, said = time.monotonic() - begin, ranks.printed(SURVIVOR)
        if survivor.poll() is None:
            raise CheckFailed(f"rank {SURVIVOR} still runs {END_SECONDS:g} s after rank {VICTIM} died\n{ranks.told()}")
    last_words = "\n".join(said.splitlines()[-10:])
    if (out / f"checkpoint-{STEPS}").is_dir():
        raise CheckFailed("the job came to its end before the kill: nothing is shown")
    if survivor.returncode != 1:
        raise CheckFailed(f"rank {SURVIVOR} ended with status {survivor.returncode}, not 1\n{last_words}")
    if len(SENTENCE.findall(said)) != 1:
        raise CheckFailed(f"rank {SURVIVOR} does not say, once, that rank {VICTIM} died\n{last_words}")
    for checkpoint in sorted(out.glob("checkpoint-*")):
        if found := faults(checkpoint):
            raise CheckFailed(found[0])
    return {"seconds to the survivor's end": round(seconds, 2), "sentence": SENTENCE.findall(said)[0]}


def resume(bench: Bench) -> dict[str, Any]:
    """A check: the killed job, resumed, ends with the bits of the undisturbed one.

    Where torch's kernels do not repeat themselves, the two undisturbed runs tell by how much: the resumed one may be
    `NOISE` times as far away.
    """
    run_ranks(bench, [*words(bench, "job/killed"), "--resume"], "job/resumed-printed", count=WORLD)
    said = (bench.folder / "job/resumed-printed/rank-0.txt").read_text()
    first, second, resumed = (last_checkpoint(bench.folder / f"job/{name}") for name in ("first", "second", "killed"))
    differing = differing_files(first, resumed)
    if not differing_files(first, second):
        if differing:
            names = f"{len(differing)} files, {differing[0]} the first,"
            raise CheckFailed(f"{names} differ from the undisturbed run's\n{said[-2000:]}")
        return {"compared": "to the bit"}
    away, noise = deviation(resumed, first), deviation(second, first)
    if not away <= NOISE * noise:
        raise CheckFailed(f"off by {away:.1e} from the undisturbed run, of which two differ by {noise:.1e} only")
    compared = "by tolerance: two undisturbed runs differ, as torch's kernels do not repeat themselves to the bit"
    return {"compared": compared, "deviation": away, "deviation of two undisturbed runs": noise}


def last_checkpoint(output_dir: Path) -> Path:
    """That of the last step.

    Raises:
        CheckFailed: it is missing or damaged.
    """
    checkpoint = output_dir / f"checkpoint-{STEPS}"
    if found := faults(checkpoint):
        raise CheckFailed(found[0])
    return checkpoint


def differing_files(one: Path, other: Path) -> list[str]:
    """The files of two checkpoints whose checksums differ, or that only one has."""
    entries: list[dict[str, Entry]] = [read_manifest(checkpoint) for checkpoint in (one, other)]
    names = entries[0].keys() | entries[1].keys()
    return sorted(n for n in names if n not in OF_THE_CALL and entries[0].get(n) != entries[1].get(n))


def deviation(found: Path, expected: Path) -> float:
    """The largest deviation of a weight or moment: of each tensor, max|a - b| / max|b|; the key bias absolute."""
    ours, theirs = (_tensors(checkpoint) for checkpoint in (found, expected))
    if ours.keys() != theirs.keys():
        raise CheckFailed(f"{found} and {expected} do not hold the same tensors")
    worst = 0.0
    for name, tensor in theirs.items():
        largest = 1.0 if name.endswith("key.bias") else max(float(np.abs(tensor).max()), 1e-12)
        worst = max(worst, float(np.abs(ours[name] - tensor).max()) / largest)
    return worst


def _tensors(checkpoint: Path) -> dict[str, np.ndarray]:
    return {name: item for path in sorted(checkpoint.glob("*.safetensors")) for name, item in load_file(path).items()}


def main(arguments: Sequence[str]) -> None:
    """Make the job's data and model."""
    prepare(Path(arguments[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
