"""What fine-tuning puts on an encoder, as the last layer of a pipeline; names are those of transformers' classes.

A head of one's own is written the same way: a `Layer` made from transformers' configuration. It is given a name by an
entry in `ds_bert.modeling.heads.HEADS`, or stands in place of a name.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ds_bert.modeling.families import family_of
from ds_bert.modeling.model import Carry, Layer


class SequenceClassificationHead(Layer):
    """Scores of a sequence's labels, or its predicted numbers, from its pooled state.

    Args:
        config: with ``num_labels``.
        outputs: scores of a sequence; None for ``num_labels``.
    """

    def __init__(self, config: Any, outputs: int | None = None) -> None:
        super().__init__()
        family = family_of(config)
        self.prefixes = {"pooler.": family.prefix + family.pooler_name, "classifier.": "classifier."}
        self.pooler = family.pooler(config)
        self.dropout = nn.Dropout(family.classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, outputs or config.num_labels)

    def forward(self, carry: Carry, labels: Carry | None = None) -> dict[str, torch.Tensor]:
        """Return ``logits`` (B, labels)."""
        return {"logits": self.classifier(self.dropout(self.pooler(carry["hidden"])))}


class MultipleChoiceHead(SequenceClassificationHead):
    """Scores of an example's options, each of which is a sequence of its own.

    Args:
        config: with ``num_choices``, the options of every example.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config, outputs=1)
        self.num_choices = config.num_choices

    def forward(self, carry: Carry, labels: Carry | None = None) -> dict[str, torch.Tensor]:
        """Return ``logits`` (B, options) of B·options sequences, an example's one after another."""
        return {"logits": super().forward(carry)["logits"].view(-1, self.num_choices)}


class TokenClassificationHead(Layer):
    """Scores of every token's labels.

    Args:
        config: with ``num_labels``.
    """

    prefixes = {"classifier.": "classifier."}

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.dropout = nn.Dropout(family_of(config).classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, carry: Carry, labels: Carry | None = None) -> dict[str, torch.Tensor]:
        """Return ``logits`` (B, T, labels)."""
        return {"logits": self.classifier(self.dropout(carry["hidden"]))}


class QuestionAnsweringHead(Layer):
    """Scores of every token as the first and as the last of an answer (Devlin et al. 2019, section 4.2).

    Transformers makes as many scores as a configuration has labels; ``num_labels`` must be 2 for it to load these.
    """

    prefixes = {"qa_outputs.": "qa_outputs."}

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.qa_outputs = nn.Linear(config.hidden_size, 2)

    def forward(self, carry: Carry, labels: Carry | None = None) -> dict[str, torch.Tensor]:
        """Return ``start_logits`` and ``end_logits`` (B, T)."""
        start_logits_BT, end_logits_BT = self.qa_outputs(carry["hidden"]).unbind(-1)
        return {"start_logits": start_logits_BT, "end_logits": end_logits_BT}


DEFAULT_TOP = 5
_NEVER = -1e30  # probability 0, without infinities


class BeamQuestionAnsweringHead(Layer):
    """Answers by beam search, and whether there is one: the SQuAD 2.0 head of XLNet (Yang et al. 2019) and ALBERT.

    An answer's end is scored given its start. In training that is the true start; otherwise the best starts, each with
    its best ends. Whether a question can be answered is read from [CLS] and from the mean of the hidden states, which
    are weighted by how probable a start each token is. (arXiv 1906.08237; 1909.11942 uses it for SQuAD 2.0.)

    Args:
        config: with ``start_n_top`` starts and ``end_n_top`` ends for each, 5 where they are missing.
    """

    prefixes = {"": "beam_head."}

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.start = nn.Linear(config.hidden_size, 1)
        self.end = _EndGivenStart(config)
        self.answer = _Answerability(config)
        self.start_n_top = getattr(config, "start_n_top", DEFAULT_TOP)
        self.end_n_top = getattr(config, "end_n_top", DEFAULT_TOP)

    def forward(self, carry: Carry, labels: Carry | None = None) -> dict[str, torch.Tensor]:
        """Score answers; only [CLS] and the tokens from ``context_begin`` to before ``context_end`` (B,) may be in one.

        With ``start_positions`` (B,) in ``labels``:
            ``start_logits`` (B, T), ``end_logits`` (B, T) given the true start (of the examples that have one).
        Unless that is in training, with k starts and n ends for each, best first (fewer where there are fewer tokens):
            ``start_top_log_probs`` and ``start_top_index`` (B, k), ``end_top_log_probs`` and ``end_top_index`` (B, k,
            n): [b, i, j] is the j-th end given the i-th start. What may be in no answer has log probability -1e30.

        There is always ``answer_logits`` (B,): the logit of "there is no answer". All are in float32 at least.
        """
        assert labels is not None, "this head needs to be told where the context lies"
        hidden_BTH = carry["hidden"]
        forbidden_BT = _forbidden(labels["context_begin"], labels["context_end"], hidden_BTH.shape[1])
        start_logits_BT = _forbid(self.start(hidden_BTH).squeeze(-1), forbidden_BT)
        outputs = {"answer_logits": self.answer(hidden_BTH, start_logits_BT.softmax(-1))}
        if "start_positions" in labels:
            starts_B1 = labels["start_positions"][:, None].clamp(min=0)  # those without a target are below 0
            end_logits_BT = self.end(hidden_BTH, starts_B1).squeeze(1)
            outputs |= {"start_logits": start_logits_BT, "end_logits": _forbid(end_logits_BT, forbidden_BT)}
            if self.training:
                return outputs
        start_log_probs_Bk, starts_Bk = _best(start_logits_BT, self.start_n_top)
        end_logits_BkT = _forbid(self.end(hidden_BTH, starts_Bk), forbidden_BT[:, None])
        end_log_probs_Bkn, ends_Bkn = _best(end_logits_BkT, self.end_n_top)
        return outputs | {
            "start_top_log_probs": start_log_probs_Bk,
            "start_top_index": starts_Bk,
            "end_top_log_probs": end_log_probs_Bkn,
            "end_top_index": ends_Bkn,
        }


class _EndGivenStart(nn.Module):
    """A token's logit as the end of an answer, from its hidden state beside that of the start."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.dense = nn.Linear(2 * config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.classifier = nn.Linear(config.hidden_size, 1)

    def forward(self, hidden_BTH: torch.Tensor, starts_Bk: torch.Tensor) -> torch.Tensor:
        """Return logits (B, k, T) of hidden states (B, T, H), given each of k start positions."""
        # The matrix times (token, start), as the sum of two products: a token's is the same for all starts.
        of_token, of_start = self.dense.weight.chunk(2, dim=1)
        chosen_BkH = hidden_BTH.take_along_dim(starts_Bk[:, :, None], dim=1)
        starts_BkH = F.linear(chosen_BkH, of_start, self.dense.bias)
        states_BkTH = F.linear(hidden_BTH, of_token)[:, None] + starts_BkH[:, :, None]
        return self.classifier(self.LayerNorm(states_BkTH.tanh())).squeeze(-1)


class _Answerability(nn.Module):
    """The logit of "there is no answer", from the mean state of the probable starts beside [CLS]."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.dense = nn.Linear(2 * config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(family_of(config).classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, 1, bias=False)

    def forward(self, hidden_BTH: torch.Tensor, probabilities_BT: torch.Tensor) -> torch.Tensor:
        """Return logits (B,) of hidden states (B, T, H) and each token's probability of being the start."""
        start_BH = torch.einsum("bt,bth->bh", probabilities_BT.to(hidden_BTH.dtype), hidden_BTH)
        state_BH = self.dense(torch.cat([start_BH, hidden_BTH[:, 0]], dim=-1)).tanh()
        return _at_least_float32(self.classifier(self.dropout(state_BH)).squeeze(-1))


def _forbidden(begin_B: torch.Tensor, end_B: torch.Tensor, length: int) -> torch.Tensor:
    """Mark the tokens (B, T) that may be in no answer: all but the first and those of the context."""
    positions_T = torch.arange(length, device=begin_B.device)
    outside_BT = (positions_T < begin_B[:, None]) | (positions_T >= end_B[:, None])
    return outside_BT & (positions_T > 0)


def _forbid(logits: torch.Tensor, forbidden: torch.Tensor) -> torch.Tensor:
    return _at_least_float32(logits).masked_fill(forbidden, _NEVER)


def _at_least_float32(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _best(logits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Log probabilities over the last dimension and places of the ``count`` greatest, or of all if there are fewer."""
    best = logits.log_softmax(-1).topk(min(count, logits.shape[-1]), dim=-1)
    return best.values, best.indices
