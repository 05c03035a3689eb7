"""Every cut, replication and placement trains exactly as transformers and torch do on one process."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from ds_bert.engine.settings import EngineSettings
from tests.support.reference import Deviation, Trajectory, deviation, train_reference
from tests.support.toy import ENCODER_LAYERS, global_batch, toy_config, toy_map
from tests.support.training import Case, train_cases

STEPS, SEED = 20, 3
SHARED: dict[str, Any] = {"weight_decay": 0.01, "max_grad_norm": 1.8}
# name: (optimizer, its options, precision, learning rate, tolerance)
RUNS: dict[str, tuple[Any, dict[str, Any], Any, float, float]] = {
    "sgd": ("sgd", {}, "fp32", 0.1, 1e-5),
    "adamw": ("adamw", {}, "fp64", 1e-3, 1e-9),
    "adamw-fp32": ("adamw", {"eps": 1e-6}, "fp32", 1e-3, 1e-5),
}
# stages x replicas, the launcher ranks they run on, micro-batch sizes to take turns with
MAPS: dict[str, tuple[int, int, list[list[int]] | None, tuple[int, ...]]] = {
    "1x1": (1, 1, None, (2, 8, 1)),
    "2x1": (2, 1, None, (1, 2, 8)),
    "1x2": (1, 2, None, (4, 1, 2)),
    "2x2": (2, 2, None, (2, 1, 4)),
    "2x2 permuted": (2, 2, [[3, 1], [0, 2]], (4, 2, 1)),
    "4x1": (4, 1, None, (1, 4, 2)),
    "4x1 permuted": (4, 1, [[2], [0], [3], [1]], (2, 8, 1)),
    "3x1, embeddings and head alone": (3, 1, None, (2, 4, 1)),
    "3x2, embeddings and head alone": (3, 2, None, (2, 4, 1)),
}
QUICK_MAPS, QUICK_RUNS = ("1x1", "2x2 permuted"), (("sgd", 0), ("adamw", 1))
ALL = [(name, run, zero) for name in MAPS for run in RUNS for zero in (0, 1)]
QUICK = [(name, *run) for name in QUICK_MAPS for run in QUICK_RUNS]
SLOW = [pytest.param(*case, marks=pytest.mark.slow) for case in ALL if case not in QUICK]


@cache
def _reference(run: str) -> Trajectory:
    optimizer, options, precision, learning_rate, _ = RUNS[run]
    return train_reference(
        toy_config(),
        [global_batch(step) for step in range(STEPS)],
        seed=SEED,
        optimizer=optimizer,
        options=options,
        learning_rate=learning_rate,
        dtype=torch.float64 if precision == "fp64" else torch.float32,
        **SHARED,
    )


@cache
def _trajectories(name: str, quick: bool) -> dict[tuple[str, int], Trajectory]:
    """All quick runs of a map, or all others, on one set of processes."""
    stages, replicas, ranks, sizes = MAPS[name]
    cases = {}
    for index, run in enumerate(RUNS):
        optimizer, options, precision, learning_rate, _ = RUNS[run]
        for zero in (0, 1):
            settings = EngineSettings(optimizer, options, zero_stage=zero, precision=precision, seed=SEED, **SHARED)
            size = sizes[(index + zero) % len(sizes)]
            if quick == ((name, run, zero) in QUICK):
                cases[run, zero] = Case(settings, size, STEPS, learning_rate)
    results = train_cases(toy_map(stages, replicas, ranks), list(cases.values()))
    return dict(zip(cases, results, strict=True))


@pytest.mark.parametrize(("name", "run", "zero"), [*QUICK, *SLOW])
def test_trajectory_is_that_of_transformers(name: str, run: str, zero: int) -> None:
    tolerance = RUNS[run][-1]
    found = deviation(_trajectories(name, (name, run, zero) in QUICK)[run, zero], _reference(run))
    assert found.loss <= tolerance
    assert found.norm <= tolerance
    assert found.weights <= tolerance
    assert found.key_bias <= 1e-7


@pytest.mark.parametrize("run", list(RUNS))
def test_reference_clips_and_moves_every_weight(run: str) -> None:
    reference = _reference(run)
    assert (reference.norms > SHARED["max_grad_norm"]).sum() >= STEPS / 2
    initial = train_reference(
        toy_config(), [], seed=SEED, optimizer="sgd", options={}, learning_rate=0.0, **SHARED
    ).weights
    unmoved = [name for name in initial if np.array_equal(initial[name], reference.weights[name].astype(np.float32))]
    assert not unmoved


def test_batches_are_awkward() -> None:
    """Padded and full rows, rows without a masked word, micro-batches with unequal numbers of them."""
    batch = global_batch(0)
    padded, masked_words = ~batch["attention_mask"].all(axis=1), (batch["masked_labels"] != -100).sum(axis=1)
    assert padded.any() and not padded.all()
    assert (masked_words == 0).any()
    assert len(set(masked_words.reshape(-1, 2).sum(axis=1))) > 1


def test_deviation_sees_one_wrong_element() -> None:
    reference = _reference("sgd")
    name = f"bert.encoder.layer.{ENCODER_LAYERS - 1}.output.dense.bias"
    wrong = {**reference.weights, name: reference.weights[name].copy()}
    wrong[name][0] += 0.1 * np.abs(wrong[name]).max()
    found = deviation(Trajectory(reference.losses, reference.norms, wrong), reference)
    assert found.weights == pytest.approx(0.1, rel=0.5) and found == Deviation(0.0, 0.0, found.weights, 0.0)
