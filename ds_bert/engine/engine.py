"""The training engine: schedules carried out on one stage, with an overlapping transport and exact numerics."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from ds_bert.engine.execution import Execution, GlobalBatch, MicroBatch, Objective, portable, warm_up
from ds_bert.engine.module import Carry, StageModule
from ds_bert.engine.optimizer import Optimizer, PendingResult, Reduction, StepResult
from ds_bert.engine.process_group import Grid
from ds_bert.engine.settings import EngineSettings
from ds_bert.engine.timeline import Timeline
from ds_bert.engine.transport import Field, upload
from ds_bert.schedules import SCHEDULES
from ds_bert.schedules.schedule import Backward, Forward


class Engine:
    """Train the layers of one stage; the same calls are made on every rank.

    Args:
        module: this stage's layers.
        carry: declares the tensors that cross a boundary, as a function of a micro-batch's shape.
        objective: the loss and its measures.
        settings: schedule, optimizer, precision, sharding.
        grid: this process's place.
        micro_batches: micro-batches of a global batch per replica.
    """

    def __init__(
        self,
        module: StageModule,
        carry: Callable[..., Sequence[Field]],
        objective: Objective,
        settings: EngineSettings,
        grid: Grid,
        micro_batches: int,
    ) -> None:
        self.module, self.carry, self.micro_batches = module, carry, micro_batches
        self.settings, self.grid, self.objective = settings, grid, objective
        self.schedule = SCHEDULES[settings.schedule]
        self._never_drains = settings.never_drains
        # Results are returned as soon as all processes have them; on a GPU, when the host need no longer wait for them.
        self._results_lag = 2 if self._never_drains else int(grid.device.type == "cuda")
        self.control = grid.new_group(backend="gloo")
        self.loss_group, self.replica_group = _gloo_groups(grid)
        self.optimizer = Optimizer(module.parameters_by_name(), grid, settings, self.control)
        self.timeline = Timeline(grid.device, settings.traced)
        self.execution = Execution(
            module,
            carry,
            objective,
            grid,
            self.timeline,
            self,
            self._first_trained_stage(),
        )
        self.steps_done = 0
        self._is_connected = False
        self._warm: set[bool] = set()  # whether gradients were computed in the warm-ups done
        self._drained_at = 0  # global batches whose micro-batches have all had their backward when a drain ended
        self._under_way: dict[int, tuple[GlobalBatch, float, torch.Tensor]] = {}
        self._reduction: Reduction | None = None
        self._finished: deque[PendingResult] = deque()
        self._shapes_on_their_way: deque[tuple[Any, torch.Tensor]] = deque()

    def train_batch(
        self, micro_batches: Sequence[MicroBatch], learning_rate: float, votes: Sequence[float] = ()
    ) -> list[StepResult]:
        """Run one global batch.

        Args:
            micro_batches: this replica's part of it.
            learning_rate: of the step that its gradients lead to.
            votes: numbers of this process to be added up over all processes on the way.

        Returns:
            The results known by now, the same on every process: this batch's, or, on GPUs, that of the batch before,
            or, under 2BW, that of the batch before the last, if there was no drain since. A result's sums are the
            objective's, then the votes'.
        """
        step = self.steps_done
        self.module.train()
        self._get_ready(micro_batches)
        if self._never_drains:
            # Batch t computes with version t - 1, which step t - 2 makes. (Step t - 1 cannot have begun on stage 0: the
            # backwards that it waits for are part of this call.) So sums and norm have a whole batch's time.
            self.optimizer.wait_for_weights(step - 2)
        batch = GlobalBatch(step, self._global_counts(micro_batches), self._no_sums(), len(micro_batches))
        self._under_way[step] = batch, learning_rate, self._upload(votes)
        self.execution.add(step * len(micro_batches) if self._never_drains else 0, micro_batches, batch)
        self.execution.run(self._order(len(micro_batches)))
        self.steps_done += 1
        if self._never_drains:
            # Others may be waiting, in this very call, for this process's part of the norm of step - 1. The host sends
            # it, and may do something else from here on: wait for those others in a collective, ours or the caller's.
            self._finish(up_to=step - 1)
        else:
            self._finish(up_to=step)
            self.optimizer.wait_for_weights(step)
        self.timeline.collect()
        self.timeline.end_step(self.steps_done)
        return self._take_finished(step - self._results_lag)

    def _get_ready(self, micro_batches: Sequence[MicroBatch]) -> None:
        """Before anything is posted ahead: let the clock start, kernels be loaded, and the processes connect."""
        self.timeline.start()
        is_cold = torch.is_grad_enabled() not in self._warm
        if is_cold and micro_batches and self.grid.num_stages > 1:  # a replica may have none to evaluate
            warm_up(self.module, self.carry, self.grid, micro_batches[0])
            self.optimizer.clear_gradients()
            self._warm.add(torch.is_grad_enabled())
        if not self._is_connected:
            self.optimizer.connect()
            self.execution.transport.connect()
            self._is_connected = True

    def _upload(self, votes: Sequence[float]) -> torch.Tensor:
        return upload(torch.tensor(votes, dtype=torch.float64), self.grid.device)

    def resume_at(self, step: int) -> None:
        """Number the next global batch ``step``; its weights come from `optimizer`'s ``load``."""
        self.steps_done = self._drained_at = step
        self.timeline.end_step(step)

    def drain(self) -> list[StepResult]:
        """Let 2BW's open backwards and all steps be done, to evaluate, save or end; it changes nothing of what follows.

        Returns:
            The results that `train_batch` has not returned yet, in order.
        """
        if self._never_drains and self.steps_done > self._drained_at:
            self.module.train()
            grid, size = self.grid, self.micro_batches
            done, drained = self.steps_done * size, self._drained_at * size
            order = self.schedule.drain(grid.stage, grid.num_stages, done, drained)
            self.optimizer.wait_for_weights(self.steps_done - 2)
            self.execution.run(order)
            self._finish(up_to=self.steps_done - 1)
            self.optimizer.wait_for_weights(self.steps_done - 1)
        self._drained_at = self.steps_done
        self.execution.transport.flush()
        self.timeline.collect(wait=True)
        self.optimizer.bind(self.steps_done, self.steps_done)
        return self._take_finished(self.steps_done)

    @torch.no_grad()
    def evaluate(self, micro_batches: Sequence[MicroBatch]) -> torch.Tensor:
        """Run forwards only, without dropout; replicas may bring different numbers of micro-batches, of any size.

        Returns:
            The objective's sums over the micro-batches of all replicas, the same on every process.

        Raises:
            RuntimeError: micro-batches are in flight; `drain` comes first.
        """
        batch = GlobalBatch(None, None, self._no_sums())
        self._forward_only(batch, micro_batches)
        if (work := self.optimizer.group.all_reduce(batch.sums)) is not None:
            work.wait()
        return batch.sums.cpu()

    @torch.no_grad()
    def predict(self, micro_batches: Sequence[MicroBatch]) -> tuple[dict[int, Carry], torch.Tensor]:
        """Run forwards only, as `evaluate` does, and bring the last stage's outputs to the grid's first process.

        Returns:
            On the grid's rank 0, the outputs of all replicas' micro-batches by their numbers, on the CPU, floating
            point as float32, and the objective's sums over those whose labels hold its targets; nothing, and zeros, on
            the others.

        Raises:
            RuntimeError: micro-batches are in flight; `drain` comes first.
        """
        outputs: dict[int, Carry] = {}
        batch = GlobalBatch(None, None, self._no_sums(), outputs=outputs)
        self._forward_only(batch, micro_batches)
        outputs = {number: portable(carry) for number, carry in outputs.items()}
        everyone: list[Any] | None = [None] * self.grid.world_size if self.grid.rank == 0 else None
        dist.gather_object((outputs, batch.sums.cpu()), everyone, dst=0, group=self.control)
        found = {number: carry for part, _ in everyone or () for number, carry in part.items()}
        return found, sum((sums for _, sums in everyone or ()), torch.zeros(len(batch.sums), dtype=torch.float64))

    def _forward_only(self, batch: GlobalBatch, micro_batches: Sequence[MicroBatch]) -> None:
        if not self.execution.is_idle:
            raise RuntimeError("forwards only while micro-batches are in flight: drain() first")
        self.module.eval()
        self._get_ready(micro_batches)
        self.execution.add(0, micro_batches, batch)
        self.execution.run(Forward(number) for number in range(len(micro_batches)))
        self.execution.transport.flush()

    def share_shapes(self, shapes: Sequence[tuple[int, ...]] | None, count: int) -> list[tuple[int, ...]]:
        """Tell this replica's stages the shapes of ``count`` micro-batches, three numbers each.

        Only the first stage knows them beforehand; others give None.
        """
        if self.grid.num_stages == 1:
            return list(shapes or [])
        plan = torch.zeros(count, 3, dtype=torch.int64)
        if shapes is not None:
            plan.copy_(torch.tensor(shapes, dtype=torch.int64).view(count, 3))  # also where there are none
        root = self.grid.rank_of(0, self.grid.replica)
        work = dist.broadcast(plan, src=root, group=self.replica_group, async_op=True)
        # The first stage is ahead of the others: it must not wait for them, only keep the message until it is gone.
        if self._shapes_on_their_way:
            self._shapes_on_their_way.popleft()[0].wait()
        if self.grid.is_first:
            self._shapes_on_their_way.append((work, plan))
        else:
            work.wait()
        return [tuple(row) for row in plan.tolist()]

    def _order(self, micro_batches: int) -> Iterable[Forward | Backward]:
        grid = self.grid
        drained = self._drained_at * micro_batches
        return self.schedule.step(grid.stage, grid.num_stages, micro_batches, self.steps_done, drained)

    def _first_trained_stage(self) -> int:
        trained = [stages for name, stages in self.optimizer.owners.items() if self.settings.is_trained(name)]
        return min(stage for stages in trained for stage in stages)

    def _no_sums(self) -> torch.Tensor:
        return torch.zeros(len(self.objective.sums), dtype=torch.float64, device=self.grid.device)

    def _global_counts(self, micro_batches: Sequence[MicroBatch]) -> torch.Tensor | None:
        """Add up over the global batch what the loss is divided by; only the last stage knows and needs it."""
        if not self.grid.is_last:
            return None
        totals = torch.stack([self.objective.counts(batch.labels or {}) for batch in micro_batches]).sum(0)
        dist.all_reduce(totals, group=self.loss_group)
        return totals

    @property
    def loss_scale(self) -> torch.Tensor:
        """What losses are multiplied by before their backward, now."""
        return self.optimizer.loss_scale

    def bind_weights(self, batch: GlobalBatch) -> None:
        """Give the layers the weights that a global batch computes with, and the place for its gradients."""
        if batch.step is None:
            self.optimizer.bind(self.steps_done, self.steps_done)
        else:
            self.optimizer.bind(self.schedule.weight_version(batch.step), batch.step)

    def after_backward(self, batch: GlobalBatch) -> None:
        """Move the step on that is under way; begin that of a global batch whose backwards are done.

        Under 2BW with 2 stages and 2 micro-batches, stage 0 does F4 B3 F5 B4 in the call for batch 2. B3 is the last
        backward of batch 1, so its step begins there, and is looked after again after B4; if the other processes' parts
        have not come by then, the call ends with waiting for them.
        """
        if self._reduction and self.optimizer.poll(self._reduction):
            self._finish(up_to=self._reduction.step)
        if batch.open_backwards == 0:
            assert batch.step is not None
            # In the order of the steps on every process: the collectives of a group must not overtake each other.
            self._finish(up_to=batch.step - 1)
            _, learning_rate, votes = self._under_way.pop(batch.step)
            self._reduction = self.optimizer.begin(batch.step, learning_rate, torch.cat([batch.sums, votes]))
            if self.optimizer.is_queued:
                self._finish(up_to=batch.step)

    def _finish(self, up_to: int) -> None:
        """Take the step that is under way if its number is at most ``up_to``; its weights may still be on their way."""
        if self._reduction and self._reduction.step <= up_to:
            number = self._reduction.step + 1
            with self.timeline.span("reduce", step=number):
                self.optimizer.poll(self._reduction, wait=True)
            with self.timeline.span("step", step=number):
                self._finished.append(self.optimizer.finish(self._reduction))
            self._reduction = None

    def _take_finished(self, last_step: int) -> list[StepResult]:
        """The finished steps up to ``last_step``: some processes finish earlier, but all must act on them alike."""
        taken = []
        while self._finished and self._finished[0].step <= last_step:
            taken.append(self._finished.popleft().read())
        return taken


def _gloo_groups(grid: Grid) -> tuple[dist.ProcessGroup, dist.ProcessGroup]:
    """Groups for what lies on the CPU: the last stage's replicas, and the stages of this process's replica."""
    last, replicas = grid.num_stages - 1, range(grid.num_replicas)
    loss_group = grid.new_group([grid.rank_of(last, replica) for replica in replicas], backend="gloo")
    pipelines = [
        grid.new_group([grid.rank_of(stage, replica) for stage in range(grid.num_stages)], backend="gloo")
        for replica in replicas
    ]
    return loss_group, pipelines[grid.replica]
