"""The guide for notebooks, run as it stands: one cell after the other in one process."""

import contextlib
import csv
import io
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import run_on_ranks
from tests.support.session import LAUNCHERS
from tests.support.text import write_model
from tests.system.test_finetune import BAD, GOOD

ROOT = Path(__file__).resolve().parents[2]
CELLS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "notebooks.md").read_text(), re.S)


def _run_cells(folder: str) -> str:
    """Run them; return what they print."""
    for name in LAUNCHERS:
        os.environ.pop(name, None)
    os.chdir(folder)
    names: dict[str, object] = {"__name__": "__main__"}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for number, cell in enumerate(CELLS):
            exec(compile(cell, f"cell {number}", "exec"), names)
    return printed.getvalue()


@pytest.mark.slow
def test_its_cells_run(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared, tmp_path / "data")
    write_model(tmp_path / "small.json")
    chance = random.Random(1)
    for name in ("train", "dev"):
        with open(tmp_path / f"{name}.csv", "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["sentence", "label"])
            rows.writerows([f"a {chance.choice((BAD, GOOD)[number % 2])} film", number % 2] for number in range(32))
    assert len(CELLS) == 5
    (printed,) = run_on_ranks(_run_cells, 1, str(tmp_path), timeout=180)
    assert "'accuracy': " in printed and "'score': " in printed
    assert "runs/text: --output_dir is not empty" in printed
    assert (tmp_path / "runs" / "text" / "checkpoint-110").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("job", ["pretrain", "finetune_glue", "few_shot"])
def test_a_job_is_a_module_outside_of_the_checkout(tmp_path: Path, job: str) -> None:
    """As a launcher starts it, from any folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", f"ds_bert.jobs.{job}"]
    shown = subprocess.run([*command, "--help"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert shown.returncode == 0 and "--output_dir" in shown.stdout
    refused = subprocess.run([*command, "--output_dir", "out"], cwd=tmp_path, env=environment, capture_output=True)
    assert refused.returncode == 2 and b"error: " in refused.stderr and not list(tmp_path.iterdir())
