"""Passes of tasks through one stage: each task's own weights, its inner steps, and the meta-gradients.

A clipped inner step needs one number of all stages: the norm of the inner gradient. Its square is added up on the way
back, as a part of the gradients' messages, and comes forth with the next pass's activations. So there is no collective,
and no stage waits for another task's step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ds_bert.engine.execution import Inbox, MicroBatch, gradient_of
from ds_bert.engine.module import Carry, StageModule
from ds_bert.engine.process_group import Grid
from ds_bert.engine.timeline import Timeline
from ds_bert.engine.transport import Field, Transport, Uploader
from ds_bert.meta.inner_weights import InnerWeights, StageWeights, Use, no_norm
from ds_bert.meta.task import RunningTask
from ds_bert.modeling import model as carries
from ds_bert.schedules.schedule import (
    Backward,
    Forward,
    Instruction,
    ReceiveActivation,
    ReceiveGradient,
    SendActivation,
    SendGradient,
    instructions,
    tasks_in_flight,
)

NORM = carries.Field("squared_norm", (1,), torch.float64, has_gradient=False)
_USES: dict[str, Use] = {
    "generate": "none",
    "predict": "none",
    "support": "inner",
    "query": "query",
    "regenerate": "outer",
}


@dataclass
class Unit:
    """One pass of one task.

    Args:
        task: its state on this stage.
        kind: see `ds_bert.meta.task.Pass`.
        batch: its number is that of the dropout.
        scale: of the loss.
        rate: multiplies the step sizes, in a support pass.
        step: that it belongs to in a trace, counted from 1; None: the last that has ended.
    """

    task: RunningTask
    kind: str
    batch: MicroBatch
    scale: float = 1.0
    rate: float = 1.0
    step: int | None = None
    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    outputs: Carry = field(default_factory=dict)
    loss: torch.Tensor | None = None

    @property
    def has_backward(self) -> bool:
        """Whether gradients are wanted."""
        return _USES[self.kind] != "none"


class TaskExecution:
    """Runs the passes of tasks through one stage.

    Args:
        module: this stage's layers.
        declare_carry: the tensors that cross a boundary, as a function of a micro-batch's shape.
        grid: this process's place.
        weights: of the stage.
        transport: its channels to the stages beside it.
        timeline: where times are kept.
    """

    def __init__(
        self,
        module: StageModule,
        declare_carry: Callable[..., Sequence[Field]],
        grid: Grid,
        weights: StageWeights,
        transport: Transport,
        timeline: Timeline,
    ) -> None:
        self.module, self.declare_carry, self.grid, self.weights = module, declare_carry, grid, weights
        self.transport, self.timeline, self.uploader = transport, timeline, Uploader(grid.device)
        self._inbox = Inbox(
            transport,
            lambda number: self._fields(self._units[number]),
            lambda number: self._gradient_fields(self._units[number]),
        )
        self._units: Sequence[Unit] = ()

    def run(self, units: Sequence[Unit], tasks: int, step: int | None) -> None:
        """Carry out passes; all stages are given the same.

        Args:
            units: those of ``tasks`` tasks by turns, so that a pass and the same task's next are ``tasks`` apart.
            tasks: in flight at once.
            step: of which, with each batch's number, dropout is a function; None where nothing is dropped.
        """
        self._units, self._step = units, step
        order = tasks_in_flight(self.grid.stage, self.grid.num_stages, len(units), tasks)
        wanted = [item for item in order if isinstance(item, Forward) or units[item.micro_batch].has_backward]
        program = list(instructions(wanted, self.grid.stage, self.grid.num_stages))
        self._inbox.expect(program)
        for instruction in program:
            unit, act = units[instruction.micro_batch], self._METHODS[type(instruction)]
            with self.timeline.span(_kind(instruction, unit), unit.batch.number, unit.step):
                act(self, unit)
        self.transport.flush()
        self.weights.bind(None, "outer")

    def _fields(self, unit: Unit) -> list[Any]:
        return [*self.declare_carry(*unit.batch.shape), NORM]

    def _gradient_fields(self, unit: Unit) -> list[Any]:
        return [*(field for field in self._fields(unit) if field.has_gradient), NORM]

    def _receive_activation(self, unit: Unit) -> None:
        *tensors, unit.task.squared_norm = self._inbox.activation()
        fields = self._fields(unit)[:-1]
        unit.inputs = {
            field.name: tensor.requires_grad_(field.has_gradient and unit.has_backward)
            for field, tensor in zip(fields, tensors, strict=True)
        }

    def _forward(self, unit: Unit) -> None:
        task = unit.task
        if unit.kind == "generate":
            task.begin()
        task.take_step()
        if self.grid.is_first:
            unit.inputs = self.uploader.begin(unit.batch.inputs)()
        self._bind(unit)
        numbered = None if self._step is None else (self._step, unit.batch.number)
        with torch.set_grad_enabled(unit.has_backward):
            unit.outputs = self.module(unit.inputs, None, numbered)
            if self.grid.is_last:
                labels = self.uploader.begin(unit.batch.labels)()
                unit.loss = task.measure(unit.kind, unit.outputs, labels, unit.scale)
                unit.outputs = {}
        if self.grid.is_first or not unit.has_backward:
            unit.inputs = {}  # no gradient of theirs is sent on

    def _bind(self, unit: Unit) -> None:
        own = unit.kind in ("generate", "regenerate")
        inner: InnerWeights | None = None if own else unit.task.inner
        self.weights.bind(inner, _USES[unit.kind])

    def _send_activation(self, unit: Unit) -> None:
        channel = self.transport.activations_out
        assert channel is not None
        fields = self._fields(unit)
        channel.send(fields, [*(unit.outputs[field.name] for field in fields[:-1]), unit.task.squared_norm])
        if not unit.has_backward:
            unit.outputs = {}

    def _receive_gradient(self, unit: Unit) -> None:
        *self._gradients, unit.task.squared_norm = self._inbox.gradient()

    def _backward(self, unit: Unit) -> None:
        self._bind(unit)
        if self.grid.is_last:
            unit.task.squared_norm = no_norm(self.grid.device)
            assert unit.loss is not None
            unit.loss.backward()
        else:
            outputs = [unit.outputs[field.name] for field in self._gradient_fields(unit)[:-1]]
            if outputs[0].requires_grad:  # the first stage may hold nothing that this pass needs a gradient of
                torch.autograd.backward(outputs, self._gradients)
        unit.outputs, unit.loss = {}, None
        if unit.kind == "support":
            unit.task.keep_inner_gradient(unit.rate)
        elif unit.kind == "query":
            unit.task.take_query_gradient()

    def _send_gradient(self, unit: Unit) -> None:
        channel = self.transport.gradients_out
        assert channel is not None
        fields = self._gradient_fields(unit)
        gradients = [gradient_of(unit.inputs[field.name]) for field in fields[:-1]]
        channel.send(fields, [*gradients, unit.task.squared_norm])
        unit.inputs = {}

    _METHODS = {
        Forward: _forward,
        Backward: _backward,
        ReceiveActivation: _receive_activation,
        SendActivation: _send_activation,
        ReceiveGradient: _receive_gradient,
        SendGradient: _send_gradient,
    }


def _kind(instruction: Instruction, unit: Unit) -> str:
    """What an instruction is called in a trace."""
    if isinstance(instruction, Forward):
        return "evaluate" if unit.kind == "predict" else "forward"
    if isinstance(instruction, Backward):
        return "backward"
    return "wait" if isinstance(instruction, ReceiveActivation | ReceiveGradient) else "send"
