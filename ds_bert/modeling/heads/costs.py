"""What the last layer of a pipeline costs: see `ds_bert.modeling.costs`, of which this counts the heads.

With width E of the word embeddings (E = H in BERT), C scores and M masked positions, the products of a forward pass are

- pretraining: 2·H² (pooler) + 2·M·H·E (transform) + 2·M·E·V (decoder) + 4·H (sentence pair);
- sequence-classification: 2·H² (pooler) + 2·H·C; multiple-choice: the same with C = 1;
- token-classification: 2·T·H·C; question-answering: the same with C = 2;
- beam-question-answering, with the true start: 2·T·H (starts) + 2·T·H² + 2·H² + 2·T·H (ends) + 2·T·H + 4·H² + 2·H
  (answerability).
"""

from dataclasses import dataclass
from typing import NamedTuple

_MASK_BYTES = 1  # for each element that passes dropout


@dataclass(frozen=True)
class Sizes:
    """What the cost of a head is a function of.

    Args:
        hidden: H, width of the encoder.
        embedding: E, width of the word embeddings.
        vocabulary: V, words.
        labels: of a task.
        tokens: T, of a sequence.
        predictions: M, masked positions of a sequence.
        width: bytes of an activation.
    """

    hidden: int
    embedding: int
    vocabulary: int
    labels: int
    tokens: int
    predictions: int
    width: int


class HeadCost(NamedTuple):
    """Cost of a head; see `ds_bert.modeling.costs.LayerCost`."""

    parameters: int
    flops: int
    activation_bytes: int
    tied_parameters: int = 0


def nothing(sizes: Sizes) -> HeadCost:
    """Count nothing: the cost of a head that nobody has counted."""
    return HeadCost(0, 0, 0)


def pretraining(sizes: Sizes) -> HeadCost:
    """Count the head of masked words and sentence pairs."""
    hidden, embedding, vocabulary = sizes.hidden, sizes.embedding, sizes.vocabulary
    pooler = hidden * hidden + hidden
    transform = hidden * embedding + embedding + 2 * embedding
    sentence_pair = 2 * hidden + 2
    forward = 2 * hidden**2 + 2 * sizes.predictions * embedding * (hidden + vocabulary) + 4 * hidden
    # per masked position: inputs of the transform, GELU, LayerNorm and decoder, and the log-probabilities; the pooler's
    # input and output
    activations = (sizes.predictions * (hidden + 3 * embedding + vocabulary) + 2 * hidden) * sizes.width
    parameters = pooler + transform + vocabulary + sentence_pair
    return HeadCost(parameters, 3 * forward, activations, tied_parameters=vocabulary * embedding)


def sequence_classification(sizes: Sizes) -> HeadCost:
    """Count a pooler and the scores of a sequence's labels."""
    return _pooled(sizes, sizes.labels)


def multiple_choice(sizes: Sizes) -> HeadCost:
    """Count a pooler and the score of one option."""
    return _pooled(sizes, 1)


def token_classification(sizes: Sizes) -> HeadCost:
    """Count the scores of every token's labels, after dropout."""
    return _of_tokens(sizes, sizes.labels, _MASK_BYTES)


def question_answering(sizes: Sizes) -> HeadCost:
    """Count the scores of every token as the first and as the last of an answer."""
    return _of_tokens(sizes, 2, 0)


def beam_question_answering(sizes: Sizes) -> HeadCost:
    """Count starts, ends given the true start, and answerability."""
    hidden, tokens = sizes.hidden, sizes.tokens
    start = hidden + 1
    end = 2 * hidden * hidden + hidden + 2 * hidden + hidden + 1
    answerability = 2 * hidden * hidden + hidden + hidden
    forward = 2 * tokens * hidden * (hidden + 3) + 6 * hidden**2 + 2 * hidden
    # per token: the input, tanh's output, LayerNorm's; the start's state; both dense layers of answerability
    activations = 3 * tokens * hidden * sizes.width + hidden * (5 * sizes.width + _MASK_BYTES)
    return HeadCost(start + end + answerability, 3 * forward, activations)


def _pooled(sizes: Sizes, scores: int) -> HeadCost:
    hidden = sizes.hidden
    forward = 2 * hidden**2 + 2 * hidden * scores
    # the pooler's input and output, what is left of it after dropout
    activations = hidden * (3 * sizes.width + _MASK_BYTES)
    return HeadCost(hidden * hidden + hidden + hidden * scores + scores, 3 * forward, activations)


def _of_tokens(sizes: Sizes, scores: int, mask_bytes: int) -> HeadCost:
    hidden, tokens = sizes.hidden, sizes.tokens
    activations = tokens * hidden * (sizes.width + mask_bytes)
    return HeadCost(hidden * scores + scores, 3 * 2 * tokens * hidden * scores, activations)
