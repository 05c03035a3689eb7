"""What a job on real ranks says of its speed and memory, of slow ranks, and under the profiler."""

import gzip
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from ds_bert.training.log import read_log
from tests.support import jobs
from tests.support.jobs import Ended, pretrain
from tests.support.processes import run_on_ranks

LENGTH = 32
MAP = {"module_to_stage_map": [0, 0, 0, 1, 1, 1], "stage_to_rank_map": {"0": [3, 1], "1": [0, 2]}}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory, prepared: Path, model: Path) -> list[Any]:
    """Two stages of two replicas on permuted ranks, 12 steps."""
    folder = tmp_path_factory.mktemp("reporting")
    (folder / "map.json").write_text(json.dumps(MAP))
    arguments = {
        "config_name": str(model),
        "train_path": str(prepared),
        "stage_map": str(folder / "map.json"),
        "max_steps": 12,
        "max_seq_length": LENGTH,
        "max_predictions_per_seq": 5,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "logging_steps": 3,
        "save_steps": 0,
        "disable_tqdm": True,
    }
    (folder / "run.json").write_text(json.dumps(arguments))
    return [folder / "run.json"]


def _slow_on_rank_2(folder: str, words: list[str]) -> Ended:
    """The job, with a rank that takes 20 ms more for each micro-batch."""
    from ds_bert.engine.module import StageModule

    forward = StageModule.forward

    def slow(self: StageModule, *arguments: Any) -> Any:
        time.sleep(0.02)
        return forward(self, *arguments)

    if os.environ["RANK"] == "2":
        StageModule.forward = slow  # type: ignore[method-assign]
    return jobs._run("pipelines/pretrain.py", words, folder)


@pytest.mark.slow
def test_speed_memory_the_profile_and_a_slow_rank(tmp_path: Path, words: list[Any]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "out"
    flags = [*words, "--output_dir", out, "--profile_steps", "11-12", "--peak_tflops", 0.001]
    ended = run_on_ranks(_slow_on_rank_2, 4, str(tmp_path), [str(word) for word in flags])
    assert [rank.status for rank in ended] == [0] * 4
    entries = [entry for entry in read_log(out) if "train/loss" in entry]
    assert [entry["step"] for entry in entries] == [1, 3, 6, 9, 12]
    for entry in entries:
        rate = entry["train/samples_per_second"]
        assert entry["train/tokens_per_second_per_rank"] == pytest.approx(rate * LENGTH / 4)
        assert entry["train/share_of_peak"] > 0 and min(entry[f"train/memory_stage_{s}"] for s in (0, 1)) > 2**24
    summary = json.loads((out / "summary.json").read_text())
    share = [found["share_of_peak"] / found["samples_per_second"] for found in (summary,)]
    share += [entry["train/share_of_peak"] / entry["train/samples_per_second"] for entry in entries]
    assert share == pytest.approx([share[0]] * 6)
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    for key in ("tokens_per_second_per_rank", "share_of_peak", "memory_stage_1"):
        shown = {event.step: event.value for event in events.Scalars(f"train/{key}")}
        assert shown == pytest.approx({entry["step"]: entry[f"train/{key}"] for entry in entries}, rel=1e-6)

    printed = "".join(path.read_text() for path in sorted(tmp_path.glob("*.out.txt")))
    (note,) = (entry for entry in read_log(out) if "note" in entry and "rank 2 " in entry["note"])
    assert note["note"].startswith(f"step {note['step']}: rank 2 (stage 1, replica 1) on {os.uname().nodename} is slow")
    assert printed.count(note["note"]) == 1 and 7 <= note["step"] <= 12

    names = [f"rank-{rank}.json.gz" for rank in range(4)]
    assert sorted(path.name for path in (out / "profile").iterdir()) == names
    for name in names:
        events_of_rank = json.loads(gzip.decompress((out / "profile" / name).read_bytes()))["traceEvents"]
        assert any(event["name"] == "aten::addmm" for event in events_of_rank)
    assert printed.count("operations of rank 3 (stage 0, replica 0) by their own time, steps 11 to 12:") == 1
    assert printed.count("operations of rank") == 1


@pytest.mark.slow
def test_a_range_that_the_run_does_not_reach_is_refused_before_anything_is_written(
    tmp_path: Path, words: list[Any]
) -> None:
    flags = [*words, "--max_steps", -1, "--num_train_epochs", 0.01, "--output_dir", tmp_path / "out"]
    ended = pretrain(tmp_path, [*flags, "--profile_steps", "100000"], 4)
    assert [rank.status for rank in ended] == [2] * 4
    said = "".join(path.read_text() for path in tmp_path.glob("*.err.txt"))
    assert "error: --profile_steps is 100000, but the training has " in said and "Traceback" not in said
    assert not list((tmp_path / "out").iterdir())
    assert [rank.status for rank in pretrain(tmp_path, [*flags, "--profile_steps", "1"], 4)] == [0] * 4


@pytest.mark.slow
def test_a_resumed_run_has_the_same_products(tmp_path: Path, words: list[Any]) -> None:
    flags = [*words, "--max_steps", 1, "--output_dir", tmp_path / "out", "--tf32", "false"]
    pretrain(tmp_path, flags, 4)
    ended = pretrain(tmp_path / "again", [*flags, "--resume", "--tf32", "true"], 4)
    assert [rank.status for rank in ended] == [2] * 4
    said = (tmp_path / "again" / "0.err.txt").read_text()
    assert "checkpoint-1: was written with --tf32 False, now True" in said
