"""The training engine: DeepSpeed's PipelineEngine with an explicit cut, an overlapping transport and exact numerics."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from deepspeed.runtime.config import DeepSpeedConfig
from deepspeed.runtime.pipe.engine import PipelineEngine

from ds_bert.engine.module import Carry, StageModule
from ds_bert.engine.optimizer import Optimizer, StepResult
from ds_bert.engine.process_group import Grid, quiet
from ds_bert.engine.settings import EngineSettings
from ds_bert.engine.timeline import Timeline
from ds_bert.engine.transport import Field, Transport
from ds_bert.schedules.instructions import (
    Backward,
    Forward,
    Instruction,
    ReceiveActivation,
    ReceiveGradient,
    SendActivation,
    SendGradient,
    instructions,
)
from ds_bert.schedules.one_f_one_b import one_f_one_b


class Objective(Protocol):
    """What the last stage minimises and measures."""

    @property
    def sums(self) -> tuple[str, ...]:
        """Names of what `forward` sums."""

    def counts(self, labels: Carry) -> torch.Tensor:
        """A micro-batch's share of what the loss is divided by, on the CPU."""
        ...

    def forward(self, outputs: Carry, labels: Carry, totals: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(loss share, vector of sums) of a micro-batch."""
        ...

    def report(self, sums: torch.Tensor) -> dict[str, float]:
        """Measures, "loss" among them, from sums added up over micro-batches."""
        ...


@dataclass(frozen=True)
class MicroBatch:
    """One micro-batch of a replica. Only the first stage's inputs and the last stage's labels need be there.

    Args:
        number: its number in the global batch, counted over all replicas.
        shape: what the Carry's declaration is a function of; the same on every stage.
    """

    number: int
    shape: tuple[int, ...]
    inputs: Carry | None = None
    labels: Carry | None = None


@dataclass
class _InFlight:
    """What a stage keeps of a micro-batch between its forward and its backward."""

    inputs: dict[str, torch.Tensor]
    outputs: Carry
    loss: torch.Tensor | None = None


class Engine(PipelineEngine):
    """Train the layers of one stage; the same calls are made on every rank.

    Args:
        module: this stage's layers.
        carry: declares the tensors that cross a boundary, as a function of a micro-batch's shape.
        objective: the loss and its measures.
        settings: optimizer, precision, sharding.
        grid: this process's place.
        micro_batch_size: rows of a micro-batch.
        micro_batches: micro-batches of a global batch per replica.
    """

    def __init__(
        self,
        module: StageModule,
        carry: Callable[..., Sequence[Field]],
        objective: Objective,
        settings: EngineSettings,
        grid: Grid,
        micro_batch_size: int,
        micro_batches: int,
    ) -> None:
        self.settings, self.place, self.objective, self.declare_carry = settings, grid, objective, carry
        with quiet():
            super().__init__(
                args=None,
                model=module,
                mpu=module.mpu(),
                config={},
                config_class=_deepspeed_config(module, micro_batch_size, micro_batches, grid),
            )
        self.control = grid.new_group(backend="gloo")
        self.loss_group, self.replica_group = _gloo_groups(grid)
        self.transport = Transport(grid)
        self.boundary = Optimizer(module.parameters_by_name(), grid, settings, self.control)
        self.timeline = Timeline(grid.device, keep=settings.trace)
        self.steps_done = 0

    def train_batch(  # type: ignore[override]
        self, micro_batches: Sequence[MicroBatch], learning_rate: float, votes: Sequence[float] = ()
    ) -> tuple[StepResult, torch.Tensor]:
        """Run one optimizer step.

        Args:
            micro_batches: this replica's part of the global batch.
            learning_rate: of this step.
            votes: numbers of this process to be added up over all processes on the way.

        Returns:
            The step's result and the objective's sums over the global batch, both the same on every process; the votes'
            sums are ``result.sums``.
        """
        self.module.train()
        self._totals = self._global_counts(micro_batches)
        sums = self._execute(self._train_order(len(micro_batches)), micro_batches)
        with self.timeline.span("reduce"):
            self.boundary.reduce_gradients()
        with self.timeline.span("step"):
            local = torch.cat([sums, torch.tensor(votes, dtype=torch.float64, device=sums.device)])
            result = self.boundary.step(learning_rate, local)
        self.timeline.end_step()
        self.steps_done += 1
        added, voted = result.sums[: len(sums)].cpu(), result.sums[len(sums) :].cpu()
        return StepResult(result.grad_norm, result.skipped, voted), added

    @torch.no_grad()
    def evaluate(self, micro_batches: Sequence[MicroBatch]) -> torch.Tensor:
        """Run forwards only, without dropout; replicas may bring different numbers of micro-batches, of any size.

        Returns:
            The objective's sums over the micro-batches of all replicas, the same on every process.
        """
        self.module.eval()
        self._totals = None
        sums = self._execute((Forward(i) for i in range(len(micro_batches))), micro_batches)
        dist.all_reduce(sums)
        return sums.cpu()

    def share_shapes(self, shapes: Sequence[tuple[int, ...]] | None, count: int) -> list[tuple[int, ...]]:
        """Tell this replica's stages the shapes of ``count`` micro-batches, which only the first stage knows."""
        if self.place.num_stages == 1:
            return list(shapes or [])
        plan = torch.zeros(count, 3, dtype=torch.int64)
        if shapes is not None:
            plan.copy_(torch.tensor(shapes, dtype=torch.int64))
        dist.broadcast(plan, src=self.place.rank_of(0, self.place.replica), group=self.replica_group)
        return [tuple(row) for row in plan.tolist()]

    def _train_order(self, micro_batches: int) -> Iterable[Forward | Backward]:
        return one_f_one_b(self.place.stage, self.place.num_stages, micro_batches)

    def _global_counts(self, micro_batches: Sequence[MicroBatch]) -> torch.Tensor | None:
        """Add up over the global batch what the loss is divided by; only the last stage knows and needs it."""
        if not self.place.is_last:
            return None
        totals = torch.stack([self.objective.counts(batch.labels or {}) for batch in micro_batches]).sum(0)
        dist.all_reduce(totals, group=self.loss_group)
        return totals

    def _execute(self, order: Iterable[Forward | Backward], micro_batches: Sequence[MicroBatch]) -> torch.Tensor:
        """Carry out this stage's instructions; return the objective's sums over them."""
        self._batches = micro_batches
        self._in_flight: dict[int, _InFlight] = {}
        self._sums = torch.zeros(len(self.objective.sums), dtype=torch.float64, device=self.place.device)
        program = list(instructions(order, self.place.stage, self.place.num_stages))
        self._awaited_activations = _numbers(program, ReceiveActivation)
        self._awaited_gradients = _numbers(program, ReceiveGradient)
        self._post_activation()
        self._post_gradient()
        for instruction in program:
            self._INSTRUCTION_MAP[type(instruction)](self, instruction.micro_batch)
        self.transport.flush()
        return self._sums

    def _fields(self, micro_batch: int) -> Sequence[Field]:
        return self.declare_carry(*self._batches[micro_batch].shape)

    def _post_activation(self) -> None:
        """Get ready for the next message, before it is needed."""
        micro_batch = next(self._awaited_activations, None)
        if micro_batch is not None and self.transport.activations_in:
            self.transport.activations_in.post_receive(self._fields(micro_batch))

    def _post_gradient(self) -> None:
        micro_batch = next(self._awaited_gradients, None)
        if micro_batch is not None and self.transport.gradients_in:
            self.transport.gradients_in.post_receive([f for f in self._fields(micro_batch) if f.has_gradient])

    def _receive_activation(self, micro_batch: int) -> None:
        channel = self.transport.activations_in
        assert channel is not None
        with self.timeline.span("wait", micro_batch):
            tensors = channel.receive()
        self._post_activation()
        inputs = {}
        for field, tensor in zip(self._fields(micro_batch), tensors, strict=True):
            inputs[field.name] = tensor.requires_grad_(field.has_gradient and torch.is_grad_enabled())
        self._in_flight[micro_batch] = _InFlight(inputs, {})

    def _forward(self, micro_batch: int) -> None:
        batch = self._batches[micro_batch]
        device = self.place.device
        if self.place.is_first:
            self._in_flight[micro_batch] = _InFlight(_to(device, batch.inputs), {})
        state = self._in_flight[micro_batch]
        labels = _to(device, batch.labels) if self.place.is_last else None
        numbered = (self.steps_done, batch.number) if self.module.training else None
        with self.timeline.span("forward" if self.module.training else "evaluate", micro_batch):
            state.outputs = self.module(state.inputs, labels, numbered)
            if labels is not None:
                totals = self.objective.counts(labels) if self._totals is None else self._totals
                state.loss, sums = self.objective.forward(state.outputs, labels, totals)
                self._sums += sums
        if self.place.is_last:
            state.outputs = {}
        if not torch.is_grad_enabled() and self.place.is_last:
            del self._in_flight[micro_batch]

    def _send_activation(self, micro_batch: int) -> None:
        channel = self.transport.activations_out
        assert channel is not None
        fields = self._fields(micro_batch)
        outputs = self._in_flight[micro_batch].outputs
        with self.timeline.span("send", micro_batch):
            channel.send(fields, [outputs[field.name] for field in fields])
        if not torch.is_grad_enabled():
            del self._in_flight[micro_batch]

    def _receive_gradient(self, micro_batch: int) -> None:
        channel = self.transport.gradients_in
        assert channel is not None
        with self.timeline.span("wait", micro_batch):
            self._gradients = channel.receive()
        self._post_gradient()

    def _backward(self, micro_batch: int) -> None:
        state = self._in_flight[micro_batch]
        with self.timeline.span("backward", micro_batch):
            if state.loss is not None:
                (state.loss * self.boundary.loss_scale).backward()
            else:
                names = [field.name for field in self._fields(micro_batch) if field.has_gradient]
                torch.autograd.backward([state.outputs[name] for name in names], self._gradients)
        if self.place.is_first:
            del self._in_flight[micro_batch]

    def _send_gradient(self, micro_batch: int) -> None:
        channel = self.transport.gradients_out
        assert channel is not None
        fields = [field for field in self._fields(micro_batch) if field.has_gradient]
        state = self._in_flight.pop(micro_batch)
        with self.timeline.span("send", micro_batch):
            channel.send(fields, [_gradient(state.inputs[field.name]) for field in fields])

    _INSTRUCTION_MAP = {
        Forward: _forward,
        Backward: _backward,
        ReceiveActivation: _receive_activation,
        SendActivation: _send_activation,
        ReceiveGradient: _receive_gradient,
        SendGradient: _send_gradient,
    }


def _numbers(program: list[Instruction], kind: type[Instruction]) -> Iterator[int]:
    return iter([instruction.micro_batch for instruction in program if isinstance(instruction, kind)])


def _gradient(tensor: torch.Tensor) -> torch.Tensor:
    assert tensor.grad is not None
    return tensor.grad


def _to(device: torch.device, tensors: Mapping[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
    return {name: tensor.to(device, non_blocking=True) for name, tensor in (tensors or {}).items()}


def _gloo_groups(grid: Grid) -> tuple[dist.ProcessGroup, dist.ProcessGroup]:
    """Groups for what lies on the CPU: the last stage's replicas, and the stages of this process's replica."""
    last, replicas = grid.num_stages - 1, range(grid.num_replicas)
    loss_group = grid.new_group([grid.rank_of(last, replica) for replica in replicas], backend="gloo")
    pipelines = [
        grid.new_group([grid.rank_of(stage, replica) for stage in range(grid.num_stages)], backend="gloo")
        for replica in replicas
    ]
    return loss_group, pipelines[grid.replica]


def _deepspeed_config(module: StageModule, micro_batch_size: int, micro_batches: int, grid: Grid) -> Any:
    """What DeepSpeed's base class is told: batch sizes. The rest lies behind our optimizer boundary."""
    config = {
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": micro_batches,
        "train_batch_size": micro_batch_size * micro_batches * grid.num_replicas,
    }
    return DeepSpeedConfig(config, mpu=module.mpu())
