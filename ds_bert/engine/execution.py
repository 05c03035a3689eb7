"""Carrying out one stage's instructions: layers forward and backward, messages between them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import torch

from ds_bert.engine.module import Carry, StageModule
from ds_bert.engine.process_group import Grid
from ds_bert.engine.timeline import Timeline
from ds_bert.engine.transport import Channel, Field, Tensors, Transport, Uploader
from ds_bert.schedules.schedule import (
    Backward,
    Forward,
    Instruction,
    ReceiveActivation,
    ReceiveGradient,
    SendActivation,
    SendGradient,
    instructions,
)


class Objective(Protocol):
    """What the last stage minimises and measures."""

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the labels that `counts` and `forward` read; examples to predict may lack them."""

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
class GlobalBatch:
    """This replica's part of a global batch while it is under way.

    Args:
        step: the optimizer step it leads to; None in evaluation.
        totals: what the loss is divided by; None on stages that do not compute it, and in evaluation.
        sums: the objective's sums so far.
        micro_batches: how many it has; ``open_backwards`` of them are still to have their backward.
        outputs: where the last stage keeps outputs by micro-batch number; what lacks the objective's targets is not
            measured then. None keeps none.
    """

    step: int | None
    totals: torch.Tensor | None
    sums: torch.Tensor
    micro_batches: int = 0
    outputs: dict[int, Carry] | None = None

    def __post_init__(self) -> None:
        self.open_backwards = self.micro_batches


@dataclass
class _InFlight:
    """A micro-batch, and what its stage keeps of it between forward and backward."""

    batch: MicroBatch
    part_of: GlobalBatch
    uploaded_inputs: Callable[[], Tensors]
    uploaded_labels: Callable[[], Tensors]
    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    outputs: Carry = field(default_factory=dict)
    loss: torch.Tensor | None = None


class Inbox:
    """What a stage receives, posted one message ahead in the order in which a program asks for it.

    Args:
        transport: the stage's channels.
        fields: the tensors of a micro-batch's activations, by its number in the program; of its gradients likewise.
    """

    def __init__(
        self,
        transport: Transport,
        fields: Callable[[int], Sequence[Field]],
        gradient_fields: Callable[[int], Sequence[Field]],
    ) -> None:
        self._activations = _Awaited(transport.activations_in, fields)
        self._gradients = _Awaited(transport.gradients_in, gradient_fields)

    def expect(self, program: Sequence[Instruction]) -> None:
        """Post the first receives of a program."""
        self._activations.expect(program, ReceiveActivation)
        self._gradients.expect(program, ReceiveGradient)

    def activation(self) -> list[torch.Tensor]:
        """Wait for the next activations, and post the receive after theirs."""
        return self._activations.take()

    def gradient(self) -> list[torch.Tensor]:
        """Wait for the next gradients, and post the receive after theirs."""
        return self._gradients.take()


class _Awaited:
    """The messages of one channel; none where there is no stage at its other end."""

    def __init__(self, channel: Channel | None, fields: Callable[[int], Sequence[Field]]) -> None:
        self._channel, self._fields = channel, fields
        self._numbers: Iterator[int] = iter(())

    def expect(self, program: Sequence[Instruction], kind: type[Instruction]) -> None:
        self._numbers = iter([item.micro_batch for item in program if isinstance(item, kind)])
        self._post()

    def take(self) -> list[torch.Tensor]:
        assert self._channel is not None
        tensors = self._channel.receive()
        self._post()
        return tensors

    def _post(self) -> None:
        number = next(self._numbers, None)
        if number is not None and self._channel:
            self._channel.post_receive(self._fields(number))


class WeightUpdates(Protocol):
    """What the weights of a stage are between its instructions: they are updated by whoever owns the execution."""

    @property
    def loss_scale(self) -> torch.Tensor:
        """What a loss is multiplied by before its backward, now."""

    def bind_weights(self, batch: GlobalBatch) -> None:
        """Give the layers the weights of a global batch; called before each forward and backward."""

    def after_backward(self, batch: GlobalBatch) -> None:
        """Do what is to be done after a backward of a global batch."""


class Execution:
    """Runs the instructions of one stage; micro-batches may stay in flight from one `run` to the next.

    Args:
        module: this stage's layers.
        declare_carry: the tensors that cross a boundary, as a function of a micro-batch's shape.
        objective: the loss and its measures.
        grid: this process's place.
        timeline: where times are kept.
        updates: of the weights, in between.
        first_trained: the first stage with parameters that are trained; gradients travel back to there, no further.
    """

    def __init__(
        self,
        module: StageModule,
        declare_carry: Callable[..., Sequence[Field]],
        objective: Objective,
        grid: Grid,
        timeline: Timeline,
        updates: WeightUpdates,
        first_trained: int = 0,
    ) -> None:
        self.module, self.declare_carry, self.objective = module, declare_carry, objective
        self.grid, self.timeline, self.updates = grid, timeline, updates
        self._computes_gradients, self._hands_on_gradients = grid.stage >= first_trained, grid.stage > first_trained
        self.transport, self.uploader = Transport(grid), Uploader(grid.device)
        self._inbox = Inbox(self.transport, self._fields, self._gradient_fields)
        self._in_flight: dict[int, _InFlight] = {}
        self.under_way: int | None = None  # the micro-batch whose instruction is being carried out

    @property
    def is_idle(self) -> bool:
        """Whether no micro-batch is in flight."""
        return not self._in_flight

    def add(self, first: int, micro_batches: Sequence[MicroBatch], part_of: GlobalBatch) -> None:
        """Take in micro-batches, which instructions will name by the numbers from ``first`` on."""
        for number, batch in enumerate(micro_batches, first):
            inputs, labels = self.uploader.begin(batch.inputs), self.uploader.begin(batch.labels)
            self._in_flight[number] = _InFlight(batch, part_of, inputs, labels)

    def run(self, order: Iterable[Forward | Backward]) -> None:
        """Carry out forwards and backwards in this order, and the messages they need."""
        program = [
            instruction
            for instruction in instructions(order, self.grid.stage, self.grid.num_stages)
            if (self._computes_gradients or not isinstance(instruction, ReceiveGradient))
            and (self._hands_on_gradients or not isinstance(instruction, SendGradient))
        ]
        self._inbox.expect(program)
        for instruction in program:
            self.under_way = instruction.micro_batch
            self._METHODS[type(instruction)](self, instruction.micro_batch)
        self.under_way = None

    def _span(self, kind: str, number: int) -> AbstractContextManager[None]:
        """Measure for a micro-batch's own step: under 2BW, two are under way."""
        step = self._in_flight[number].part_of.step
        return self.timeline.span(kind, number, None if step is None else step + 1)

    def _fields(self, number: int) -> Sequence[Field]:
        return self.declare_carry(*self._in_flight[number].batch.shape)

    def _gradient_fields(self, number: int) -> list[Field]:
        return [field for field in self._fields(number) if field.has_gradient]

    def _receive_activation(self, number: int) -> None:
        with self._span("wait", number):
            tensors = self._inbox.activation()
        needs_gradient = self._hands_on_gradients and torch.is_grad_enabled()
        self._in_flight[number].inputs = {
            field.name: tensor.requires_grad_(field.has_gradient and needs_gradient)
            for field, tensor in zip(self._fields(number), tensors, strict=True)
        }

    def _forward(self, number: int) -> None:
        state = self._in_flight[number]
        batch, part_of = state.batch, state.part_of
        if self.grid.is_first:
            state.inputs = state.uploaded_inputs()
        labels = state.uploaded_labels() if self.grid.is_last else None
        self.updates.bind_weights(part_of)
        numbered = None if part_of.step is None else (part_of.step, batch.number)
        with self._span("evaluate" if part_of.step is None else "forward", number):
            state.outputs = self.module(state.inputs, labels, numbered)
            if labels is not None and (part_of.outputs is None or labels.keys() >= set(self.objective.targets)):
                totals = self.objective.counts(batch.labels or {}) if part_of.totals is None else part_of.totals
                state.loss, sums = self.objective.forward(state.outputs, labels, totals)
                part_of.sums += sums
            if part_of.outputs is not None and self.grid.is_last:
                part_of.outputs[batch.number] = state.outputs
        if self.grid.is_last:
            state.outputs = {}
            self._forget_after_forward(number)

    def _send_activation(self, number: int) -> None:
        channel = self.transport.activations_out
        assert channel is not None
        fields, outputs = self._fields(number), self._in_flight[number].outputs
        with self._span("send", number):
            channel.send(fields, [outputs[field.name] for field in fields])
        self._forget_after_forward(number)

    def _forget_after_forward(self, number: int) -> None:
        if not torch.is_grad_enabled():
            del self._in_flight[number]
        elif not self._computes_gradients:
            self._in_flight[number].inputs, self._in_flight[number].outputs = {}, {}

    def _receive_gradient(self, number: int) -> None:
        with self._span("wait", number):
            self._gradients = self._inbox.gradient()

    def _backward(self, number: int) -> None:
        state = self._in_flight[number]
        self.updates.bind_weights(state.part_of)
        if self._computes_gradients:
            with self._span("backward", number):
                self._compute_gradients(number)
        state.outputs, state.loss = {}, None
        if not self._hands_on_gradients:
            del self._in_flight[number]
        state.part_of.open_backwards -= 1
        self.updates.after_backward(state.part_of)

    def _compute_gradients(self, number: int) -> None:
        state = self._in_flight[number]
        if state.loss is not None:
            (state.loss * self.updates.loss_scale).backward()
            return
        outputs = [state.outputs[field.name] for field in self._gradient_fields(number)]
        used = [place for place, output in enumerate(outputs) if output.requires_grad]
        torch.autograd.backward([outputs[place] for place in used], [self._gradients[place] for place in used])

    def _send_gradient(self, number: int) -> None:
        channel = self.transport.gradients_out
        assert channel is not None
        fields = self._gradient_fields(number)
        inputs = self._in_flight[number].inputs
        with self._span("send", number):
            channel.send(fields, [gradient_of(inputs[field.name]) for field in fields])
        del self._in_flight[number]

    _METHODS = {
        Forward: _forward,
        Backward: _backward,
        ReceiveActivation: _receive_activation,
        SendActivation: _send_activation,
        ReceiveGradient: _receive_gradient,
        SendGradient: _send_gradient,
    }


def gradient_of(tensor: torch.Tensor) -> torch.Tensor:
    """What arrived for an input; zeros where no layer of this stage has used it."""
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


def portable(outputs: Carry) -> Carry:
    """Bring outputs to the CPU, floating point as float32."""
    return {name: (item.float() if item.is_floating_point() else item).cpu() for name, item in outputs.items()}


def warm_up(module: StageModule, declare_carry: Callable[..., Sequence[Field]], grid: Grid, batch: MicroBatch) -> None:
    """Run one micro-batch through a stage, backward too where gradients are computed, before anything is posted.

    A kernel that is launched for the first time may wait until the device is idle, and memory that is asked for the
    first time may, too: never, where a posted receive is spinning there that waits for what this stage is to send.
    Nothing comes of it: the stages behind the first compute with made-up inputs, and all gradients are zero.
    """
    uploader = Uploader(grid.device)
    inputs = uploader.begin(batch.inputs)()
    labels = uploader.begin(batch.labels)() if grid.is_last else None
    if not grid.is_first:
        inputs = {field.name: _made_up(field, grid.device) for field in declare_carry(*batch.shape)}
    outputs = module(inputs, labels, (0, batch.number) if torch.is_grad_enabled() else None)
    wanted = [output for output in outputs.values() if output.requires_grad]
    if wanted:
        torch.autograd.backward(wanted, [torch.zeros_like(output) for output in wanted])


def _made_up(field: Field, device: torch.device) -> torch.Tensor:
    """A tensor that layers can compute with: a mask that hides nothing, the first of whatever is numbered."""
    if field.dtype == torch.bool:
        return torch.ones(field.shape, dtype=field.dtype, device=device)
    needs_gradient = field.has_gradient and torch.is_grad_enabled()
    return torch.zeros(field.shape, dtype=field.dtype, device=device, requires_grad=needs_gradient)
