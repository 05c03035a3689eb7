"""What the last layer of a pipeline costs: see `ds_bert.modeling.costs`, of which this counts the heads.

With width E of the word embeddings (E = H in BERT), C scores and M masked positions, the products of a forward pass are

- pretraining: 2·H² (pooler) + 2·M·H·E (transform) + 2·M·E·V (decoder) + 4·H (sentence pair);
- sequence-classification: 2·H² (pooler) + 2·H·C; multiple-choice: the same with C = 1;
- token-classification: 2·T·H·C; question-answering: the same with C = 2;
- beam-question-answering, with the true start: 2·T·H (starts) + 2·T·H² + 2·H² + 2·T·H (ends) + 2·T·H + 4·H² + 2·H
  (answerability).
"""

from collections.abc import Mapping
from typing import NamedTuple

HEAD_NAMES = (
    "pretraining",
    "sequence-classification",
    "multiple-choice",
    "question-answering",
    "beam-question-answering",
    "token-classification",
)
_MASK_BYTES = 1  # for each element that passes dropout


class HeadCost(NamedTuple):
    """Cost of a head; see `ds_bert.modeling.costs.LayerCost`."""

    parameters: int
    flops: int
    activation_bytes: int
    tied_parameters: int = 0


def head_cost(head: str, config: Mapping[str, int], tokens: int, predictions: int, width: int) -> HeadCost:
    """Count a head.

    Args:
        head: one of `HEAD_NAMES`.
        config: with ``hidden_size``, ``vocab_size``, ``embedding_size`` and ``num_labels``.
        tokens: of a sequence.
        predictions: masked positions of a sequence.
        width: bytes of an activation.
    """
    hidden, labels = config["hidden_size"], config["num_labels"]
    if head == "pretraining":
        return _pretraining(hidden, config["vocab_size"], config["embedding_size"], predictions, width)
    if head in ("sequence-classification", "multiple-choice"):
        return _pooled(hidden, 1 if head == "multiple-choice" else labels, width)
    if head == "token-classification":
        return _of_tokens(hidden, labels, tokens, width, dropped=True)
    if head == "question-answering":
        return _of_tokens(hidden, 2, tokens, width, dropped=False)
    return _beam(hidden, tokens, width)


def _pretraining(hidden: int, vocabulary: int, embedding: int, predictions: int, width: int) -> HeadCost:
    pooler = hidden * hidden + hidden
    transform = hidden * embedding + embedding + 2 * embedding
    sentence_pair = 2 * hidden + 2
    forward = 2 * hidden**2 + 2 * predictions * embedding * (hidden + vocabulary) + 4 * hidden
    # per masked position: inputs of the transform, GELU, LayerNorm and decoder, and the log-probabilities; the pooler's
    # input and output
    activations = predictions * (hidden + 3 * embedding + vocabulary) * width + 2 * hidden * width
    parameters = pooler + transform + vocabulary + sentence_pair
    return HeadCost(parameters, 3 * forward, activations, tied_parameters=vocabulary * embedding)


def _pooled(hidden: int, scores: int, width: int) -> HeadCost:
    forward = 2 * hidden**2 + 2 * hidden * scores
    # the pooler's input and output, what is left of it after dropout
    activations = hidden * (3 * width + _MASK_BYTES)
    return HeadCost(hidden * hidden + hidden + hidden * scores + scores, 3 * forward, activations)


def _of_tokens(hidden: int, scores: int, tokens: int, width: int, dropped: bool) -> HeadCost:
    activations = tokens * hidden * (width + (_MASK_BYTES if dropped else 0))
    return HeadCost(hidden * scores + scores, 3 * 2 * tokens * hidden * scores, activations)


def _beam(hidden: int, tokens: int, width: int) -> HeadCost:
    start = hidden + 1
    end = 2 * hidden * hidden + hidden + 2 * hidden + hidden + 1
    answerability = 2 * hidden * hidden + hidden + hidden
    forward = 2 * tokens * hidden * (hidden + 3) + 6 * hidden**2 + 2 * hidden
    # per token: the input, tanh's output, LayerNorm's; the start's state; both dense layers of answerability
    activations = 3 * tokens * hidden * width + hidden * (5 * width + _MASK_BYTES)
    return HeadCost(start + end + answerability, 3 * forward, activations)
