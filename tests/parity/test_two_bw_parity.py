"""PipeDream-2BW against its rule on one process: W(t+1) = W(t) - v * grad f(W(max(t-1, 0)))."""

from copy import deepcopy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from ds_bert.engine.settings import EngineSettings
from tests.support.reference import Trajectory, deviation, reference_loss, reference_model
from tests.support.toy import ENCODER_LAYERS, global_batch, toy_config, toy_map
from tests.support.training import Case, train_cases

STEPS, BOUND = 30, 1.0
SETTINGS = EngineSettings(weight_decay=0.01, max_grad_norm=BOUND, schedule="2bw", seed=1)
# AdamW in fp32 amplifies rounding in biases that have hardly moved, so that its exactness is shown in fp64.
OPTIMIZERS = {
    "sgd": (replace(SETTINGS, optimizer="sgd"), 0.1, 1e-5),
    "adamw": (replace(SETTINGS, optimizer="adamw", precision="fp64"), 1e-3, 1e-9),
}
PERMUTED = {(2, 2): [[3, 1], [0, 2]]}


@cache
def rule(optimizer: str, rows: int) -> Trajectory:
    """Train by the rule: the gradient is taken on a copy of the weights one version older than those it updates."""
    settings, learning_rate, _ = OPTIMIZERS[optimizer]
    newest = reference_model(toy_config(), settings.seed, settings.dtype)
    older = deepcopy(newest)
    decayed = [parameter for parameter in newest.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in newest.parameters() if parameter.ndim < 2]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[optimizer]
    torch_optimizer = kind(groups, lr=learning_rate, **settings.optimizer_options)
    losses, norms = [], []
    for step in range(STEPS):
        loss = reference_loss(older, global_batch(step, rows))
        gradients = torch.autograd.grad(loss, list(older.parameters()))
        # W(t) becomes the older version of the next global batch; batches 0 and 1 both use W(0).
        older = deepcopy(newest) if step else older
        for parameter, gradient in zip(newest.parameters(), gradients, strict=True):
            parameter.grad = gradient
        norms.append(torch.nn.utils.clip_grad_norm_(newest.parameters(), BOUND).item())
        losses.append(loss.item())
        torch_optimizer.step()
    weights = {name: parameter.detach().numpy() for name, parameter in newest.named_parameters()}
    return Trajectory(np.array(losses), np.array(norms), weights)


CASES = [
    (optimizer, stages, replicas, micro_batches, zero)
    for index, (stages, replicas, micro_batches) in enumerate(
        [(2, 1, 2), (2, 1, 4), (2, 1, 7), (2, 2, 2), (2, 2, 4), (2, 2, 7), (4, 1, 4), (4, 1, 8), (4, 1, 13)]
    )
    for optimizer, zero in (("sgd", index % 2), ("adamw", 1 - index % 2))
]
QUICK = {("sgd", 2, 1, 2, 0), ("adamw", 2, 1, 4, 0), ("adamw", 2, 2, 2, 0), ("adamw", 4, 1, 4, 1)}
LARGE = [(optimizer, 4, 2, micro_batches, 1) for optimizer in OPTIMIZERS for micro_batches in (4, 8, 13)]


def _check(optimizer: str, stages: int, replicas: int, micro_batches: int, zero: int) -> None:
    settings, learning_rate, tolerance = OPTIMIZERS[optimizer]
    case = Case(settings, 1, STEPS, learning_rate, rows=micro_batches * replicas).change(zero_stage=zero)
    stage_map = toy_map(stages, replicas, PERMUTED.get((stages, replicas)))
    (found,) = train_cases(stage_map, [case], timeout=240)
    expected = rule(optimizer, case.rows)
    assert (expected.norms > BOUND).mean() >= 0.5, "clipping is to be active"
    away = deviation(found, expected)
    assert max(away.loss, away.norm, away.weights) <= tolerance and away.key_bias <= 1e-6, away


@pytest.mark.parametrize(
    ("optimizer", "stages", "replicas", "micro_batches", "zero"),
    [case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_the_rule_on_any_cut(optimizer: str, stages: int, replicas: int, micro_batches: int, zero: int) -> None:
    _check(optimizer, stages, replicas, micro_batches, zero)


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "stages", "replicas", "micro_batches", "zero"), LARGE)
def test_the_rule_on_eight_processes(optimizer: str, stages: int, replicas: int, micro_batches: int, zero: int) -> None:
    _check(optimizer, stages, replicas, micro_batches, zero)


def test_the_rule_is_not_that_of_1f1b() -> None:
    settings, learning_rate, _ = OPTIMIZERS["sgd"]
    case = Case(settings, 1, STEPS, learning_rate, rows=4).change(schedule="1f1b")
    (flushing,) = train_cases(toy_map(2, 1), [case])
    assert deviation(flushing, rule("sgd", 4)).weights > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"precision": "bf16", "zero_stage": 1}, {"recompute": True, "zero_stage": 1}])
def test_draining_changes_nothing(changes: dict) -> None:
    """A run that drains to evaluate at odd moments ends with the same bits."""
    settings, learning_rate, _ = OPTIMIZERS["adamw"]
    plain = Case(settings, 1, 11, learning_rate, dropout=0.1, rows=8).change(**{"precision": "fp32", **changes})
    results = [train_cases(toy_map(2, 2), [replace(plain, evaluate_every=every)])[0] for every in (0, 1, 2, 3)]
    for other in results[1:]:
        assert np.array_equal(other.losses, results[0].losses) and np.array_equal(other.norms, results[0].norms)
        assert all(np.array_equal(other.weights[name], value) for name, value in results[0].weights.items())


@pytest.mark.slow
def test_dropout_and_recompute_do_not_depend_on_the_cut() -> None:
    settings, learning_rate, _ = OPTIMIZERS["sgd"]
    case = Case(settings, 1, 20, learning_rate, dropout=0.1, rows=8)
    cases = [case, case.change(recompute=True)]
    two, recomputed = train_cases(toy_map(2, 1), cases)
    (four,), (replicas,) = train_cases(toy_map(4, 1), [case]), train_cases(toy_map(2, 2), [case.change(zero_stage=1)])
    for other in (recomputed, four, replicas):
        away = deviation(other, two)
        assert max(away.loss, away.norm, away.weights) <= 1e-5
    assert len([name for name in two.weights if name.endswith("key.bias")]) == ENCODER_LAYERS
