"""Objectives of extractive question answering: where an answer begins and ends, and whether there is one."""

import torch
import torch.nn.functional as F

from ds_bert.data.features import IGNORED
from ds_bert.modeling.model import Carry


class SpanObjective:
    """The mean of the start's and the end's cross-entropy, averaged over the examples of the global batch.

    A sequence ends with the [SEP] after its context. Logits behind it are left out of the softmax, so that a
    micro-batch's padding does not change the loss. Examples whose ``start_positions`` are `IGNORED` count for nothing.
    """

    targets: tuple[str, ...] = ("start_positions", "end_positions", "context_end")
    sums: tuple[str, ...] = ("span_loss", "examples")

    def counts(self, labels: Carry) -> torch.Tensor:
        """Return the examples of one micro-batch, (1,) float64 on the CPU."""
        return _counted(labels).sum().double().cpu()[None]

    def forward(self, outputs: Carry, labels: Carry, totals: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute a micro-batch's share of the global batch's loss.

        Args:
            outputs: ``start_logits`` and ``end_logits`` (B, T).
            labels: ``start_positions``, ``end_positions`` and ``context_end`` (B,) int64.
            totals: the global batch's `counts`, (1,), on the CPU.

        Returns:
            The share, a scalar that carries the gradient, and the vector of `sums`, float64.
        """
        span = _span_loss(outputs, labels)
        return span / max(totals[0].item(), 1.0), _sums(span, labels)

    def report(self, sums: torch.Tensor) -> dict[str, float]:
        """Turn summed `sums` into the loss in nats."""
        loss, examples = sums.tolist()
        return {"loss": loss / max(examples, 1.0)}


class BeamSpanObjective(SpanObjective):
    """Half the sum of the start's, the end's and the answerability's cross-entropy, averaged over the global batch.

    That is ½ (start + end) + ½ answerability, as is usual for SQuAD v2.0.
    """

    targets = (*SpanObjective.targets, "is_impossible")
    sums = ("span_loss", "answerability_loss", "examples")

    def forward(self, outputs: Carry, labels: Carry, totals: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute a micro-batch's share of the global batch's loss, as `SpanObjective.forward` does.

        Args:
            outputs: moreover ``answer_logits`` (B,), the logit of "there is no answer".
            labels: moreover ``is_impossible`` (B,).
            totals: the global batch's `counts`, (1,), on the CPU.
        """
        span = _span_loss(outputs, labels)
        logits_B = _at_least_fp32(outputs["answer_logits"])
        targets_B = labels["is_impossible"].to(logits_B.dtype)
        weights_B = _counted(labels).to(logits_B.dtype)
        answerability = F.binary_cross_entropy_with_logits(logits_B, targets_B, weights_B, reduction="sum") / 2
        return (span + answerability) / max(totals[0].item(), 1.0), _sums(span, labels, answerability)

    def report(self, sums: torch.Tensor) -> dict[str, float]:
        """Turn summed `sums` into the loss in nats and its two parts, which add up to it."""
        span, answerability, examples = sums.tolist()
        examples = max(examples, 1.0)
        return {
            "loss": (span + answerability) / examples,
            "span_loss": span / examples,
            "answerability_loss": answerability / examples,
        }


def _span_loss(outputs: Carry, labels: Carry) -> torch.Tensor:
    """Half the sum of the start's and the end's cross-entropy, summed over the micro-batch."""
    losses = [
        F.cross_entropy(
            _without_padding(outputs[f"{side}_logits"], labels),
            labels[f"{side}_positions"],
            reduction="sum",
            ignore_index=IGNORED,
        )
        for side in ("start", "end")
    ]
    return (losses[0] + losses[1]) / 2


def _counted(labels: Carry) -> torch.Tensor:
    """Which examples have a target, bool (B,)."""
    return labels["start_positions"] != IGNORED


def _without_padding(logits_BT: torch.Tensor, labels: Carry) -> torch.Tensor:
    places_T = torch.arange(logits_BT.shape[1], device=logits_BT.device)
    return _at_least_fp32(logits_BT).masked_fill(places_T > labels["context_end"][:, None], -torch.inf)


def _at_least_fp32(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _sums(span: torch.Tensor, labels: Carry, *others: torch.Tensor) -> torch.Tensor:
    examples = _counted(labels).sum()
    return torch.stack([measure.detach().double() for measure in (span, *others, examples)])
