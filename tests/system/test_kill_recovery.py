"""A run that is killed again and again ends as the one that nothing disturbed; docs/experiments has the long form."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from ds_bert.checkpoint import folders
from ds_bert.checkpoint.manifest import faults
from tests.support.checkpoints import write_checkpoint

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "experiments" / "kill_recovery" / "run.py"
KILLS = 10


def load_experiment() -> Any:
    specification = importlib.util.spec_from_file_location("kill_recovery", SCRIPT)
    assert specification and specification.loader
    experiment = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(experiment)
    return experiment


@pytest.mark.slow
def test_ten_kills(tmp_path: Path) -> None:
    """Every other run keeps two checkpoints only."""
    experiment = load_experiment()
    said: list[str] = []
    done = experiment.campaign(tmp_path, KILLS, said.append, keep=2)
    summary = experiment.summarize(done)
    assert len(done) == summary["kills"] >= KILLS and summary["inside saving"] >= KILLS // 2
    assert 0 < summary["of one rank"] < len(done)
    assert "to the bit" in said[-1]
    last = folders.checkpoints(tmp_path / f"run-{done[-1].run}")[-1]
    assert folders.step_of(last) == experiment.STEPS and faults(last) == []


@pytest.mark.parametrize(
    ("steps", "before", "keep", "passes"),
    [
        ([], 0, 0, True),
        ([2, 4, 6], 4, 0, True),
        ([2, 6], 4, 0, False),
        ([4, 6], 4, 0, False),
        ([2, 4], 6, 0, False),
        ([], 2, 0, False),
        ([2], 2, 2, True),
        ([4, 6], 4, 2, True),
        ([2, 4, 6], 4, 2, True),
        ([6], 4, 2, False),
        ([2, 6], 4, 2, False),
    ],
)
def test_a_lost_checkpoint_is_noticed(tmp_path: Path, steps: list[int], before: int, keep: int, passes: bool) -> None:
    experiment = load_experiment()
    for step in steps:
        write_checkpoint(tmp_path, step)
    if passes:
        assert experiment.check_checkpoints(tmp_path, before, keep) == max(steps, default=0)
    else:
        with pytest.raises(AssertionError, match="checkpoint"):
            experiment.check_checkpoints(tmp_path, before, keep)
