"""Saving and loading on a GPU: no memory of it, no wait for each tensor, pinned copies that other work goes beside."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ds_bert.checkpoint.saving import CheckpointSaver
from ds_bert.checkpoint.training_state import load_checkpoint
from tests.cuda.stage import SIZE, Case, Place, build
from tests.support.checkpoints import describe
from tests.support.fake_cuda import processes
from tests.support.fake_cuda.recording import RECORDER, Phase
from tests.support.fake_cuda.server import FakeCuda

SETTINGS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "fp32, 2bw, ZeRO 1": {"schedule": "2bw", "zero_stage": 1},
    "bf16, ZeRO 1": {"precision": "bf16", "zero_stage": 1},
    "fp16, 2bw, LAMB": {"precision": "fp16", "schedule": "2bw", "optimizer": "lamb"},
    "bf16, 2bw, ZeRO 1, LAMB": {"precision": "bf16", "schedule": "2bw", "zero_stage": 1, "optimizer": "lamb"},
}
EVERY = 100  # copies between two looks at the device's memory


@dataclass(frozen=True)
class Found:
    """What was recorded of "save", "copy" (of a save in the background) and "load", and bytes on the device.

    Args:
        phases: by name.
        more: the most bytes on the device during them, beyond those before.
        files: written by this process.
    """

    phases: dict[str, Phase]
    more: int
    files: int


def save_and_load(place: Place, settings: dict[str, Any], out: Path, stored: Path | None) -> Found:
    """Train, save at once and in the background, and load ``stored``, or what was saved."""
    from tests.support.fake_cuda.device import bytes_on_device  # only where the device is

    engine, toy, loader = build(Case(place, settings=settings), place.start())
    processes.peers_say(lambda rank, mine: mine)
    for step in range(3):
        engine.train_batch(loader.step(toy, step, SIZE, engine.micro_batches), 1e-3, votes=[0.0, 0.0])
    engine.drain()
    before, seen, record = bytes_on_device(), [0], RECORDER.copy

    def copy(*arguments: Any) -> None:
        record(*arguments)
        if RECORDER.now.copies.total() % EVERY == 1:
            seen.append(bytes_on_device() - before)

    RECORDER.copy = copy  # type: ignore[method-assign]
    saver = CheckpointSaver(out / "at once", engine, describe(engine), {})
    RECORDER.begin("save")
    path = saver.save()
    saver = CheckpointSaver(out / "background", engine, describe(engine), {}, in_background=True)
    RECORDER.begin("copy")
    saver.save()
    RECORDER.begin("between")
    saver.finish()
    RECORDER.begin("load")
    load_checkpoint(stored or path, engine)
    written = list((out / "at once").rglob("*.safetensors"))
    return Found(RECORDER.phases, max(*seen, bytes_on_device() - before), len(written))


@pytest.mark.parametrize("name", list(SETTINGS))
@pytest.mark.slow
def test_a_checkpoint_passes_the_device_by(fake_cuda: FakeCuda, tmp_path: Path, name: str) -> None:
    alone = fake_cuda.run(save_and_load, Place(), SETTINGS[name], tmp_path / "alone", None)
    stored = tmp_path / "alone" / "at once" / "checkpoint-3"
    others = [
        fake_cuda.run(
            save_and_load, Place(1, 0, replicas, replicas - 1), SETTINGS[name], tmp_path / str(replicas), stored
        )
        for replicas in (2, 3)
    ]
    for found in (alone, *others):
        assert found.more <= 1024  # a few scalars
        for phase in ("save", "copy"):
            recorded = found.phases[phase]
            assert recorded.kernels.keys() == {"copy"}
            assert recorded.copies.total() > found.files
            assert all(
                copy.pinned and copy.non_blocking and not copy.to_device
                for copy in recorded.copies
                if "tensors.py" in copy.place
            )
        at_once, in_background = (
            sum(count for wait, count in found.phases[phase].waits.items() if "tensors.py" in wait.place)
            for phase in ("save", "copy")
        )
        assert in_background == 1 and 1 <= at_once <= 2 * 4 < found.phases["save"].copies.total()
        loaded = found.phases["load"]
        assert loaded.kernels.keys() <= {"copy", "copy_", "fill_", "zero_"}, loaded.kernels
        assert any(copy.to_device for copy in loaded.copies)
    assert alone.files == 8 > others[0].files > 0
