"""The engine of meta-training: a global batch of tasks, each adapted by its replica, and one step of the outer loop."""

from collections.abc import Sequence
from typing import Any

import torch

from ds_bert.engine.engine import Engine
from ds_bert.engine.module import StageModule
from ds_bert.engine.optimizer import StepResult
from ds_bert.engine.process_group import Grid
from ds_bert.engine.settings import EngineSettings
from ds_bert.meta.execution import TaskExecution, Unit
from ds_bert.meta.inner_weights import InnerWeights, StageWeights
from ds_bert.meta.task import Learner, Pass, RunningTask, TaskBatches
from ds_bert.meta.unrolled import unrolled_loss
from ds_bert.modeling.adapters import STEP_SIZE

SUMS = ("loss", "tasks", "right_before", "right_after")


class MetaObjective:
    """What is reported of a global batch of tasks."""

    sums = SUMS

    def report(self, sums: torch.Tensor) -> dict[str, float]:
        """Mean query loss of a task, and the share of queries that is right before and after adaptation."""
        loss, tasks, before, after = sums.tolist()
        return {"loss": loss, "right_before": before / max(tasks, 1), "right_after": after / max(tasks, 1)}


class MetaEngine(Engine):
    """Meta-train the layers of one stage; the same calls are made on every rank.

    Args:
        module, carry, settings, grid: as `Engine`'s; what is trained is ``learner.selection``'s to say.
        learner: how tasks are learned.
        tasks: of a global batch, per replica.
    """

    def __init__(
        self,
        module: StageModule,
        carry: Any,
        learner: Learner,
        settings: EngineSettings,
        grid: Grid,
        tasks: int,
    ) -> None:
        super().__init__(module, carry, MetaObjective(), settings, grid, tasks)  # type: ignore[arg-type]
        self.learner = learner
        self.weights = StageWeights(self.optimizer.parameters, learner.selection.is_adapted)
        self.tasks = TaskExecution(module, carry, grid, self.weights, self.execution.transport, self.timeline)
        self._slots: list[RunningTask] = []
        if learner.first_order:
            inner = [InnerWeights(self.weights) for _ in range(learner.tasks_in_flight)]
            self._slots = [RunningTask(learner.method, self.weights, own) for own in inner]

    def train_batch(  # type: ignore[override]
        self, tasks: Sequence[TaskBatches], learning_rate: float, votes: Sequence[float] = ()
    ) -> list[StepResult]:
        """Adapt to each task of this replica, and take one step of the outer loop.

        Args:
            tasks: this replica's; ``learner.tasks_in_flight`` of them at once.
            learning_rate: of the outer step.
            votes: numbers of this process to be added up over all processes on the way.

        Returns:
            As `Engine.train_batch`; a result's sums are `SUMS`, then the votes'.
        """
        step = self.steps_done
        self.module.train()
        self._get_ready([batch for task in tasks[:1] for batch in task.support[:1]])
        run = self._first_order if self.learner.first_order else self._second_order
        sums = run(tasks, 1.0 / (len(tasks) * self.grid.num_replicas))
        with self.timeline.span("step", step=step + 1):
            reduction = self.optimizer.begin(step, learning_rate, torch.cat([sums, self._upload(votes)]))
            self._finished.append(self.optimizer.finish(reduction))
        self.optimizer.wait_for_weights(step)
        self._bound_step_sizes()
        self.steps_done += 1
        self.timeline.collect()
        self.timeline.end_step(self.steps_done)
        return self._take_finished(step - self._results_lag)

    def _first_order(self, tasks: Sequence[TaskBatches], share: float) -> torch.Tensor:
        in_flight, sums = len(self._slots), self._no_sums()
        for first in range(0, len(tasks), in_flight):
            group = tasks[first : first + in_flight]
            slots = self._slots[: len(group)]
            for slot, task in zip(slots, group, strict=True):
                slot.num_classes = task.num_classes
            units = [
                _unit(slot, task, item, share, self.steps_done + 1, len(self.learner.passes))
                for item in self.learner.passes
                for slot, task in zip(slots, group, strict=True)
            ]
            self.tasks.run(units, len(group), self.steps_done)
            if self.grid.is_last:
                sums += torch.stack([_sums_of(slot.queries) for slot in slots]).sum(0)
        return sums

    def _second_order(self, tasks: Sequence[TaskBatches], share: float) -> torch.Tensor:
        sums = self._no_sums()
        step = self.steps_done
        for number, task in enumerate(tasks):
            self.weights.bind(None, "outer")
            with self.timeline.span("forward", number, step + 1):
                loss, queries = unrolled_loss(self.module, self.weights, self.learner, task, step, share)
            with self.timeline.span("backward", number, step + 1):
                loss.backward()
            sums += _sums_of(queries)
        return sums

    @torch.no_grad()
    def _bound_step_sizes(self) -> None:
        for name, outer in self.weights.outer.items():
            if name.startswith(STEP_SIZE) and outer.gradient is not None:
                outer.value.clamp_(*self.learner.step_size_range)


def _unit(slot: RunningTask, task: TaskBatches, item: Pass, share: float, step: int, passes: int) -> Unit:
    return Unit(slot, item.kind, task.batch_of(item, passes), scale=item.weight * share, step=step)


def _sums_of(queries: Sequence[torch.Tensor]) -> torch.Tensor:
    """A task's `SUMS`."""
    table = torch.stack(list(queries))
    return torch.stack([table[:, 0].sum(), torch.ones_like(table[0, 1]), table[0, 1], table[-1, 1]])
