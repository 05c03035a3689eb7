"""Which of a checkpoint's parameters one of transformers' classes takes, which it has no place for, which it adds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ds_bert.checkpoint.convert.classes import Shapes, head_of, heads_of, known_names, shapes_of
from ds_bert.errors import UserError
from ds_bert.modeling.families import family_of
from ds_bert.modeling.heads import HEADS


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
        head: one of `ds_bert.modeling.heads.exportable_heads`, or None for the one that the parameters make up.
        num_labels: of the class; None for as many as the checkpoint has, or, with another head, two.

    Raises:
        UserError: the head has no labels to choose, or a part of the encoder is lacking or of another shape.
    """
    known = known_names(fields)
    stored = head_of(fields, found.keys() & known)
    head = head or stored
    if head not in heads_of(fields):
        there = ", ".join(heads_of(fields))
        raise UserError(f"--head {head}: transformers has no such class of {fields['model_type']}, it has {there}")
    fields = _with_labels(fields, head, stored, num_labels)
    shapes = shapes_of(fields, head)
    # Two heads' classifiers are not each other's.
    own = tuple(name for entry in HEADS.values() for name in entry.own_names)
    taken, fresh = [], {}
    for name, shape in shapes.items():
        is_others = head != stored and name.startswith(own)
        if name in found and found[name] == shape and not is_others:
            taken.append(name)
        elif name.startswith(family_of(fields).prefix) and ".pooler." not in name:
            has = f"has shape {found[name]}" if name in found else "is not there"
            raise UserError(f"the checkpoint's {name} {has}, but {shape} is what its configuration says")
        else:
            fresh[name] = shape
    dropped = sorted(name for name in found if name in known and name not in taken)
    return Export(head, fields, taken, fresh, dropped, sorted(found.keys() - known))


def _with_labels(fields: Mapping[str, Any], head: str, stored: str, num_labels: int | None) -> dict[str, Any]:
    if num_labels is not None and HEADS[head].labels != "of a task":
        raise UserError(f"--num_labels {num_labels}: --head {head} has no labels to choose")
    if num_labels is not None and num_labels < 1:
        raise UserError(f"--num_labels is {num_labels}, expected at least 1")
    labels = len(fields.get("id2label") or ()) or fields.get("num_labels") or 2
    wanted = num_labels or (labels if head == stored and HEADS[head].labels != "two" else 2)
    kept = dict(fields)
    if wanted != labels or head != stored:
        of_labels = ("id2label", "label2id", "problem_type", "finetuning_task")
        kept = {key: value for key, value in kept.items() if key not in of_labels}
    return {**kept, "num_labels": wanted}
