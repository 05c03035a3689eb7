"""Bytes that a rank's device holds for each parameter between two steps: as many as the guide says."""

import re
from typing import Any

import pytest

from tests.cuda.cases import MIDDLE, ONLY
from tests.cuda.stage import Case, Place, run
from tests.support.fake_cuda.server import FakeCuda
from tests.support.jobs import REPOSITORY

# Large enough that what buckets are padded with, and a last message, hardly count.
MODEL = {"hidden_size": 256, "intermediate_size": 1024, "vocab_size": 5003}
# Settings, the guide's row, and how many replicas share the optimizer.
HELD: dict[str, tuple[dict[str, Any], str, int]] = {
    "fp32": ({}, "fp32", 1),
    "fp32, adam, ZeRO 1": ({"optimizer": "adam", "zero_stage": 1}, "fp32", 2),
    "fp32, 2bw": ({"schedule": "2bw"}, "fp32, 2bw", 1),
    "fp32, 2bw, ZeRO 1": ({"schedule": "2bw", "zero_stage": 1}, "fp32, 2bw", 4),
    "fp32, sgd": ({"optimizer": "sgd"}, "fp32", 1),
    "bf16": ({"precision": "bf16"}, "bf16", 1),
    "bf16, gpipe, ZeRO 1": ({"precision": "bf16", "schedule": "gpipe", "zero_stage": 1}, "bf16", 2),
    "bf16, LAMB, ZeRO 1": ({"precision": "bf16", "optimizer": "lamb", "zero_stage": 1}, "bf16", 4),
    "bf16, 2bw": ({"precision": "bf16", "schedule": "2bw"}, "bf16, 2bw", 1),
    "bf16, 2bw, ZeRO 1": ({"precision": "bf16", "schedule": "2bw", "zero_stage": 1}, "bf16, 2bw", 4),
    "fp16, without bias correction": (
        {"precision": "fp16", "optimizer_options": {"bias_correction": False}},
        "fp16",
        1,
    ),
    "fp16, 2bw, sgd": ({"precision": "fp16", "schedule": "2bw", "optimizer": "sgd"}, "fp16, 2bw", 1),
}
QUICK = ("bf16, 2bw, ZeRO 1",)


def guide() -> dict[str, tuple[int, ...]]:
    """The guide's table: bytes of weights, gradients, master copy and moments, by precision and schedule."""
    text = (REPOSITORY / "docs" / "guide.md").read_text()
    rows = re.findall(r"^\| (\w+)(?: or (\w+))?(, 2bw)? \|((?: \d+ \|){5})$", text, re.M)
    table: dict[str, tuple[int, ...]] = {}
    for *precisions, schedule, cells in rows:
        *parts, total = map(int, re.findall(r"\d+", cells))
        assert sum(parts) == total
        table |= {precision + schedule: tuple(parts) for precision in precisions if precision}
    return table


@pytest.mark.parametrize(
    "stage", [pytest.param(ONLY, id="only", marks=pytest.mark.slow), pytest.param(MIDDLE, id="middle")]
)
@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in HELD])
def test_a_parameter_takes_as_many_bytes_as_the_guide_says(fake_cuda: FakeCuda, name: str, stage: Place) -> None:
    settings, row, sharing = HELD[name]
    weights, gradients, master, moments = guide()[row]
    moments = 0 if settings.get("optimizer") == "sgd" else moments
    found = fake_cuda.run(run, Case(Place(stage.stages, stage.stage, sharing), model=MODEL, settings=settings))
    assert found.parameters > 100_000
    assert found.bytes_held / found.parameters == pytest.approx(
        weights + gradients + (master + moments) / sharing, rel=0.02 if sharing == 1 else 0.04
    )  # shards end at whole rows of 1,024 elements


@pytest.mark.slow
def test_without_zero_replicas_share_nothing(fake_cuda: FakeCuda) -> None:
    found = fake_cuda.run(run, Case(Place(3, 1, 2), model=MODEL, settings={"precision": "bf16"}))
    assert found.bytes_held / found.parameters == pytest.approx(sum(guide()["bf16"]), rel=0.02)
