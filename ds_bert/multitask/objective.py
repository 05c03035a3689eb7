"""The loss of a batch of many tasks: the mean over the tasks present of each one's mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F

from ds_bert.engine.transport import upload
from ds_bert.modeling.model import Carry


@dataclass(frozen=True)
class MultitaskObjective:
    """Cross-entropy, or squared error where a task has no labels.

    A task's mean is over its examples of the global batch, so that micro-batches and replicas change nothing.

    Args:
        names: of the tasks, in the order of their ids.
        labels: how many each has; 0 in regression.
    """

    names: tuple[str, ...]
    labels: tuple[int, ...]

    @property
    def targets(self) -> tuple[str, ...]:
        """The labels that it reads."""
        return ("labels", "task_ids")

    @property
    def sums(self) -> tuple[str, ...]:
        """What `forward` sums per micro-batch: the losses, then the examples, of each task."""
        return (*(f"loss of {name}" for name in self.names), *(f"examples of {name}" for name in self.names))

    def counts(self, labels: Carry) -> torch.Tensor:
        """Return the examples of each task in a micro-batch, float64 (tasks,), on the CPU."""
        return self._per_task(torch.ones(len(labels["task_ids"]), dtype=torch.float64), labels["task_ids"])

    def _per_task(self, values_B: torch.Tensor, tasks_B: torch.Tensor) -> torch.Tensor:
        zeros = torch.zeros(len(self.names), dtype=torch.float64, device=values_B.device)
        return zeros.index_add(0, tasks_B, values_B.double())

    def forward(self, outputs: Carry, labels: Carry, totals: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute a micro-batch's share of the global batch's loss.

        Args:
            outputs: ``logits`` (B, C) of `ds_bert.modeling.conditional.MultitaskHead`.
            labels: ``task_ids`` (B,) int64 and ``labels`` (B,), floating point: numbers, or numbers of classes.
            totals: the global batch's `counts`, (tasks,), on the CPU.

        Returns:
            The share, a scalar that carries the gradient, and the vector of `sums`, float64.
        """
        tasks_B = labels["task_ids"]
        losses_B = self._losses(outputs["logits"], labels["labels"], tasks_B)
        weights = (totals > 0) / totals.clamp(min=1) / (totals > 0).sum().clamp(min=1)
        share = losses_B @ _on_device(tuple(weights.tolist()), losses_B.dtype, losses_B.device)[tasks_B]
        examples = self._per_task(torch.ones_like(losses_B), tasks_B)
        return share, torch.cat([self._per_task(losses_B.detach(), tasks_B), examples])

    def _losses(self, logits_BC: torch.Tensor, targets_B: torch.Tensor, tasks_B: torch.Tensor) -> torch.Tensor:
        """Each example's loss, (B,), in float32 at least."""
        logits_BC = logits_BC if logits_BC.dtype == torch.float64 else logits_BC.float()
        is_regression_B = _on_device(self.labels, torch.int64, tasks_B.device)[tasks_B] == 0
        classes_B = targets_B.long().masked_fill(is_regression_B, 0)
        errors_B = (logits_BC[:, 0] - targets_B.to(logits_BC.dtype)).square()
        return torch.where(is_regression_B, errors_B, F.cross_entropy(logits_BC, classes_B, reduction="none"))

    def report(self, sums: torch.Tensor) -> dict[str, float]:
        """Turn summed `sums` into the batch's loss and that of each task present."""
        losses, examples = sums.chunk(2)
        present = {
            name: loss / count
            for name, loss, count in zip(self.names, losses.tolist(), examples.tolist(), strict=True)
            if count
        }
        mean = sum(present.values()) / max(1, len(present))
        return {"loss": mean} | {f"{name}_loss": loss for name, loss in present.items()}


@lru_cache(maxsize=8)
def _on_device(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Copy what all micro-batches of a global batch share to the device once, without waiting for it."""
    return upload(torch.tensor(values, dtype=dtype), device)


def objective_of(tasks: Sequence[tuple[str, int]]) -> MultitaskObjective:
    """Return the objective of tasks, each given by its name and number of labels, 0 in regression."""
    names, labels = zip(*tasks, strict=True)
    return MultitaskObjective(tuple(names), tuple(labels))
