"""All ranks' programs played together, as GPUs and NCCL would: they end; each remedy taken away, they do not."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch

from ds_bert.engine.optimizer import Optimizer
from tests.cuda.stage import EVALUATED, MICRO_BATCHES, SIZE, Case, Place, build
from tests.cuda.test_meta import MetaTraining, meta_train
from tests.support.fake_cuda.machine import Deadlock, Machine
from tests.support.fake_cuda.program import PROGRAM, Op
from tests.support.fake_cuda.server import FakeCuda
from tests.support.remedies import (
    with_a_clock_that_starts_late,
    with_one_group_for_both_directions,
    without_connecting,
)


def _without_own_stream() -> Any:
    make = Optimizer.__init__

    def making(self: Optimizer, *arguments: Any) -> None:
        make(self, *arguments)
        self._stream = torch.cuda.current_stream()

    return mock.patch.object(Optimizer, "__init__", making)


REMEDIES: dict[str, Callable[[], Any]] = {
    "channels connect before receives are posted": without_connecting,
    "each direction has a group of its own": with_one_group_for_both_directions,
    "the optimizer has a stream of its own": _without_own_stream,
    "the clock starts before receives are posted": with_a_clock_that_starts_late,
}
STEPS = 5
"""The third is followed by an evaluation."""


def run(case: Case, without: str = "") -> list[Op]:
    """Train, evaluate, predict and train on, on one rank; return its program."""
    with REMEDIES[without]() if without else nullcontext():
        grid = case.place.start()
        engine, toy, loader = build(case, grid)
        for step in range(STEPS):
            if step == 3:
                engine.drain()
                loader.measure(EVALUATED * SIZE * grid.num_replicas, SIZE)
                loader.predict(toy.lengths[: EVALUATED * SIZE * grid.num_replicas], SIZE)
            engine.train_batch(loader.step(toy, step, SIZE, MICRO_BATCHES), 1e-3, votes=[0.0])
        engine.drain()
    return PROGRAM.ops


def run_meta(case: MetaTraining) -> list[Op]:
    """Meta-train on one rank; return its program."""
    meta_train(case)
    return PROGRAM.ops


def play(fake_cuda: FakeCuda, run: Callable[..., list[Op]], case: Any, *arguments: Any) -> None:
    """Run a case on every rank of its grid, one by one, and play their programs together."""
    grid = case.place
    places = [Place(grid.stages, s, grid.replicas, r) for s in range(grid.stages) for r in range(grid.replicas)]
    Machine([fake_cuda.run(run, replace(case, place=place), *arguments) for place in places]).play()


def _settings(schedule: str) -> dict[str, Any]:
    return {"schedule": schedule, "zero_stage": 1, "precision": "bf16"}


QUICK = [(2, 1, "2bw")]
ALL = [(p, r, schedule) for p in (1, 2, 3) for r in (1, 2) for schedule in ("1f1b", "gpipe", "2bw") if p * r > 1]


@pytest.mark.parametrize(
    ("stages", "replicas", "schedule"),
    [pytest.param(*grid, marks=[] if grid in QUICK else pytest.mark.slow) for grid in ALL],
)
def test_no_schedule_hangs(fake_cuda: FakeCuda, stages: int, replicas: int, schedule: str) -> None:
    play(fake_cuda, run, Case(place=Place(stages, 0, replicas), settings=_settings(schedule)))


@pytest.mark.parametrize("optimizer", ["lamb", "sgd"])
@pytest.mark.slow
def test_no_optimizer_hangs(fake_cuda: FakeCuda, optimizer: str) -> None:
    play(fake_cuda, run, Case(place=Place(2, 0, 2), settings={**_settings("2bw"), "optimizer": optimizer}))


@pytest.mark.parametrize(("stages", "replicas", "in_flight"), [(2, 2, 2), (3, 1, 1)])
@pytest.mark.slow
def test_meta_training_does_not_hang(fake_cuda: FakeCuda, stages: int, replicas: int, in_flight: int) -> None:
    play(fake_cuda, run_meta, MetaTraining(Place(stages, 0, replicas), learner={"tasks_in_flight": in_flight}))


@pytest.mark.parametrize("schedule", ["2bw", "1f1b"])
@pytest.mark.parametrize("remedy", list(REMEDIES))
@pytest.mark.slow
def test_without_its_remedy_a_step_hangs(fake_cuda: FakeCuda, remedy: str, schedule: str) -> None:
    case = Case(place=Place(2), settings=_settings(schedule))
    with pytest.raises(Deadlock, match="rank 0"):
        play(fake_cuda, run, case, remedy)
