"""Any cut to any cut: the same state gives the same bytes, and the same course from there."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ds_bert.checkpoint.manifest import faults
from ds_bert.checkpoint.saving import save_checkpoint
from ds_bert.checkpoint.tensors import MOMENTS, TensorFolder
from ds_bert.checkpoint.training_state import load_checkpoint
from ds_bert.engine.engine import Engine
from ds_bert.engine.process_group import Grid, start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.stage_map import StageMap
from tests.support.checkpoints import contents, describe, toy_engine, train
from tests.support.processes import run_on_ranks
from tests.support.toy import toy_map

HALF, END, LEARNING_RATE = 3, 6, 1e-2
MAPS = {
    "1x1": toy_map(1, 1),
    "2x1": toy_map(2, 1),
    "1x2": toy_map(1, 2),
    "2x2": toy_map(2, 2),
    "4x1": toy_map(4, 1),
    "permuted 2x2": toy_map(2, 2, [[3, 1], [0, 2]]),
}
FAMILIES = ("bert", "albert")  # tied embeddings; tied embeddings and one encoder layer on all stages
CONFIGURATIONS = [(name, zero_stage) for name in MAPS for zero_stage in (0, 1)]


def _engine(grid: Grid, family: str, zero_stage: int) -> Engine:
    options = {"eps": 1e-4}  # as large as many a gradient, or rounding would take steps of its own
    return toy_engine(grid, EngineSettings(zero_stage=zero_stage, optimizer_options=options), family)  # type: ignore


def _save(folder: Path, engine: Engine) -> None:
    save_checkpoint(folder, engine, describe(engine), {"seed": engine.settings.seed})


def _run_alone(out: Path) -> None:
    """The run that nothing disturbs, on one process."""
    grid = start_process_group(toy_map(1, 1), timeout_seconds=60)
    for family in FAMILIES:
        engine = _engine(grid, family, zero_stage=0)
        for first, last in ((0, HALF), (HALF, END)):
            train(engine, first, last, LEARNING_RATE)
            _save(out / family / "alone", engine)


def _run_configurations(stage_map: StageMap, name: str, out: Path) -> None:
    """Under each ZeRO stage: write; read the run's half and rewrite it; go on from there."""
    grid = start_process_group(stage_map, timeout_seconds=60)
    for family in FAMILIES:
        for zero_stage in (0, 1):
            folder = out / family / f"{name} {zero_stage}"
            engine = _engine(grid, family, zero_stage)
            train(engine, 0, HALF, LEARNING_RATE)
            _save(folder / "written", engine)
            load_checkpoint(out / family / "alone" / f"checkpoint-{HALF}", engine)
            _save(folder / "rewritten", engine)
            train(engine, HALF, END, LEARNING_RATE)
            _save(folder / "continued", engine)


def _read_back(out: Path) -> None:
    """On one process: read what each configuration wrote, and rewrite it."""
    grid = start_process_group(toy_map(1, 1), timeout_seconds=60)
    for family in FAMILIES:
        engine = _engine(grid, family, zero_stage=0)
        for name, zero_stage in CONFIGURATIONS:
            folder = out / family / f"{name} {zero_stage}"
            load_checkpoint(folder / "written" / f"checkpoint-{HALF}", engine)
            _save(folder / "read back", engine)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What all runs wrote: {family}/{configuration}/{what}/checkpoint-{step}; processes are forks of one server."""
    out = tmp_path_factory.mktemp("resharding")
    run_on_ranks(_run_alone, 1, out, timeout=120)
    for name, stage_map in MAPS.items():
        run_on_ranks(_run_configurations, stage_map.world_size, stage_map, name, out, timeout=240)
    run_on_ranks(_read_back, 1, out, timeout=120)
    yield out


def assert_close(found: Path, expected: Path) -> None:
    """Compare weights within 1e-6, and all tensors within 1e-5 of their largest value.

    The keys' bias has no gradient but rounding, which Adam makes as large as any other: it is compared within 1e-6.
    """
    for kind in ("model", MOMENTS):
        ours, theirs = TensorFolder(found, kind), TensorFolder(expected, kind)
        assert set(ours.names()) == set(theirs.names()) and ours.names()
        for name in ours.names():
            difference = (ours.read(name) - theirs.read(name)).abs().max().item()
            assert difference <= 1e-6, name
            if not name.endswith("key.bias"):
                assert difference <= 1e-5 * theirs.read(name).abs().max().item(), name


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("name", "zero_stage"), CONFIGURATIONS)
def test_a_configuration(runs: Path, family: str, name: str, zero_stage: int) -> None:
    alone, folder = runs / family / "alone", runs / family / f"{name} {zero_stage}"
    half, end = f"checkpoint-{HALF}", f"checkpoint-{END}"
    canonical = contents(alone / half)
    assert any(file.startswith("model-") for file in canonical) and "trainer_state.json" in canonical
    assert contents(folder / "rewritten" / half) == canonical
    assert contents(folder / "read back" / half) == contents(folder / "written" / half)
    assert_close(folder / "written" / half, alone / half)
    assert_close(folder / "continued" / end, alone / end)
    for checkpoint in (folder / "written" / half, folder / "rewritten" / half, folder / "continued" / end):
        assert faults(checkpoint) == []


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_run_left_alone_moves_on(runs: Path, family: str) -> None:
    """Or else nothing above means anything."""
    half, end = (TensorFolder(runs / family / "alone" / f"checkpoint-{step}") for step in (HALF, END))
    assert all(not torch.equal(half.read(name), end.read(name)) for name in half.names())
    files = {file for file in contents(runs / family / "alone" / f"checkpoint-{HALF}") if file.startswith("model-")}
    assert len(files) == (6 if family == "bert" else 3)  # ALBERT's encoder layers are one
