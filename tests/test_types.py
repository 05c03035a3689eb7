"""The type checker sees through the engine: an attribute that it does not have is an error, not whatever one likes."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MISSPELT = """
from ds_bert.engine.engine import Engine
from ds_bert.meta.engine import MetaEngine


def use(engine: Engine, meta: MetaEngine) -> None:
    engine.no_such_attribute
    engine.optimiser.bind(0, 0)
    engine.optimizer.global_steps
    engine.grid.rnak
    meta.train_batches([], 0.1)
    engine.train_batch([], 0.1)
"""


@pytest.mark.slow
def test_misspelt_attributes_of_the_engine_are_found(tmp_path: Path) -> None:
    file = tmp_path / "misspelt.py"
    file.write_text(MISSPELT)
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = [line for line in done.stdout.splitlines() if "[attr-defined]" in line]
    assert [line.partition(":")[2].partition(":")[0] for line in found] == ["7", "8", "9", "10", "11"], done.stdout
