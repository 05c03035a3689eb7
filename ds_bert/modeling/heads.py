"""Heads, the last layers of pipelines. One is its entry in `HEADS`; docs/examples/own_head.py adds one.

No torch is imported before a head is built, as the command line counts costs without it (`ds_bert.modeling.costs`).
With width E of the word embeddings (E = H in BERT), C scores and M masked positions, the products of a forward pass are

- pretraining: 2·H² (pooler) + 2·M·H·E (transform) + 2·M·E·V (decoder) + 4·H (sentence pair);
- sequence-classification: 2·H² (pooler) + 2·H·C; multiple-choice: the same with C = 1;
- token-classification: 2·T·H·C; question-answering: the same with C = 2;
- beam-question-answering, with the true start: 2·T·H (starts) + 2·T·H² + 2·H² + 2·T·H (ends) + 2·T·H + 4·H² + 2·H
  (answerability).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ds_bert.command_line import load_named

if TYPE_CHECKING:
    from ds_bert.modeling.model import Layer

MakeHead = Callable[[Any], "Layer"]
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


def no_cost(sizes: Sizes) -> HeadCost:
    """Count nothing: the cost of a head that nobody has counted."""
    return HeadCost(0, 0, 0)


def pretraining_cost(sizes: Sizes) -> HeadCost:
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


def sequence_classification_cost(sizes: Sizes) -> HeadCost:
    """Count a pooler and the scores of a sequence's labels."""
    return _pooled(sizes, sizes.labels)


def multiple_choice_cost(sizes: Sizes) -> HeadCost:
    """Count a pooler and the score of one option."""
    return _pooled(sizes, 1)


def token_classification_cost(sizes: Sizes) -> HeadCost:
    """Count the scores of every token's labels, after dropout."""
    return _of_tokens(sizes, sizes.labels, _MASK_BYTES)


def question_answering_cost(sizes: Sizes) -> HeadCost:
    """Count the scores of every token as the first and as the last of an answer."""
    return _of_tokens(sizes, 2, 0)


def beam_question_answering_cost(sizes: Sizes) -> HeadCost:
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


@dataclass(frozen=True)
class Head:
    """What is known of one head.

    Args:
        layer: a function (or class) that makes it of transformers' configuration, or "module:name" of one; None for a
            head that can be exported but not trained.
        cost: counts it, of its sizes.
        class_ending: what follows the family's name in transformers' class of a whole model; None where there is none.
        labels: what transformers sizes its class by: the labels of a task, always two scores, or nothing.
        own_names: what the names of its weights begin with that mean something else under another head.
        extra_modules: parts of names that no class of transformers has.
    """

    layer: MakeHead | str | None = None
    cost: Callable[[Sizes], HeadCost] = no_cost
    class_ending: str | None = None
    labels: Literal["of a task", "two", "none"] = "none"
    own_names: tuple[str, ...] = ()
    extra_modules: tuple[str, ...] = ()

    def make(self, config: Any) -> "Layer":
        """Build the layer."""
        assert self.layer is not None, "a head that is only exported"
        return load_named(self.layer)(config)


_LAYERS = "ds_bert.modeling.head_layers"

HEADS: dict[str, Head] = {
    "base": Head(class_ending="Model"),
    "pretraining": Head("ds_bert.modeling.model:PretrainingHead", pretraining_cost, "ForPreTraining", labels="two"),
    "masked-lm": Head(class_ending="ForMaskedLM"),
    "sequence-classification": Head(
        f"{_LAYERS}:SequenceClassificationHead",
        sequence_classification_cost,
        "ForSequenceClassification",
        "of a task",
        ("classifier.",),
    ),
    "multiple-choice": Head(
        f"{_LAYERS}:MultipleChoiceHead", multiple_choice_cost, "ForMultipleChoice", own_names=("classifier.",)
    ),
    "question-answering": Head(
        f"{_LAYERS}:QuestionAnsweringHead", question_answering_cost, "ForQuestionAnswering", "two", ("qa_outputs.",)
    ),
    "beam-question-answering": Head(
        f"{_LAYERS}:BeamQuestionAnsweringHead",
        beam_question_answering_cost,
        extra_modules=("beam_head",),
    ),
    "token-classification": Head(
        f"{_LAYERS}:TokenClassificationHead",
        token_classification_cost,
        "ForTokenClassification",
        "of a task",
        ("classifier.",),
    ),
}
"""By name; of two classes that the same weights make up, the earlier is meant."""


def head_named(head: str | MakeHead) -> Head:
    """Return the entry of a name in `HEADS`, or one for a layer of the user's own, which counts as nothing."""
    return HEADS[head] if isinstance(head, str) else Head(head)


def trainable_heads() -> list[str]:
    """Names of the heads that there are layers of, pre-training's first."""
    return [name for name, head in HEADS.items() if head.layer]


def exportable_heads() -> list[str]:
    """Names of the heads that transformers has classes of."""
    return [name for name, head in HEADS.items() if head.class_ending]
