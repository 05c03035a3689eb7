"""Every head, on BERT and on ALBERT, trains exactly as transformers and torch do on one process, whatever the cut."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from ds_bert.engine.engine import Engine
from ds_bert.engine.module import StageModule
from ds_bert.engine.process_group import Grid, start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.modeling.model import carry_declaration, initialize, model_layers
from ds_bert.stage_map import StageMap
from tests.support.fine_tuning import BEAM, examples, micro_batches, objective, reference
from tests.support.models import BOTH, CLASSES, toy_model
from tests.support.processes import run_on_ranks
from tests.support.reference import Trajectory, deviation
from tests.support.toy import ROWS, toy_map
from tests.support.training import Result, merge, weights

STEPS, SEED, LEARNING_RATE, MAX_NORM = 5, 3, 0.1, 1.0
# Biases that add the same to all logits of a softmax: without a gradient, but for rounding.
WITHOUT_GRADIENT = {
    "multiple-choice": ("key.bias", "classifier.bias"),
    "question-answering": ("key.bias", "qa_outputs.bias", "bert.encoder.layer.3.output.LayerNorm.bias"),
    BEAM: ("key.bias", "beam_head.start.bias", "beam_head.end.classifier.bias", "beam_head.end.LayerNorm.bias"),
}


@dataclass(frozen=True)
class Run:
    """One model to train."""

    family: str
    head: str
    model: dict[str, Any] = field(default_factory=dict)
    size: int = 2
    settings: dict[str, Any] = field(default_factory=dict)


HEADS = [head for head in CLASSES if head != "pretraining"] + [BEAM]
RUNS = {f"{family} {head}": Run(family, head) for family in BOTH for head in HEADS}
RUNS["albert pretraining"] = Run("albert", "pretraining")
RUNS["albert in groups"] = Run("albert", "pretraining", {"num_hidden_groups": 3, "inner_group_num": 2}, size=4)
RUNS["albert recomputed"] = Run("albert", "sequence-classification", settings={"recompute": True}, size=1)
RUNS["albert zero 1"] = Run("albert", "question-answering", settings={"zero_stage": 1}, size=4)
DROPOUT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "classifier_dropout_prob": 0.1}
# With rules of their own: what does not depend on the cut.
OTHERS = {
    "2bw": Run("albert", "pretraining", size=1, settings={"schedule": "2bw"}),
    "dropout": Run("albert", "multiple-choice", DROPOUT, settings={"schedule": "gpipe"}),
}


def _train(stage_map: StageMap, runs: Sequence[Run]) -> list[Result]:
    grid = start_process_group(stage_map, timeout_seconds=30)
    return [_train_run(grid, run) for run in runs]


def _train_run(grid: Grid, run: Run) -> Result:
    settings = EngineSettings("sgd", max_grad_norm=MAX_NORM, seed=SEED, **run.settings)
    config = toy_model(run.family, run.head, **run.model)
    layers = model_layers(config, run.head)
    module = StageModule(layers, grid.stage_map.cuts, grid, settings.seed, settings.recompute)
    for name, parameter in module.parameters_by_name().items():
        initialize(name, parameter.data, config.initializer_range, settings.seed, config.pad_token_id)
    carry = carry_declaration(config, settings.dtype)
    count = ROWS // (run.size * grid.num_replicas)
    engine = Engine(module, carry, objective(run.head), settings, grid, count)
    results = []
    for step in range(STEPS):
        batch = micro_batches(grid, run.head, examples(run.head, step), run.size)
        results += engine.train_batch(batch, LEARNING_RATE)
    results += engine.drain()
    losses = [engine.objective.report(result.sums)["loss"] for result in results]
    return Result(losses, [result.grad_norm for result in results], weights(engine))


@cache
def _trajectories(stages: int, replicas: int) -> dict[str, Trajectory]:
    runs = RUNS | OTHERS
    by_rank = run_on_ranks(_train, stages * replicas, toy_map(stages, replicas), list(runs.values()), timeout=120)
    return {name: merge(results) for name, results in zip(runs, zip(*by_rank, strict=True), strict=True)}


@cache
def _reference(name: str) -> Trajectory:
    run = RUNS[name]
    parameters, loss_of = reference(toy_model(run.family, run.head, **run.model), run.head, SEED)
    optimizer = torch.optim.SGD(parameters.values(), lr=LEARNING_RATE)
    losses, norms = [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(examples(run.head, step))
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters.values(), MAX_NORM).item())
        losses.append(loss.item())
        optimizer.step()
    final = {name: parameter.detach().numpy() for name, parameter in parameters.items()}
    return Trajectory(np.array(losses), np.array(norms), final)


def _check(name: str, found: Trajectory) -> None:
    _compare(found, _reference(name), WITHOUT_GRADIENT.get(RUNS[name].head, ("key.bias",)))


def _compare(found: Trajectory, expected: Trajectory, fixed: tuple[str, ...]) -> None:
    assert found.weights.keys() == expected.weights.keys()
    for parameter in [parameter for parameter in expected.weights if parameter.endswith(fixed)]:
        assert np.abs(found.weights[parameter] - expected.weights[parameter]).max() <= 1e-7, parameter
    moved = [
        Trajectory(run.losses, run.norms, {name: value for name, value in run.weights.items() if _moves(name, fixed)})
        for run in (found, expected)
    ]
    difference = deviation(*moved)
    assert difference.loss <= 1e-5 and difference.norm <= 1e-5 and difference.weights <= 1e-5, difference


def _moves(name: str, fixed: tuple[str, ...]) -> bool:
    return name.endswith("key.bias") or not name.endswith(fixed)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("stages", [1, 2])
def test_trajectory_is_that_of_transformers(stages: int, name: str) -> None:
    _check(name, _trajectories(stages, 1)[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize(("stages", "replicas"), [(4, 1), (2, 2)])
def test_trajectory_on_four_processes_is_that_of_transformers(stages: int, replicas: int, name: str) -> None:
    _check(name, _trajectories(stages, replicas)[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_shared_layers_do_not_depend_on_the_cut(name: str) -> None:
    _compare(_trajectories(4, 1)[name], _trajectories(1, 1)[name], WITHOUT_GRADIENT["multiple-choice"])


@pytest.mark.parametrize("name", RUNS)
def test_reference_moves_every_weight(name: str) -> None:
    run = RUNS[name]
    initial, _ = reference(toy_model(run.family, run.head, **run.model), run.head, SEED)
    fixed = WITHOUT_GRADIENT.get(run.head, ("key.bias",))
    final = _reference(name).weights
    assert not [
        parameter
        for parameter, value in initial.items()
        if not parameter.endswith(fixed) and np.array_equal(value.detach().numpy(), final[parameter])
    ]


def test_batches_are_awkward() -> None:
    """Padded and full rows, micro-batches of different lengths, unequal numbers of labels."""
    batch = examples("token-classification", 0)
    padded, counted = ~batch["attention_mask"].all(axis=1), (batch["labels"] != -100).sum(axis=1)
    assert padded.any() and not padded.all() and len(set(counted.reshape(-1, 2).sum(axis=1))) > 1
    assert len(set(batch["attention_mask"].sum(axis=1).reshape(-1, 2).max(axis=1))) > 1
    answers = examples(BEAM, 0)
    assert answers["is_impossible"].any() and (answers["end_positions"] > answers["start_positions"]).any()
