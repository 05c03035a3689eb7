"""From a data set to the micro-batches of one process; only first and last stages read."""

from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from typing import Any, Protocol

import numpy as np
import torch

from ds_bert.engine.engine import Engine
from ds_bert.engine.execution import MicroBatch
from ds_bert.tasks.pretraining import split_batch

_EVALUATED_AT_ONCE = 64  # micro-batches per replica that are read before they are computed


class Examples(Protocol):
    """Examples by number."""

    def __len__(self) -> int:
        """Number of examples of an epoch."""

    def batch(self, epochs: np.ndarray, numbers: np.ndarray) -> Any:
        """Collate examples, given by (B,) epochs and numbers."""


class Feed:
    """Makes this process's micro-batches.

    Args:
        examples: the data set; None on stages that read nothing.
        engine: whose place in the grid says which micro-batches are this process's.
    """

    def __init__(self, examples: Examples | None, engine: Engine) -> None:
        self.examples, self.engine, self.grid = examples, engine, engine.place

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
        return split_batch(asdict(batch) if is_dataclass(batch) and not isinstance(batch, type) else batch)

    def step(self, sampler: Any, step: int, size: int, count: int) -> list[MicroBatch]:
        """The ``count`` micro-batches of ``size`` examples that this replica computes in optimizer step ``step``."""
        replica, replicas = self.grid.replica, self.grid.num_replicas
        parts = [sampler.micro_batch(step, replica, index, size, replicas) for index in range(count)]
        return self.micro_batches(parts, [index * replicas + replica for index in range(count)])

    def measure(self, num_examples: int, size: int) -> dict[str, float]:
        """Evaluate all examples, each once, in micro-batches of up to ``size``; a collective call."""
        at_once = size * self.grid.num_replicas * _EVALUATED_AT_ONCE
        sums = torch.zeros(len(self.engine.objective.sums), dtype=torch.float64)
        for begin in range(0, num_examples, at_once):
            sums += self.engine.evaluate(self._range(begin, min(begin + at_once, num_examples), size))
        return self.engine.objective.report(sums)

    def _range(self, begin: int, end: int, size: int) -> list[MicroBatch]:
        """This replica's part of the examples from ``begin`` to ``end``."""
        starts = range(begin + self.grid.replica * size, end, size * self.grid.num_replicas)
        parts = []
        for start in starts:
            numbers = np.arange(start, min(start + size, end))
            parts.append((np.zeros_like(numbers), numbers))
        return self.micro_batches(parts, [start // size for start in starts])


def _shape(inputs: dict[str, Any]) -> tuple[int, ...]:
    rows, length = inputs["input_ids"].shape
    return rows, length, int("attention_mask" in inputs)
