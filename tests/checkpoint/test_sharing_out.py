"""Saving and loading without the device's memory: parts of tensors meet on the host of the process that writes them."""

from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from ds_bert.checkpoint import saving, tensors
from ds_bert.checkpoint.manifest import faults
from ds_bert.checkpoint.pretrained import PretrainedWeights
from ds_bert.checkpoint.saving import CheckpointSaver
from ds_bert.checkpoint.tensors import MOMENTS, TensorFolder, has_tensors
from ds_bert.checkpoint.training_state import load_checkpoint
from ds_bert.engine.engine import Engine
from ds_bert.engine.process_group import Grid, start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.modeling.model import build_config
from ds_bert.stage_map import StageMap
from ds_bert.training.pretraining import PretrainingObjective
from ds_bert.training.starting_model import build_engine, load_weights
from tests.support.checkpoints import contents, describe, same, state_of, toy_fields
from tests.support.memory import Allocations, on_host
from tests.support.processes import run_on_ranks
from tests.support.state import state_by_name
from tests.support.toy import global_batch, toy_map
from tests.support.training import micro_batches

STEPS, ROWS, PIECE = 2, 12, 2**12  # 12 rows are as many micro-batches for 1, 2 and 3 replicas


def _without_first_layer(name: str) -> bool:
    return not name.startswith("bert.encoder.layer.0.")


SETTINGS = [
    EngineSettings(zero_stage=zero, precision=precision, schedule=schedule)  # type: ignore[arg-type]
    for zero, precision, schedule in product((0, 1), ("fp32", "bf16"), ("1f1b", "2bw"))
] + [
    EngineSettings("sgd", {"momentum": 0.9}, zero_stage=1),
    EngineSettings("lamb", zero_stage=1, precision="bf16", is_trained=_without_first_layer),
    EngineSettings("sgd", {"momentum": 0.0}, is_trained=_without_first_layer, schedule="2bw", zero_stage=1),
]
MAPS = {"1x1": toy_map(1, 1), "1x2": toy_map(1, 2), "1x3": toy_map(1, 3), "2x2": toy_map(2, 2, [[3, 0], [1, 2]])}


def _engine(grid: Grid, settings: EngineSettings) -> Engine:
    config = build_config(toy_fields("bert"), "pretraining")
    micro_batches = ROWS // 2 // grid.num_replicas
    return build_engine(config, "pretraining", PretrainingObjective(), grid, settings, micro_batches)


def _train(engine: Engine, first: int, last: int) -> None:
    for step in range(first, last):
        engine.train_batch(micro_batches(engine.grid, global_batch(step, ROWS), 2), 1e-2)
    engine.drain()


def _stored(checkpoint: Path) -> dict[str, torch.Tensor]:
    weights = TensorFolder(checkpoint)
    found = {f"weights/{name}": weights.read(name) for name in weights.names()}
    if has_tensors(checkpoint, MOMENTS):
        moments = TensorFolder(checkpoint, MOMENTS)
        found |= {name: moments.read(name) for name in moments.names()}
    return found


def _merged(grid: Grid, engine: Engine) -> dict[str, torch.Tensor]:
    """All stages' state."""
    stages: list[Any] = [None] * grid.world_size
    dist.all_gather_object(stages, state_of(engine), group=engine.control)
    return {name: tensor for stage in stages for name, tensor in stage.items()}


def _round_trip(grid: Grid, settings: EngineSettings, out: Path, patch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Save and load; return the most bytes that it took on the device, and that the simple way takes."""
    peaks: list[int] = []

    def measured(function: Any, *arguments: Any) -> Any:
        with Allocations() as allocations:
            result = function(*arguments)
        peaks.append(allocations.peak)
        return result

    patch.setattr(saving, "bring_together", partial(measured, tensors.bring_together))  # in a thread, too
    engine = _engine(grid, settings)
    _train(engine, 0, STEPS)
    expected, own = _merged(grid, engine), state_of(engine)
    for in_background in (False, True):
        saver = CheckpointSaver(out / str(in_background), engine, describe(engine), {}, in_background=in_background)
        checkpoint = measured(saver.save)
        if in_background:
            _train(engine, STEPS, STEPS + 1)  # what is written must be a copy
        saver.finish()
        dist.barrier()
        assert faults(checkpoint) == [] and same(_stored(checkpoint), expected)
    files = [sorted((out / name / checkpoint.name).glob("*.safetensors")) for name in ("True", "False")]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]
    assert not same(state_of(engine), own)
    for other in (engine, _engine(grid, settings)):  # over what is there, and over first weights
        measured(load_checkpoint, checkpoint, other)
        assert same(state_of(other), own)
    fresh = _engine(grid, replace(settings, seed=5))
    measured(load_weights, fresh, PretrainedWeights(checkpoint, "bert"))
    found = state_of(fresh)
    weights = [name for name in own if name.startswith("weights/")]
    assert weights and all(torch.equal(found[name], own[name]) for name in weights)
    with Allocations() as simple:
        kept = state_by_name(engine.optimizer, STEPS)
    assert kept
    return max(peaks), simple.peak


def _round_trips(stage_map: StageMap, settings: list[EngineSettings], out: Path) -> list[tuple[int, int, int]]:
    """(bytes, bytes in the simple way, parameters) of each of the settings."""
    grid = start_process_group(stage_map, timeout_seconds=60)
    parameters = _engine(grid, EngineSettings()).module.parameters_by_name().values()
    found = []
    for number, one in enumerate(settings):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tensors, "_PIECE", PIECE)
            patch.setattr(tensors, "host_memory", on_host(tensors.host_memory))
            patch.setattr(dist, "all_gather_object", on_host(dist.all_gather_object))
            peaks = _round_trip(grid, one, out / str(number), patch)
        found.append((*peaks, sum(parameter.numel() for parameter in parameters)))
    return found


def _check(stage_map: StageMap, settings: list[EngineSettings], out: Path) -> None:
    for found in run_on_ranks(_round_trips, stage_map.world_size, stage_map, settings, out, timeout=240):
        for one, (peak, simple, parameters) in zip(settings, found, strict=True):
            assert peak <= 2 * PIECE < 0.5 * parameters, one
            assert simple >= 4 * parameters, f"the measure is blind: {one}"


@pytest.mark.slow
def test_a_round_trip_takes_no_memory_of_the_device(tmp_path: Path) -> None:
    """What is stored and loaded is what gathering everything gives, and it takes a piece at a time."""
    _check(MAPS["1x3"], SETTINGS[::3], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", MAPS)
def test_any_round_trip_takes_no_memory_of_the_device(tmp_path: Path, name: str) -> None:
    _check(MAPS[name], SETTINGS, tmp_path)


def _shuffled_moments(stage_map: StageMap, out: Path) -> None:
    """Save a state twice, the second time with moments in another order on some processes."""
    grid = start_process_group(stage_map, timeout_seconds=30)
    engine = _engine(grid, EngineSettings(zero_stage=1))
    _train(engine, 0, STEPS)
    for name in ("in order", "shuffled"):
        CheckpointSaver(out / name, engine, describe(engine), {}).save()
        for state in engine.optimizer.torch_optimizer.state.values() if grid.rank % 2 else ():
            items = list(state.items())
            state.clear()
            state.update(reversed(items))


def test_parts_meet_in_one_order(tmp_path: Path) -> None:
    run_on_ranks(_shuffled_moments, 4, toy_map(2, 2), tmp_path)
    in_order, shuffled = (contents(tmp_path / name / f"checkpoint-{STEPS}") for name in ("in order", "shuffled"))
    assert in_order == shuffled and any(name.startswith("optimizer") for name in in_order)
