"""Learning one small task after another on a pipeline, by a meta-learned or by a plain method, and measuring each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from ds_bert.engine.execution import MicroBatch, warm_up
from ds_bert.engine.module import StageModule
from ds_bert.engine.process_group import Grid
from ds_bert.engine.timeline import Timeline
from ds_bert.engine.transport import Transport
from ds_bert.meta.data_loader import micro_batch
from ds_bert.meta.execution import TaskExecution, Unit
from ds_bert.meta.inner_weights import FineTunedLabels, FineTunedWeights, InnerWeights, LabelWeights, StageWeights
from ds_bert.meta.task import Method, RunningTask
from ds_bert.meta.tasks.episode import Episode, stratified_order
from ds_bert.training.settings import learning_rate

_FOR_EVER = timedelta(days=1000)
_AHEAD = 16  # most batches of a test set that wait for a slower stage


@dataclass(frozen=True)
class Recipe:
    """A way to learn a task.

    Args:
        method: how classes are told apart.
        is_adapted: which parameters are changed.
        rate: peak of what multiplies the learned step sizes, or of AdamW's learning rate; 0: nothing is changed.
        by_adamw: which of the two.
    """

    method: Method
    is_adapted: Callable[[str], bool]
    rate: float
    by_adamw: bool = False


@dataclass(frozen=True)
class Adaptation:
    """How long a task is learned.

    Args:
        epochs: most passes over the support set.
        batch_size: examples of a step.
        loss_threshold: an epoch's mean loss below which it ends; 0 for none.
        max_steps: most steps; 0 for any number.
        warmup_ratio: share of the steps over which the rate rises.
        eval_batch_size: examples of a batch of the test set.
        seed: of order and dropout.
        rates: their course after the warm-up, see `ds_bert.training.settings.learning_rate`.
    """

    epochs: int
    batch_size: int
    loss_threshold: float
    max_steps: int
    warmup_ratio: float
    eval_batch_size: int
    seed: int
    rates: str = "linear"


@dataclass
class _Run:
    """One task under way, and its place among all that its order and dropout follow from."""

    task: RunningTask
    episode: Episode
    number: int


class FewShot:
    """Learns tasks on this process's stage; the same calls are made on every rank of a replica.

    Args:
        module: this stage's layers, with their weights.
        declare_carry: the tensors that cross a boundary.
        grid: this process's place.
        course: how long.
        at_once: tasks that are to be in flight.
        traced: steps whose times are kept, see `ds_bert.engine.timeline.Timeline`; those of all tasks of this process's
            replica count, in the order in which they are taken.
    """

    def __init__(
        self,
        module: StageModule,
        declare_carry: Callable[..., Any],
        grid: Grid,
        course: Adaptation,
        at_once: int,
        traced: range | int = 0,
    ) -> None:
        self.at_once = at_once
        self.module, self.declare_carry, self.grid, self.course = module, declare_carry, grid, course
        self.transport, self.parameters = Transport(grid), module.parameters_by_name()
        self.timeline = Timeline(grid.device, traced)
        self.steps_done = 0  # of all tasks
        self._is_ready = False
        last, replicas = grid.num_stages - 1, grid.num_replicas
        groups = [
            grid.new_group([grid.rank_of(stage, replica) for stage in range(grid.num_stages)], backend="gloo")
            for replica in range(replicas)
        ]
        self.pipeline, self.last_rank = groups[grid.replica], grid.rank_of(last, grid.replica)

    def learn(self, recipe: Recipe, episodes: Sequence[Episode], numbers: Sequence[int]) -> list[dict[str, float]]:
        """Learn tasks, all in flight at once, and measure them.

        Args:
            recipe: how.
            episodes: with as many support examples and classes each.
            numbers: of the tasks, which the order of their examples and dropout follow from.

        Returns:
            For each the accuracy on its query set, the steps taken, and the last epoch's mean loss.
        """
        weights = StageWeights(self.parameters, recipe.is_adapted)
        execution = TaskExecution(self.module, self.declare_carry, self.grid, weights, self.transport, self.timeline)
        runs = []
        for episode, number in zip(episodes, numbers, strict=True):
            inner = (FineTunedWeights if recipe.by_adamw else InnerWeights)(weights)
            labels = FineTunedLabels if recipe.by_adamw else LabelWeights
            runs.append(_Run(RunningTask(recipe.method, weights, inner, labels), episode, number))
            runs[-1].task.num_classes = episode.num_classes
        self._get_ready(weights, runs[0])
        self.module.train(recipe.rate > 0)
        self._generate(execution, runs, whole=not recipe.rate)
        found = self._train(execution, runs, recipe.rate) if recipe.rate else [(0, 0.0)] * len(runs)
        self.module.eval()
        correct = [self._measure(execution, run) for run in runs]
        self.timeline.collect()
        return [
            {"accuracy": accuracy, "steps": steps, "loss": loss}
            for accuracy, (steps, loss) in zip(correct, found, strict=True)
        ]

    def _get_ready(self, weights: StageWeights, run: _Run) -> None:
        """Before anything is posted ahead, see `ds_bert.engine.execution.warm_up`; once only."""
        if not self._is_ready and self.grid.num_stages > 1:
            weights.bind(run.task.inner, "inner")
            batch = micro_batch(run.episode.support, self._parts(run, 0)[0], run.number)
            warm_up(self.module, self.declare_carry, self.grid, batch)
            weights.bind(None, "outer")
            self.transport.connect()
        self._is_ready = True

    def _parts(self, run: _Run, epoch: int) -> list[np.ndarray]:
        """The support's batches in an epoch; each as large as a class has one in the first of them."""
        labels = np.asarray(run.episode.support.columns["labels"])
        count = max(1, min(-(-len(labels) // self.course.batch_size), len(labels) // run.episode.num_classes))
        return np.array_split(stratified_order(labels, self.course.seed, run.number, epoch), count)

    def _generate(self, execution: TaskExecution, runs: Sequence[_Run], whole: bool) -> None:
        units = []
        for run in runs:
            first = np.arange(len(run.episode.support)) if whole else self._parts(run, 0)[0]
            batch = micro_batch(run.episode.support, first, run.number)
            units.append(Unit(run.task, "generate", batch, step=self.steps_done + 1))
        execution.run(units, len(runs), None if whole else 0)

    def _train(self, execution: TaskExecution, runs: Sequence[_Run], peak: float) -> list[tuple[int, float]]:
        """Take steps until the losses are low enough; return (steps, last epoch's mean loss) of each task."""
        course, alive = self.course, list(range(len(runs)))
        per_epoch = len(self._parts(runs[0], 0))
        total = min(course.epochs * per_epoch, course.max_steps or course.epochs * per_epoch)
        warmup, found, step, epoch = round(course.warmup_ratio * total), [(0, 0.0)] * len(runs), 0, 0
        while alive and step < total:
            count = min(per_epoch, total - step)
            units: list[Unit] = []
            parts = {place: self._parts(runs[place], epoch) for place in alive}
            for batch in range(count):
                # Counted from 1: the first step, too, is to change something.
                rate = learning_rate(step + batch + 1, total + 1, warmup, peak, course.rates)
                for place in alive:
                    run = runs[place]
                    rows = micro_batch(run.episode.support, parts[place][batch], run.number * per_epoch + batch)
                    units.append(Unit(run.task, "support", rows, rate=rate, step=self.steps_done + len(units) + 1))
            execution.run(units, len(alive), epoch + 1)
            step, epoch = step + count, epoch + 1
            self.steps_done += count * len(alive)
            self.timeline.collect()
            self.timeline.end_step(self.steps_done)
            means = torch.stack([runs[place].task.mean_loss() for place in alive])  # read at once: reading waits
            losses = self._from_last(means.tolist())
            for place, loss in zip(alive, losses, strict=True):
                found[place] = step, loss
            alive = [place for place, loss in zip(alive, losses, strict=True) if not loss < course.loss_threshold]
        return found

    def _measure(self, execution: TaskExecution, run: _Run) -> float:
        """Share of the query examples that are classified right."""
        query, size = run.episode.query, self.course.eval_batch_size
        parts = [np.arange(first, min(first + size, len(query))) for first in range(0, len(query), size)]
        for first in range(0, len(parts), _AHEAD):
            batches = [_without_labels(micro_batch(query, part)) for part in parts[first : first + _AHEAD]]
            execution.run([Unit(run.task, "predict", batch) for batch in batches], 1, None)
        right = 0.0
        if self.grid.is_last:
            found = torch.cat([scores.argmax(1) for scores in run.task.scores])
            right = float((found.cpu().numpy() == np.asarray(query.columns["labels"])).mean())
        return self._from_last([right])[0]

    def _from_last(self, values: Sequence[float]) -> list[float]:
        """What the last stage knows, on every stage."""
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.broadcast(tensor, src=self.last_rank, group=self.pipeline)
        return tensor.tolist()

    def gather(self, value: Any) -> list[Any]:
        """What each process knows, on all, by rank; one may be waited for as long as it lives, as heartbeats tell."""
        everyone: list[Any] = [None] * self.grid.world_size
        dist.all_gather_object(everyone, value, group=self._patient)
        return everyone

    @cached_property
    def _patient(self) -> dist.ProcessGroup:
        """All processes, without a timeout: a replica may wait while another learns. Made when all have heartbeats."""
        return dist.new_group(backend="gloo", timeout=_FOR_EVER)


def _without_labels(batch: MicroBatch) -> MicroBatch:
    return MicroBatch(batch.number, batch.shape, batch.inputs, {})
