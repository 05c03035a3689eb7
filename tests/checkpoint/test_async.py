"""Saving while training goes on; a disk that is full."""

import errno
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
import torch.distributed as dist

from ds_bert.checkpoint import folders, saving
from ds_bert.checkpoint.manifest import faults
from ds_bert.checkpoint.saving import CheckpointSaver
from ds_bert.checkpoint.training_state import load_newest
from ds_bert.engine.process_group import start_process_group
from ds_bert.engine.settings import EngineSettings
from tests.support.checkpoints import contents, describe, state_of, toy_engine, train
from tests.support.processes import run_on_ranks
from tests.support.toy import toy_map

SETTINGS = EngineSettings(zero_stage=1)


def _after(gate: Event, write: Callable[..., Any]) -> Callable[..., Any]:
    """A disk that writes nothing before the gate is open."""

    def write_late(*arguments: Any) -> Any:
        assert gate.wait(50)
        return write(*arguments)

    return write_late


def _train_and_save(out: Path, in_background: bool, settings: EngineSettings) -> dict[str, Any]:
    """Save at steps 2, 3 and 5 of 6; return the state at the end, and what was seen meanwhile."""
    engine = toy_engine(start_process_group(toy_map(2, 2), timeout_seconds=60), settings)
    saver = CheckpointSaver(out, engine, describe(engine), {}, keep=2, in_background=in_background)
    gate = Event()
    if in_background:
        saving.write_tensors = _after(gate, saving.write_tensors)  # type: ignore[attr-defined]
    train(engine, 0, 2)
    path = saver.save()
    seen: dict[str, Any] = {"written at once": path.exists()}
    train(engine, 2, 3)
    seen["trained meanwhile"] = not path.exists()
    gate.set()
    saver.save()
    seen["waited for the one before"] = path.exists()
    train(engine, 3, 5)
    saver.save()
    train(engine, 5, 6)
    saver.finish()
    seen["done"] = (out / "checkpoint-5").exists()
    saver.finish()
    return seen | {"state": state_of(engine)}


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(SETTINGS, id="1f1b"),
        pytest.param(replace(SETTINGS, schedule="2bw"), id="2bw", marks=pytest.mark.slow),
    ],
)
def test_in_the_background_the_same_is_written_and_trained(tmp_path: Path, settings: EngineSettings) -> None:
    at_once = run_on_ranks(_train_and_save, 4, tmp_path / "at once", False, settings, timeout=120)
    in_background = run_on_ranks(_train_and_save, 4, tmp_path / "background", True, settings, timeout=120)
    for left, right in zip(at_once, in_background, strict=True):
        ours, theirs = left.pop("state"), right.pop("state")
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert left == dict.fromkeys(left, True) | {"trained meanwhile": False}
        assert right == dict.fromkeys(right, True) | {"written at once": False}
    names = [path.name for path in folders.checkpoints(tmp_path / "background")]
    assert names == ["checkpoint-3", "checkpoint-5"]
    for name in names:
        assert faults(tmp_path / "background" / name) == []
        assert contents(tmp_path / "background" / name) == contents(tmp_path / "at once" / name)
    assert (tmp_path / "background" / "latest").read_text() == "checkpoint-5\n"


def _fail_on(out: Path, rank: int, where: str, in_background: bool) -> tuple[str, int]:
    """Save at step 1; fail at step 2 on one rank; go on and save at step 3. Return what the failure said, and when."""
    grid = start_process_group(toy_map(2, 1), timeout_seconds=60)
    engine = toy_engine(grid, EngineSettings())
    saver = CheckpointSaver(out, engine, describe(engine), {}, in_background=in_background)
    train(engine, 0, 1)
    saver.save()
    saver.finish()

    def fail(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))

    place = saving.folders if where == "commit" else saving
    working = getattr(place, where)
    train(engine, 1, 2)
    if grid.rank == rank:
        setattr(place, where, fail)
    failed_at, said = 0, ""
    try:
        saver.save()
        train(engine, 2, 3)
        saver.finish()
    except RuntimeError as failure:
        failed_at, said = engine.steps_done, str(failure)
    setattr(place, where, working)
    dist.barrier()  # rank 0 has cleaned up
    assert not folders.partial_folder(out, 2).exists() and not (out / "checkpoint-2").exists()
    assert [path.name for path in folders.checkpoints(out)] == ["checkpoint-1"]
    assert load_newest(out, engine).name == "checkpoint-1"
    train(engine, 1, 3)
    saver.save()
    saver.finish()
    return said, failed_at


@pytest.mark.parametrize("in_background", [False, True])
@pytest.mark.parametrize(("rank", "where"), [(1, "write_tensors"), (0, "write_tensors"), (0, "commit")])
def test_a_full_disk_ends_the_attempt_on_all_ranks(tmp_path: Path, rank: int, where: str, in_background: bool) -> None:
    by_rank = run_on_ranks(_fail_on, 2, tmp_path, rank, where, in_background)
    for said, failed_at in by_rank:
        assert said.startswith(
            f"the checkpoint of step 2 could not be written: rank {rank} (stage {rank}, replica 0): "
        )
        assert "No space left on device: '" in said and said.endswith("; checkpoint-1 is as it was")
        assert failed_at == (3 if in_background else 2)
    assert [path.name for path in folders.checkpoints(tmp_path)] == ["checkpoint-1", "checkpoint-3"]
    assert faults(tmp_path / "checkpoint-3") == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _fill(out: Path, in_background: bool) -> tuple[str, int]:
    """Train and save until the disk is full; then go on from what is there."""
    engine = toy_engine(start_process_group(toy_map(2, 1), timeout_seconds=60), EngineSettings())
    saver = CheckpointSaver(out, engine, describe(engine), {}, in_background=in_background)
    with pytest.raises(RuntimeError) as failure:
        for step in range(100):
            train(engine, step, step + 1)
            saver.save()
    return str(failure.value), folders.step_of(load_newest(out, engine))


@pytest.mark.parametrize("in_background", [False, True])
def test_a_full_file_system_leaves_the_checkpoints_before(small_disk: Path, in_background: bool) -> None:
    by_rank = run_on_ranks(_fill, 2, small_disk, in_background)
    whole = folders.checkpoints(small_disk)
    assert len(whole) >= 2 and not [fault for checkpoint in whole for fault in faults(checkpoint)]
    for said, step in by_rank:
        assert "No space left on device" in said and "could not be written: rank " in said
        assert said.endswith(f"; checkpoint-{step} is as it was") and step == len(whole)
    files = {"latest", "config.json", "model.safetensors.index.json"}
    assert {path.name for path in small_disk.iterdir()} == {*(path.name for path in whole), *files}
    places = json.loads((small_disk / "model.safetensors.index.json").read_text())["weight_map"].values()
    assert {place.partition("/")[0] for place in places} == {whole[-1].name}


def _write_elsewhere(out: Path) -> str:
    grid = start_process_group(toy_map(2, 1), timeout_seconds=60)
    engine = toy_engine(grid, EngineSettings())
    saver = CheckpointSaver(out / str(grid.rank), engine, describe(engine), {})
    with pytest.raises(RuntimeError) as failure:
        saver.save()
    return str(failure.value)


def test_an_output_folder_that_is_not_shared(tmp_path: Path) -> None:
    for said in run_on_ranks(_write_elsewhere, 2, tmp_path):
        assert "not all processes write to the same folder" in said and said.endswith("there is no earlier one")
    assert not folders.checkpoints(tmp_path / "0") and not folders.checkpoints(tmp_path / "1")
