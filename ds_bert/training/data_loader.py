"""From a data set to the micro-batches of one process; only first and last stages read."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any, Protocol

import numpy as np
import torch

from ds_bert.engine.engine import Engine
from ds_bert.engine.execution import MicroBatch

Tensors = dict[str, torch.Tensor]

INPUTS = ("input_ids", "token_type_ids", "attention_mask")
"""What the first stage needs of a batch; the rest is the last stage's."""
_EVALUATED_AT_ONCE = 64  # micro-batches per replica that are read before they are computed


class Examples(Protocol):
    """Examples by number."""

    def __len__(self) -> int:
        """Number of examples of an epoch."""

    def batch(self, epochs: np.ndarray, numbers: np.ndarray) -> Any:
        """Collate examples, given by (B,) epochs and numbers."""


def split_features(batch: Mapping[str, np.ndarray]) -> tuple[Tensors, Tensors]:
    """Split a batch of `ds_bert.data.features.Features` into the first stage's inputs and the last stage's labels."""
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in batch.items()}
    inputs = {name: tensors.pop(name) for name in INPUTS if name in tensors}
    return inputs, tensors


class DataLoader:
    """Makes this process's micro-batches.

    Args:
        examples: the data set; None on stages that read nothing.
        engine: whose place in the grid says which micro-batches are this process's.
        split: splits a batch of the data set into the first stage's inputs and the last stage's labels.
    """

    def __init__(
        self,
        examples: Examples | None,
        engine: Engine,
        split: Callable[[Any], tuple[Tensors, Tensors]] = split_features,
    ) -> None:
        self.examples, self.engine, self.grid, self.split = examples, engine, engine.grid, split

    def micro_batches(self, parts: Sequence[tuple[np.ndarray, np.ndarray]], numbers: Sequence[int]) -> list[MicroBatch]:
        """Read this replica's micro-batches.

        Args:
            parts: (epochs, example numbers) of each.
            numbers: of each in the global batch.
        """
        reads = self.grid.is_first or self.grid.is_last
        batches = [self._read(epochs, examples) for epochs, examples in parts] if reads else []
        shapes = [_shape(inputs) for inputs, _ in batches] if self.grid.is_first else None
        shapes = self.engine.share_shapes(shapes, len(parts))
        return [
            MicroBatch(
                number,
                shapes[index],
                inputs=batches[index][0] if self.grid.is_first else None,
                labels=batches[index][1] if self.grid.is_last else None,
            )
            for index, number in enumerate(numbers)
        ]

    def _read(self, epochs: np.ndarray, numbers: np.ndarray) -> tuple[dict, dict]:
        assert self.examples is not None
        batch = self.examples.batch(epochs, numbers)
        return self.split(asdict(batch) if is_dataclass(batch) and not isinstance(batch, type) else batch)

    def step(self, sampler: Any, step: int, size: int, count: int) -> list[MicroBatch]:
        """The ``count`` micro-batches of ``size`` examples that this replica computes in optimizer step ``step``."""
        replica, replicas = self.grid.replica, self.grid.num_replicas
        parts = [sampler.micro_batch(step, replica, index, size, replicas) for index in range(count)]
        return self.micro_batches(parts, [index * replicas + replica for index in range(count)])

    def measure(self, num_examples: int, size: int) -> dict[str, float]:
        """Evaluate all examples, each once, in micro-batches of up to ``size``; a collective call."""
        sums = torch.zeros(len(self.engine.objective.sums), dtype=torch.float64)
        for micro_batches, _ in self._once(np.arange(num_examples), size):
            sums += self.engine.evaluate(micro_batches)
        return self.engine.objective.report(sums)

    def predict(self, lengths: np.ndarray, size: int) -> tuple[list[Mapping[str, np.ndarray]], float | None]:
        """Compute outputs and loss of all examples, each once, those of like length together; a collective call.

        Args:
            lengths: tokens of each example, int64 (examples,).
            size: examples of a micro-batch at most.

        Returns:
            On the grid's rank 0, the outputs in the order of the examples, and the loss, normalised over all that have
            what it needs (None where none has); nothing on the others.
        """
        order = np.argsort(-lengths, kind="stable")
        outputs: dict[int, Mapping[str, np.ndarray]] = {}
        objective = self.engine.objective
        sums = torch.zeros(len(objective.sums), dtype=torch.float64)
        for micro_batches, first in self._once(order, size):
            batches, measured = self.engine.predict(micro_batches)
            sums += measured
            for number, batch in batches.items():
                arrays = {name: tensor.numpy() for name, tensor in batch.items()}
                for row, example in enumerate(order[first + number * size : first + (number + 1) * size].tolist()):
                    outputs[example] = {name: array[row] for name, array in arrays.items()}
        loss = objective.report(sums)["loss"] if sums.any() else None
        return [outputs[example] for example in range(len(outputs))], loss

    def _once(self, order: np.ndarray, size: int) -> Iterator[tuple[list[MicroBatch], int]]:
        """This replica's part of all examples, piece by piece, and where in ``order`` each piece begins."""
        replica, replicas = self.grid.replica, self.grid.num_replicas
        at_once = size * replicas * _EVALUATED_AT_ONCE
        for first in range(0, len(order), at_once):
            piece = order[first : first + at_once]
            numbers = range(replica, -(-len(piece) // size), replicas)
            parts = [piece[number * size : (number + 1) * size] for number in numbers]
            yield self.micro_batches([(np.zeros_like(part), part) for part in parts], list(numbers)), first


def _shape(inputs: dict[str, Any]) -> tuple[int, ...]:
    rows, length = inputs["input_ids"].shape
    return rows, length, int("attention_mask" in inputs)
