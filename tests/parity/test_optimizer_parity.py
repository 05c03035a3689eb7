"""Each optimizer, on any cut, against itself written out tensor by tensor on one process."""

import math
from copy import deepcopy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from ds_bert.engine.settings import EngineSettings
from ds_bert.training.settings import LayerwiseDecay
from tests.support.reference import Trajectory, deviation, reference_loss, reference_model
from tests.support.toy import ENCODER_LAYERS, global_batch, toy_config, toy_map
from tests.support.training import Case, train_cases

STEPS, BOUND = 6, 1.0
LAMB = EngineSettings("lamb", {"eps": 1e-6}, weight_decay=0.01, max_grad_norm=BOUND, precision="fp64", seed=3)
ALBERT = replace(LAMB, optimizer_options={"eps": 1e-6, "bias_correction": False})
RUNS = {
    "lamb": LAMB,
    "lamb of albert": ALBERT,
    "lamb by layers": replace(LAMB, parameter_group=LayerwiseDecay(0.8, ENCODER_LAYERS)),
    "lamb in fp32": replace(LAMB, precision="fp32"),
    "lamb in 2bw": replace(ALBERT, schedule="2bw"),
    "adamw of albert": replace(ALBERT, optimizer="adamw"),
    "adamw by layers": replace(ALBERT, optimizer="adamw", parameter_group=LayerwiseDecay(0.8, ENCODER_LAYERS)),
    "adam": replace(LAMB, optimizer="adam"),
    "torch's adamw by layers": replace(LAMB, optimizer="adamw", parameter_group=LayerwiseDecay(0.8, ENCODER_LAYERS)),
}
# Under 2x2, ZeRO 1 cuts the word embeddings, tied between the stages, into four parts, and other tensors into two.
MAPS = {"1x1": toy_map(1, 1), "2x2 permuted": toy_map(2, 2, [[3, 1], [0, 2]])}
CASES = [
    (name, run, zero)
    for name, stage_map in MAPS.items()
    for run, settings in RUNS.items()
    for zero in range(stage_map.num_replicas)
    if stage_map.num_stages > 1 or settings.schedule == "1f1b"
]


def _learning_rate(run: str) -> float:
    return 1e-2 if run.startswith("lamb") else 1e-3


@cache
def _reference(run: str) -> Trajectory:
    """Update one tensor after the other as the papers have it."""
    settings = RUNS[run]
    newest = reference_model(toy_config(), settings.seed, settings.dtype)
    older = deepcopy(newest)
    delayed, correct = settings.schedule == "2bw", settings.optimizer_options.get("bias_correction", True)
    m = {name: torch.zeros_like(weight) for name, weight in newest.named_parameters()}
    v = deepcopy(m)
    losses, norms = [], []
    for step in range(STEPS):
        model = older if delayed else newest
        loss = reference_loss(model, global_batch(step))
        gradients = dict(
            zip(m, torch.autograd.grad(loss, [weight for _, weight in model.named_parameters()]), strict=True)
        )
        older = deepcopy(newest) if step else older
        norm = math.sqrt(sum((gradient.double() ** 2).sum().item() for gradient in gradients.values()))
        losses.append(loss.item())
        norms.append(norm)
        for name, weight in newest.named_parameters():
            group = settings.parameter_group(name, weight.ndim)
            gradient = gradients[name] * min(1.0, BOUND / (norm + 1e-6))
            decay = settings.weight_decay * weight.detach() if group.decays else torch.zeros(())
            if settings.optimizer == "adam":  # decays by the gradient, not beside it
                gradient, decay = gradient + decay, torch.zeros(())
            m[name] = 0.9 * m[name] + 0.1 * gradient
            v[name] = 0.999 * v[name] + 0.001 * gradient**2
            corrections = (1 - 0.9 ** (step + 1), 1 - 0.999 ** (step + 1)) if correct else (1.0, 1.0)
            update = m[name] / corrections[0] / ((v[name] / corrections[1]).sqrt() + 1e-6)
            update += decay
            ratio = 1.0
            if settings.optimizer == "lamb" and group.decays and weight.any() and update.any():
                ratio = (weight.detach().double().norm() / update.double().norm()).item()
            weight.data -= _learning_rate(run) * group.lr_scale * ratio * update
    weights = {name: weight.detach().numpy() for name, weight in newest.named_parameters()}
    return Trajectory(np.array(losses), np.array(norms), weights)


@cache
def _trajectories(name: str) -> dict[tuple[str, int], Trajectory]:
    """All runs of a map, on one set of processes."""
    cases = {
        (run, zero): Case(replace(RUNS[run], zero_stage=zero), 2, STEPS, _learning_rate(run))
        for map_name, run, zero in CASES
        if map_name == name
    }
    return dict(zip(cases, train_cases(MAPS[name], list(cases.values())), strict=True))


@pytest.mark.parametrize(
    ("name", "run", "zero"),
    [case if case[0] == "1x1" else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_trajectory_is_that_of_the_paper(name: str, run: str, zero: int) -> None:
    tolerance = 1e-5 if RUNS[run].precision == "fp32" else 1e-9
    found = deviation(_trajectories(name)[run, zero], _reference(run))
    assert max(found.loss, found.norm, found.weights) <= tolerance and found.key_bias <= 1e-7, found


def test_the_runs_differ_and_clip() -> None:
    """No run passes because its setting does nothing."""
    references = {run: _reference(run) for run in RUNS if run != "lamb in fp32"}
    for run, reference in references.items():
        assert (reference.norms > BOUND).sum() >= STEPS / 2
        others = [other for other in references.values() if other is not reference]
        assert all(deviation(reference, other).weights > 1e-3 for other in others), run
