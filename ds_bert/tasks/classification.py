"""Classification and regression: the objective and its measures."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ds_bert.data.features import IGNORED
from ds_bert.modeling.model import Carry


@dataclass(frozen=True)
class ClassificationObjective:
    """Mean cross-entropy, or mean squared error, over the global batch.

    Labels of `IGNORED` count for nothing (token classification). Dividing by the global batch's own count makes the
    gradient the same for every way of splitting a global batch.

    Args:
        num_labels: classes (for multiple choice: options); the numbers predicted in regression.
        regression: labels are numbers.
    """

    num_labels: int
    regression: bool = False

    @property
    def targets(self) -> tuple[str, ...]:
        """The labels that it reads."""
        return ("labels",)

    @property
    def sums(self) -> tuple[str, ...]:
        """What `forward` sums per micro-batch: the loss, what it is divided by, and correct predictions."""
        return ("loss", "labels") if self.regression else ("loss", "labels", "correct")

    def counts(self, labels: Carry) -> torch.Tensor:
        """Return the number of labels of one micro-batch that count, float64 (1,), on the CPU."""
        targets = labels["labels"]
        count = targets.numel() if self.regression else int((targets != IGNORED).sum())
        return torch.tensor([count], dtype=torch.float64)

    def forward(self, outputs: Carry, labels: Carry, totals: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute a micro-batch's share of the global batch's loss.

        Args:
            outputs: ``logits`` (..., num_labels).
            labels: ``labels`` (...), int64; in regression floating point, (B,) or (B, num_labels).
            totals: the global batch's `counts`, (1,), on the CPU.

        Returns:
            The share, a scalar that carries the gradient, and the vector of `sums`, float64.
        """
        logits = outputs["logits"]
        logits = (logits if logits.dtype == torch.float64 else logits.float()).reshape(-1, self.num_labels)
        targets = labels["labels"]
        if self.regression:
            loss = F.mse_loss(logits, targets.to(logits.dtype).reshape(logits.shape), reduction="sum")
            measures = [loss, torch.full_like(loss, targets.numel())]
        else:
            targets = targets.reshape(-1)
            loss = F.cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORED)
            counted = targets != IGNORED
            correct = (logits.detach().argmax(1) == targets) & counted
            measures = [loss, counted.sum(), correct.sum()]
        sums = torch.stack([measure.detach().double() for measure in measures])
        return loss / max(totals[0].item(), 1.0), sums

    def report(self, sums: torch.Tensor) -> dict[str, float]:
        """Turn summed `sums` into what people read: the mean loss, and in classification the accuracy as a share."""
        loss, labels, *correct = sums.tolist()
        report = {"loss": loss / max(labels, 1.0)}
        return report if self.regression else report | {"accuracy": correct[0] / max(labels, 1.0)}
