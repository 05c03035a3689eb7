"""What `make gpu-check` runs on a GPU, on the fake device: every number comes from there, and no device is mixed up."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks import gpu_stage
from tests.gpu import memory, parity
from tests.support.fake_cuda.server import FakeCuda
from tests.support.toy import SIZES

NAMES = ("1f1b, lamb, bf16", "1f1b, adamw, fp16", "2bw, sgd, fp32")


def compute() -> set[str]:
    """The names of all that is compared, in some of the cases, each of two steps."""
    parity.CASES = {name: replace(parity.CASES[name], steps=2) for name in NAMES}
    parity.DROPPING = {name: replace(case, steps=2) for name, case in parity.DROPPING.items()}
    parity.POISONED = {"1f1b, fp16": parity.POISONED["1f1b, fp16"]}
    parity.PAUSE = 1
    found = parity.compute(parity.WORLDS["one-stage"], "cuda")
    assert all(isinstance(array, np.ndarray) for array in found.values())
    return set(found)


@pytest.mark.slow
def test_parity(fake_cuda: FakeCuda) -> None:
    names = fake_cuda.run(compute, timeout=280)
    for kind, cases in (("plain", NAMES), ("dropping", parity.DROPPING)):
        for name in cases:
            assert {f"{kind}/{name}/{part}" for part in ("losses", "norms", "evaluated", "predicted")} <= names


def test_the_memory_of_a_save(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    assert len(fake_cuda.run(memory.measure, tmp_path, SIZES)) == 3
    assert (tmp_path / "out" / "checkpoint-1").is_dir()


def steps_per_second() -> float:
    gpu_stage.SIZES["tiny"] = (2, 16, 2)
    gpu_stage.MICRO_BATCH[128] = 2
    return gpu_stage.sequences_per_second(gpu_stage.ds_bert_step("tiny", 128), 2, steps=3)


def test_speed(fake_cuda: FakeCuda) -> None:
    """A step's result comes with the next one."""
    assert fake_cuda.run(steps_per_second) > 0
