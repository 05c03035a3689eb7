"""A run that is killed again and again ends as the one that nothing disturbed; docs/experiments has the long form."""

import importlib.util
from pathlib import Path

import pytest

from ds_bert.checkpoint import folders
from ds_bert.checkpoint.manifest import faults

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "experiments" / "kill_recovery" / "run.py"
KILLS = 10


@pytest.mark.slow
def test_ten_kills(tmp_path: Path) -> None:
    specification = importlib.util.spec_from_file_location("kill_recovery", SCRIPT)
    assert specification and specification.loader
    experiment = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(experiment)
    said: list[str] = []
    done = experiment.campaign(tmp_path, KILLS, said.append)
    summary = experiment.summarize(done)
    assert len(done) == summary["kills"] >= KILLS and summary["inside saving"] >= KILLS // 2
    assert 0 < summary["of one rank"] < len(done)
    assert "to the bit" in said[-1]
    last = folders.checkpoints(tmp_path / f"run-{done[-1].run}")[-1]
    assert folders.step_of(last) == experiment.STEPS and faults(last) == []
