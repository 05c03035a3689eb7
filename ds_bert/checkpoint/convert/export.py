"""Which of a checkpoint's parameters one of transformers' classes takes, which it has no place for, which it adds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ds_bert.checkpoint.convert.classes import Shapes, head_of, known_names, shapes_of
from ds_bert.errors import UserError

# Names that mean something else under every head: two heads' classifiers are not each other's.
_OWN = ("classifier.", "qa_outputs.")
_WITHOUT_LABELS = ("base", "pretraining", "masked-lm", "multiple-choice", "question-answering")
# Transformers sizes these heads by the configuration's labels too; each has two scores, whatever is classified.
_TWO_SCORES = ("pretraining", "question-answering")


@dataclass(frozen=True)
class Export:
    """What becomes of a checkpoint's parameters.

    Args:
        head: of the class.
        fields: configuration of the class.
        taken: names whose weights are the checkpoint's.
        fresh: names that begin anew, with their shapes.
        dropped: names of the checkpoint that the class has no place for, but another one has.
        extra: names that no class has.
    """

    head: str
    fields: dict[str, Any]
    taken: list[str]
    fresh: Shapes
    dropped: list[str]
    extra: list[str]


def plan_export(fields: Mapping[str, Any], found: Shapes, head: str | None, num_labels: int | None) -> Export:
    """Compare a checkpoint with a class.

    Args:
        fields: the checkpoint's configuration.
        found: its parameters.
        head: one of `classes.HEADS`, or None for the one that the parameters make up.
        num_labels: of the class; None for as many as the checkpoint has, or, with another head, two.

    Raises:
        UserError: the head has no labels to choose, or a part of the encoder is lacking or of another shape.
    """
    known = known_names(fields)
    stored = head_of(fields, found.keys() & known)
    head = head or stored
    fields = _with_labels(fields, head, stored, num_labels)
    shapes = shapes_of(fields, head)
    taken, fresh = [], {}
    for name, shape in shapes.items():
        is_others = head != stored and name.startswith(_OWN)
        if name in found and found[name] == shape and not is_others:
            taken.append(name)
        elif name.startswith(f"{fields['model_type']}.") and ".pooler." not in name:
            has = f"has shape {found[name]}" if name in found else "is not there"
            raise UserError(f"the checkpoint's {name} {has}, but {shape} is what its configuration says")
        else:
            fresh[name] = shape
    dropped = sorted(name for name in found if name in known and name not in taken)
    return Export(head, fields, taken, fresh, dropped, sorted(found.keys() - known))


def _with_labels(fields: Mapping[str, Any], head: str, stored: str, num_labels: int | None) -> dict[str, Any]:
    if num_labels is not None and head in _WITHOUT_LABELS:
        raise UserError(f"--num_labels {num_labels}: --head {head} has no labels to choose")
    if num_labels is not None and num_labels < 1:
        raise UserError(f"--num_labels is {num_labels}, expected at least 1")
    labels = len(fields.get("id2label") or ()) or fields.get("num_labels") or 2
    wanted = num_labels or (labels if head == stored and head not in _TWO_SCORES else 2)
    kept = dict(fields)
    if wanted != labels or head != stored:
        of_labels = ("id2label", "label2id", "problem_type", "finetuning_task")
        kept = {key: value for key, value in kept.items() if key not in of_labels}
    return {**kept, "num_labels": wanted}
