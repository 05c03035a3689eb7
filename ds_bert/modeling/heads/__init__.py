"""Heads, the last layers of pipelines. One is its entry in `HEADS`; docs/extending.md adds one.

No torch is imported before a head is built, as the command line counts costs without it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from ds_bert.modeling.heads import costs
from ds_bert.modeling.heads.costs import HeadCost, Sizes, nothing

if TYPE_CHECKING:
    from ds_bert.modeling.layer import Layer

MakeHead = Callable[[Any], "Layer"]


@dataclass(frozen=True)
class Head:
    """What is known of one head.

    Args:
        layer: a function (or class) that makes it of transformers' configuration, or "module:name" of one; None for a
            head that can be exported but not trained.
        cost: counts it, see `ds_bert.modeling.heads.costs`.
        class_ending: what follows the family's name in transformers' class of a whole model; None where there is none.
        labels: what transformers sizes its class by: the labels of a task, always two scores, or nothing.
        own_names: what the names of its weights begin with that mean something else under another head.
        extra_modules: parts of names that no class of transformers has.
    """

    layer: MakeHead | str | None = None
    cost: Callable[[Sizes], HeadCost] = nothing
    class_ending: str | None = None
    labels: Literal["of a task", "two", "none"] = "none"
    own_names: tuple[str, ...] = ()
    extra_modules: tuple[str, ...] = ()

    def make(self, config: Any) -> "Layer":
        """Build the layer."""
        assert self.layer is not None, "a head that is only exported"
        if callable(self.layer):
            return self.layer(config)
        module, _, name = self.layer.partition(":")
        return getattr(import_module(module), name)(config)


_LAYERS = "ds_bert.modeling.heads.layers"

HEADS: dict[str, Head] = {
    "base": Head(class_ending="Model"),
    "pretraining": Head("ds_bert.modeling.layers:PretrainingHead", costs.pretraining, "ForPreTraining", labels="two"),
    "masked-lm": Head(class_ending="ForMaskedLM"),
    "sequence-classification": Head(
        f"{_LAYERS}:SequenceClassificationHead",
        costs.sequence_classification,
        "ForSequenceClassification",
        "of a task",
        ("classifier.",),
    ),
    "multiple-choice": Head(
        f"{_LAYERS}:MultipleChoiceHead", costs.multiple_choice, "ForMultipleChoice", own_names=("classifier.",)
    ),
    "question-answering": Head(
        f"{_LAYERS}:QuestionAnsweringHead", costs.question_answering, "ForQuestionAnswering", "two", ("qa_outputs.",)
    ),
    "beam-question-answering": Head(
        "ds_bert.modeling.heads.layers:BeamQuestionAnsweringHead",
        costs.beam_question_answering,
        extra_modules=("beam_head",),
    ),
    "token-classification": Head(
        f"{_LAYERS}:TokenClassificationHead",
        costs.token_classification,
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
