"""Masked words, and next sentences or their order: the objective of pre-training and its measures."""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F

from ds_bert.modeling.layers import Carry


class PretrainingObjective:
    """Mean cross-entropy of the masked words plus that of the sentence pairs, each over the whole global batch.

    Dividing by the global batch's own counts, not by a micro-batch's, makes the gradient the same for every way of
    splitting a global batch (Devlin et al. 2019, appendix A.2: the loss is the sum of the two means).

    Args:
        pairs: what the measures of the sentence pairs are called after: "nsp" where the next sentence is predicted,
            "sop" where the order of sentences is (Lan et al. 2020).
    """

    def __init__(self, pairs: str = "nsp") -> None:
        self._pairs = pairs
        self.targets = ("masked_words", "next_sentence")
        # What `forward` sums per micro-batch; adding such vectors up over micro-batches and replicas is always right.
        self.sums = ("mlm_loss", "masked_words", "mlm_correct", f"{pairs}_loss", "pairs", f"{pairs}_correct")

    def counts(self, labels: Carry) -> torch.Tensor:
        """Return (masked words, pairs) of one micro-batch as a float64 vector on the CPU."""
        return torch.tensor([labels["masked_words"].numel(), labels["next_sentence"].numel()], dtype=torch.float64)

    def forward(self, outputs: Carry, labels: Carry, totals: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute a micro-batch's share of the global batch's loss.

        Args:
            outputs: ``mlm_logits`` (N, V) and ``nsp_logits`` (B, 2), whatever the pairs' question is.
            labels: ``masked_words`` (N,) and ``next_sentence`` (B,).
            totals: the global batch's `counts`, (2,), on the CPU.

        Returns:
            The share, a scalar that carries the gradient, and the vector of `sums`, (6,) float64.
        """
        mlm_logits_NV, nsp_logits_B2 = outputs["mlm_logits"], outputs["nsp_logits"]
        words_N, pairs_B = labels["masked_words"], labels["next_sentence"]
        mlm = F.cross_entropy(_at_least_fp32(mlm_logits_NV), words_N, reduction="sum")
        nsp = F.cross_entropy(_at_least_fp32(nsp_logits_B2), pairs_B, reduction="sum")
        loss = mlm / max(totals[0].item(), 1.0) + nsp / max(totals[1].item(), 1.0)
        with torch.no_grad():
            words_right, pairs_right = torch.zeros_like(mlm), torch.zeros_like(nsp)
            if not loss.requires_grad:  # in training, searching the vocabulary for every maximum is wasted time
                words_right = (mlm_logits_NV.argmax(1) == words_N).sum()
                pairs_right = (nsp_logits_B2.argmax(1) == pairs_B).sum()
            counts = [torch.full_like(mlm, words_N.numel()), torch.full_like(nsp, pairs_B.numel())]
            measures = [mlm, counts[0], words_right, nsp, counts[1], pairs_right]
            sums = torch.stack([measure.detach().double() for measure in measures])
        return loss, sums

    def report(self, sums: torch.Tensor) -> dict[str, float]:
        """Turn summed `sums` into what people read: losses in nats, accuracies as shares (0 in training)."""
        named = dict(zip(self.sums, sums.tolist(), strict=True))
        words, pairs = max(named["masked_words"], 1.0), max(named["pairs"], 1.0)
        mlm_loss, pair_loss = named["mlm_loss"] / words, named[f"{self._pairs}_loss"] / pairs
        return {
            "loss": mlm_loss + pair_loss,
            "mlm_loss": mlm_loss,
            "mlm_accuracy": named["mlm_correct"] / words,
            f"{self._pairs}_loss": pair_loss,
            f"{self._pairs}_accuracy": named[f"{self._pairs}_correct"] / pairs,
        }


def _at_least_fp32(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def split_batch(batch: Mapping[str, np.ndarray | None]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Split a batch of arrays into the first stage's inputs and the last stage's labels.

    Args:
        batch: ``input_ids``, ``token_type_ids`` and, where anything is padded, ``attention_mask`` (B, T);
            ``masked_positions`` and ``masked_labels`` (B, P), the latter -100 where a row has fewer than P;
            ``next_sentence_label`` (B,).
    """
    inputs = {
        key: torch.from_numpy(array)
        for key in ("input_ids", "token_type_ids", "attention_mask")
        if (array := batch.get(key)) is not None
    }
    positions, words, pairs = batch["masked_positions"], batch["masked_labels"], batch["next_sentence_label"]
    assert positions is not None and words is not None and pairs is not None
    length = inputs["input_ids"].shape[1]
    rows, columns = np.nonzero(words != -100)
    labels = {
        "masked_positions": torch.from_numpy(rows * length + positions[rows, columns]),
        "masked_words": torch.from_numpy(words[rows, columns]),
        "next_sentence": torch.from_numpy(pairs),
    }
    return inputs, labels
