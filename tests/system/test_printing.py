"""A job that has trained ends with its results, whatever becomes of what it prints."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.jobs import REPOSITORY

JOB = REPOSITORY / "pipelines" / "pretrain.py"
STDOUT = {
    "latin-1": ("latin-1", ""),
    "ascii": ("ascii", ""),
    "a reader that has left": ("utf-8", "| true"),
    "nothing": ("utf-8", ">&- 2>&-"),
    "a full disk": ("utf-8", ">/dev/full"),
}


@pytest.mark.slow
@pytest.mark.parametrize("stdout", STDOUT)
def test_pre_training(tmp_path: Path, prepared: Path, model: Path, stdout: str) -> None:
    encoding, redirected = STDOUT[stdout]
    words = ["--config_name", model, "--train_path", prepared, "--output_dir", tmp_path / "out", "--max_steps", "4"]
    words += ["--max_seq_length", "32", "--max_predictions_per_seq", "5", "--logging_steps", "1"]
    ended = subprocess.run(
        ["bash", "-c", f'"$@" {redirected}; exit "${{PIPESTATUS[0]}}"', "bash", sys.executable, JOB, *words],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(REPOSITORY)},
        timeout=200,
    )
    assert ended.returncode == 0, ended.stderr
    assert b"Traceback" not in ended.stderr
    assert (tmp_path / "out" / "checkpoint-4" / "manifest.json").is_file()
    assert json.loads((tmp_path / "out" / "summary.json").read_text())
    if not redirected:
        assert "train/loss, steps 1 to 4" in ended.stdout.decode(encoding)
