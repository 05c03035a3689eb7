"""What fine-tuning puts on an encoder, as the last layer of a pipeline; names are those of transformers' classes.

A head of one's own is written the same way: a `Layer` made from transformers' configuration. It is given a name by an
entry in `ds_bert.modeling.heads.HEADS`, or stands in place of a name.
"""

from typing import Any

import torch
from torch import nn

from ds_bert.modeling.families import family_of
from ds_bert.modeling.layer import Carry, Layer


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
