"""CA-MTL on several tasks trains exactly as the model written out does on one process, whatever the cut."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from ds_bert.engine.engine import Engine
from ds_bert.engine.execution import MicroBatch
from ds_bert.engine.module import StageModule
from ds_bert.engine.process_group import Grid, start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.modeling.conditional import MultitaskHead
from ds_bert.modeling.model import carry_declaration, initialize, model_layers
from ds_bert.multitask.job import split_tasks
from ds_bert.multitask.model import Frozen
from ds_bert.multitask.objective import objective_of
from ds_bert.stage_map import StageMap
from tests.support.conditional import batch_loss
from tests.support.models import chain, toy_model
from tests.support.processes import run_on_ranks
from tests.support.reference import Trajectory, deviation
from tests.support.toy import ROWS, global_batch, part, toy_map
from tests.support.training import Result, merge, weights

STEPS, SEED, LEARNING_RATE = 4, 3, 0.1
TASKS = [
    {"name": "two", "labels": ["a", "b"]},
    {"name": "number", "labels": []},
    {"name": "three", "labels": list("abc")},
]
OBJECTIVE = objective_of([(task["name"], len(task["labels"])) for task in TASKS])


@dataclass(frozen=True)
class Run:
    """One model to train."""

    kind: str
    size: int = 2
    frozen_layers: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    dropout: float = 0.0


RUNS = {
    "base": Run("base"),
    "base, whole batches": Run("base", size=4),
    "large": Run("large"),
    "large, recomputed, one by one": Run("large", size=1, settings={"recompute": True}),
    "none": Run("none"),
    "base, frozen": Run("base", frozen_layers=2),
    "base, all layers frozen": Run("base", size=4, frozen_layers=4),
    "large, frozen": Run("large", size=4, frozen_layers=3),
    "none, frozen": Run("none", frozen_layers=2),
}
DROPPING = {"base, dropping": Run("base", dropout=0.1)}


def config_of(run: Run) -> Any:
    """A toy whose first weights are so large that float32 does not lose the gradient of large's first bottleneck."""
    fields = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), run.dropout)
    fields |= {"initializer_range": 0.1, "conditional": run.kind, "conditional_length": 16}
    return toy_model("bert", "sequence-classification", tasks=TASKS, **fields)


def examples(step: int) -> dict[str, np.ndarray]:
    """A global batch of mixed tasks; in every second one, a task is absent."""
    random = np.random.default_rng([7, step])
    batch = global_batch(step)
    tasks = random.integers(0, 3 - step % 2, ROWS)
    labels = np.where(tasks == 1, random.normal(0, 1, ROWS), random.integers(0, 2 + (tasks == 2)))
    inputs = {name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
    return {**inputs, "task_ids": tasks.astype(np.int64), "labels": labels.astype(np.float32)}


def micro_batches(grid: Grid, step: int, size: int) -> list[MicroBatch]:
    made = []
    for number in range(grid.replica, ROWS // size, grid.num_replicas):
        inputs, labels = split_tasks(part(examples(step), number * size, (number + 1) * size))
        shape = (*inputs["input_ids"].shape, int("attention_mask" in inputs))
        made.append(MicroBatch(number, shape, inputs if grid.is_first else None, labels if grid.is_last else None))
    return made


def _train(stage_map: StageMap, runs: dict[str, Run]) -> list[Result]:
    grid = start_process_group(stage_map, timeout_seconds=60)
    return [_train_run(grid, run) for run in runs.values()]


def _train_run(grid: Grid, run: Run) -> Result:
    is_trained = {"is_trained": Frozen(run.frozen_layers)} if run.frozen_layers else {}
    settings = EngineSettings("sgd", seed=SEED, **run.settings, **is_trained)
    config = config_of(run)
    module = StageModule(model_layers(config, MultitaskHead), grid.stage_map.cuts, grid, SEED, settings.recompute)
    for name, parameter in module.parameters_by_name().items():
        initialize(name, parameter.data, config.initializer_range, SEED, config.pad_token_id)
    count = ROWS // (run.size * grid.num_replicas)
    engine = Engine(module, carry_declaration(config, settings.dtype), OBJECTIVE, settings, grid, count)
    results = []
    for step in range(STEPS):
        results += engine.train_batch(micro_batches(grid, step, run.size), LEARNING_RATE)
    results += engine.drain()
    losses = [engine.objective.report(result.sums)["loss"] for result in results]
    return Result(losses, [result.grad_norm for result in results], weights(engine))


@cache
def _trajectories(stages: int, replicas: int) -> dict[str, Trajectory]:
    runs = RUNS | DROPPING
    by_rank = run_on_ranks(_train, stages * replicas, toy_map(stages, replicas), runs, timeout=180)
    return {name: merge(results) for name, results in zip(runs, zip(*by_rank, strict=True), strict=True)}


@cache
def _initial(kind: str) -> dict[str, np.ndarray]:
    model = chain(config_of(Run(kind)), MultitaskHead, SEED)
    return {name: parameter.detach().numpy().copy() for name, parameter in model.parameters.items()}


@cache
def _reference(kind: str, frozen_layers: int) -> Trajectory:
    config = config_of(Run(kind))
    is_trained = Frozen(frozen_layers) if frozen_layers else lambda name: True
    parameters = {name: torch.tensor(value) for name, value in _initial(kind).items()}
    trained = [parameter.requires_grad_() for name, parameter in parameters.items() if is_trained(name)]
    losses, norms = [], []
    for step in range(STEPS):
        loss = batch_loss(config, parameters, {name: torch.from_numpy(item) for name, item in examples(step).items()})
        gradients = torch.autograd.grad(loss, trained)
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm().item()
        factor = min(1.0, 1.0 / (norm + 1e-6))
        with torch.no_grad():
            for parameter, gradient in zip(trained, gradients, strict=True):
                parameter -= LEARNING_RATE * factor * gradient
        losses.append(loss.item())
        norms.append(norm)
    final = {name: parameter.detach().numpy() for name, parameter in parameters.items()}
    return Trajectory(np.array(losses), np.array(norms), final)


def _compare(found: Trajectory, expected: Trajectory, run: Run) -> None:
    """Compare what is trained; what is frozen must be as it was to the bit."""
    is_trained = Frozen(run.frozen_layers) if run.frozen_layers else lambda name: True
    for name, value in _initial(run.kind).items():
        if not is_trained(name):
            assert np.array_equal(found.weights[name], value), name
    parts = []
    for trajectory in (found, expected):
        moved = {name: value for name, value in trajectory.weights.items() if is_trained(name)}
        parts.append(Trajectory(trajectory.losses, trajectory.norms, moved))
    difference = deviation(*parts)
    assert difference.loss <= 1e-5 and difference.norm <= 1e-5 and difference.weights <= 1e-5, difference


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize(
    ("stages", "replicas"),
    [(2, 1), *(pytest.param(*cut, marks=pytest.mark.slow) for cut in ((1, 1), (4, 1), (1, 2), (2, 2)))],
)
def test_trajectory_is_that_of_the_model_written_out(stages: int, replicas: int, name: str) -> None:
    run = RUNS[name]
    _compare(_trajectories(stages, replicas)[name], _reference(run.kind, run.frozen_layers), run)


@pytest.mark.parametrize("name", ["base", "base, frozen", "base, all layers frozen", "large, frozen"])
def test_every_conditional_parameter_is_trained(name: str) -> None:
    """In frozen layers, too: with matrices alone, with norms and the bottleneck, with the side stream."""
    final = _trajectories(1, 1)[name].weights
    unchanged = [key for key, value in _initial(RUNS[name].kind).items() if np.array_equal(final[key], value)]
    assert not [key for key in unchanged if key.startswith("conditional.")]


@pytest.mark.slow
@pytest.mark.parametrize(("stages", "replicas"), [(2, 1), (4, 1), (2, 2)])
def test_dropout_does_not_depend_on_the_cut(stages: int, replicas: int) -> None:
    (name,) = DROPPING
    _compare(_trajectories(stages, replicas)[name], _trajectories(1, 1)[name], DROPPING[name])
