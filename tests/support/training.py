"""Drive the engine on real processes, on the toy's global batches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from ds_bert.engine.engine import Engine
from ds_bert.engine.execution import MicroBatch
from ds_bert.engine.module import StageModule
from ds_bert.engine.process_group import Grid, start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.modeling.model import carry_declaration, initialize, model_layers
from ds_bert.stage_map import StageMap
from ds_bert.training.pretraining import PretrainingObjective, split_batch
from tests.support.processes import run_on_ranks
from tests.support.reference import Trajectory
from tests.support.state import state_by_name
from tests.support.toy import ROWS, global_batch, part, toy_config


@dataclass(frozen=True)
class Case:
    """One training run."""

    settings: EngineSettings
    micro_batch_size: int
    steps: int = 20
    learning_rate: float = 0.1
    dropout: float = 0.0
    rows: int = ROWS
    same_batch: bool = False
    """Whether every step gets the first global batch."""
    evaluate_every: int = 0
    """Steps between evaluations; 0 for none."""
    model: dict[str, Any] = field(default_factory=dict)

    def change(self, **settings: Any) -> "Case":
        """The same run with other settings."""
        return replace(self, settings=replace(self.settings, **settings))

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """The global batch of a step."""
        return global_batch(0 if self.same_batch else step, self.rows)


@dataclass(frozen=True)
class Result:
    """One process's view of a run."""

    losses: list[float]
    norms: list[float]
    weights: dict[str, np.ndarray]
    """What it computes with, by name; bfloat16 as float32."""


def build_engine(grid: Grid, cuts: Sequence[int], case: Case) -> Engine:
    """Build this process's stage of the toy with fresh weights."""
    config, settings = toy_config(case.dropout, **case.model), case.settings
    module = StageModule(model_layers(config, "pretraining"), cuts, grid, settings.seed, settings.recompute)
    for name, parameter in module.parameters_by_name().items():
        initialize(name, parameter.data, config.initializer_range, settings.seed, config.pad_token_id)

    carry = carry_declaration(config, settings.dtype)
    size = case.micro_batch_size
    micro_batches = case.rows // (size * grid.num_replicas)
    return Engine(module, carry, PretrainingObjective(), settings, grid, micro_batches)


def micro_batches(grid: Grid, batch: dict[str, np.ndarray], size: int) -> list[MicroBatch]:
    """This replica's micro-batches of up to ``size`` rows: every so manieth of the global batch's."""
    rows = len(batch["input_ids"])
    return [
        _micro_batch(grid, number, part(batch, number * size, min((number + 1) * size, rows)))
        for number in range(grid.replica, -(-rows // size), grid.num_replicas)
    ]


def _micro_batch(grid: Grid, number: int, rows: dict[str, np.ndarray]) -> MicroBatch:
    inputs, labels = split_batch(rows)
    shape = (*rows["input_ids"].shape, "attention_mask" in rows)
    return MicroBatch(number, shape, inputs if grid.is_first else None, labels if grid.is_last else None)


def train(grid: Grid, engine: Engine, case: Case, first_step: int = 0) -> Result:
    """Run the case's steps; report them and the weights at the end."""
    results = []
    for step in range(first_step, case.steps):
        results += engine.train_batch(micro_batches(grid, case.batch(step), case.micro_batch_size), case.learning_rate)
        if case.evaluate_every and (step + 1) % case.evaluate_every == 0:
            results += engine.drain()
            engine.evaluate(micro_batches(grid, global_batch(step, rows=5, seed=9), 3))
    results += engine.drain()
    assert [result.step for result in results] == list(range(first_step, case.steps))
    losses = [engine.objective.report(result.sums)["loss"] for result in results]
    return Result(losses, [result.grad_norm for result in results], weights(engine))


def weights(engine: Engine) -> dict[str, np.ndarray]:
    """The weights this process computes with; float64 stays, all else becomes float32."""
    widest = {name: parameter.detach() for name, parameter in engine.module.parameters_by_name().items()}
    return {
        name: (tensor if tensor.element_size() == 8 else tensor.float()).cpu().numpy().copy()
        for name, tensor in widest.items()
    }


def poison_one_step(grid: Grid, settings: EngineSettings) -> tuple[list[bool], list[bool], bool]:
    """Take five steps, step 2 with one gradient of NaN on the last rank.

    Returns:
        (skipped, weights stayed) of every step, and whether all weights are finite at the end.
    """
    case = Case(settings, micro_batch_size=2)
    engine = build_engine(grid, grid.stage_map.cuts, case)
    begin, skipped, stayed = engine.optimizer.begin, [], []

    def poisoned(step: int, *arguments: Any) -> Any:
        if step == 2 and grid.rank == grid.world_size - 1:
            engine.optimizer.buckets[0].gradients[step % engine.optimizer.slots][0] = math.nan
        return begin(step, *arguments)

    engine.optimizer.begin = poisoned  # type: ignore[method-assign]
    for step in range(5):
        before = state_by_name(engine.optimizer, step)[0]["weights"]
        results = engine.train_batch(micro_batches(grid, case.batch(step), 2), 0.1) + engine.drain()
        after = state_by_name(engine.optimizer, step + 1)[0]["weights"]
        skipped += [result.skipped for result in results]
        stayed.append(all(torch.equal(before[name], after[name]) for name in before))
    return skipped, stayed, all(bool(weight.isfinite().all()) for weight in after.values())


def _train_cases(stage_map: StageMap, cases: Sequence[Case]) -> list[Result]:
    grid = start_process_group(stage_map, timeout_seconds=30)
    return [train(grid, build_engine(grid, stage_map.cuts, case), case) for case in cases]


def train_cases(stage_map: StageMap, cases: Sequence[Case], timeout: float = 120) -> list[Trajectory]:
    """Train each of the cases, one after another on the same processes; check what the processes agree on."""
    by_rank = run_on_ranks(_train_cases, stage_map.world_size, stage_map, cases, timeout=timeout)
    return [merge(results) for results in zip(*by_rank, strict=True)]


def merge(results: Sequence[Result]) -> Trajectory:
    """Put the stages' weights together; losses, norms and weights held twice must be equal to the bit."""
    merged: dict[str, np.ndarray] = {}
    for result in results:
        assert result.losses == results[0].losses and result.norms == results[0].norms
        for name, value in result.weights.items():
            assert np.array_equal(merged.setdefault(name, value), value), f"{name} differs between processes"
    return Trajectory(np.array(results[0].losses), np.array(results[0].norms), merged)
