"""The job under 2BW and GPipe: what resumes, evaluates and saves, and what of it changes the numbers."""

from pathlib import Path
from typing import Any

import pytest

from ds_bert.checkpoint.folders import checkpoints
from tests.support.jobs import pretrain
from tests.system.test_pretrain import STEPS, THREE, assert_close, assert_same_bits, base, losses, two_by_two

__all__ = ["THREE", "base", "two_by_two"]


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory: pytest.TempPathFactory, two_by_two: list[Any]) -> Path:
    """The output folder of a 2BW run that saves and evaluates at its end only."""
    folder = tmp_path_factory.mktemp("two_bw")
    run(folder, [*two_by_two, "--schedule", "2bw", "--save_steps", 0])
    return folder / "out"


def run(folder: Path, words: list[Any], world_size: int = 4) -> Path:
    """Pre-train into ``folder/out`` and expect success."""
    ended = pretrain(folder, [*words, "--output_dir", folder / "out"], world_size)
    assert [rank.status for rank in ended] == [0] * world_size
    return folder / "out"


def test_two_bw_learns_and_reports_every_step(left_alone: Path) -> None:
    found = losses(left_alone)
    assert list(found) == list(range(1, STEPS + 1)) and found[STEPS] < found[1] - 0.1


@pytest.mark.slow
def test_evaluating_and_saving_at_odd_moments_changes_no_bit(
    tmp_path: Path, two_by_two: list[Any], left_alone: Path
) -> None:
    out = run(tmp_path, [*two_by_two, "--schedule", "2bw", "--save_steps", 5, "--eval_steps", 3])
    assert len(checkpoints(out)) == 5
    assert_same_bits(out, left_alone)
    assert losses(out) == losses(left_alone)


def test_two_bw_resumes_with_both_versions(tmp_path: Path, two_by_two: list[Any], left_alone: Path) -> None:
    words = [*two_by_two, "--schedule", "2bw", "--save_steps", 7]
    out = run(tmp_path / "first", words)
    for folder in checkpoints(out)[1:]:
        folder.rename(tmp_path / folder.name)
    ended = pretrain(tmp_path / "second", [*words, "--output_dir", out, "--resume"], 4)
    assert [rank.status for rank in ended] == [0] * 4
    assert_same_bits(out, left_alone)


@pytest.mark.slow
def test_two_bw_on_three_stages(tmp_path: Path, base: list[Any], left_alone: Path) -> None:
    """A stage between the first and the last learns the shapes of what it gets."""
    words = [*base, "--gradient_accumulation_steps", 8, "--schedule", "2bw", "--save_steps", 0]
    assert_close(run(tmp_path, [*words, "--stage_map", base[0].parent / "three.json"], 3), left_alone, 1e-5)


@pytest.mark.slow
def test_gpipe_ends_where_1f1b_does(tmp_path: Path, two_by_two: list[Any]) -> None:
    outs = [run(tmp_path / name, [*two_by_two, "--schedule", name, "--save_steps", 0]) for name in ("1f1b", "gpipe")]
    assert_close(*outs, 1e-5)
