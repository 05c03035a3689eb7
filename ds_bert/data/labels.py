"""What labels say: classes or numbers, and in which order a trained head has them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite

from ds_bert.errors import UserError

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_INTEGER = re.compile(r"[+-]?[0-9]+")
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
_SAME = {"neg": "negative", "pos": "positive", "entails": "entailment"}
_MOST_SHOWN = 20  # labels in a message
_MANY = 10  # integers that may well be meant as numbers


def as_number(label: str) -> float | None:
    """Return the finite number that a label says as people write numbers ("-3", "0.5", "1e-3"), or None.

    Python's `float` reads more than that: "1_1" as 11, " 0" as 0.
    """
    value = float(label) if _NUMBER.fullmatch(label) else None
    return value if value is not None and isfinite(value) else None


def is_integer(label: str) -> bool:
    """Say whether a label is a whole number, maybe with a sign."""
    return _INTEGER.fullmatch(label) is not None


def is_fraction(label: str) -> bool:
    """Say whether a label is a number with a decimal point, or with a negative exponent."""
    return as_number(label) is not None and ("." in label or "e-" in label.lower())


def is_not_finite(label: str) -> bool:
    """Say whether a label is how programs write that there is no number, or an infinite one: "nan", "-inf"."""
    is_too_large = _NUMBER.fullmatch(label) is not None and as_number(label) is None
    return is_too_large or _NOT_FINITE.fullmatch(label) is not None


def sorted_names(labels: Iterable[str]) -> tuple[str, ...]:
    """Order labels: as numbers where all are integers, else as text."""
    found = set(labels)
    are_integers = all(map(is_integer, found))
    return tuple(sorted(found, key=lambda name: (int(name) if are_integers else 0, name)))


def are_numbered(names: Sequence[str]) -> bool:
    """Say whether a model's labels are transformers' own LABEL_0, LABEL_1, …, which say nothing."""
    return list(names) == numbered(len(names))


def numbered(count: int) -> list[str]:
    """Return the names that transformers gives to labels without names."""
    return [f"LABEL_{number}" for number in range(count)]


def shown(names: Iterable[str]) -> str:
    """List labels in a message, each in quotes, the first of them if there are many."""
    listed = [repr(name) for name in names]
    return ", ".join(listed[:_MOST_SHOWN]) + (", …" if len(listed) > _MOST_SHOWN else "")


def describe_classes(names: Sequence[str], head: Sequence[str] | None = None) -> str:
    """Say which classes there are, in which order, and why; ``head`` are a trained head's names."""
    order = ""
    if head is not None:
        order = "; this is the order of the model's head"
        if are_numbered(head) and tuple(head) != tuple(names):
            order = f"; the model's head is taken to have this order, as its own names ({head[0]}, …) say nothing"
    elif len(names) > _MANY and all(map(is_integer, names)):
        order = "; if they are numbers to be predicted, say that it is a regression"
    return f"labels: {len(names)} classes: {shown(names)}{order}"


def describe_numbers(values: Sequence[float]) -> str:
    """Say that labels are numbers, and from where to where they go."""
    reach = f" from {min(values):g} to {max(values):g}" if values else ""
    return f"labels: numbers{reach}: a regression"


def head_names(fields: Mapping[str, object], rows: int, origin: str) -> list[str]:
    """Return the names of a trained head's labels, in the order of its rows.

    Args:
        fields: of the model's configuration: ``id2label``, or where that says nothing ``label2id``.
        rows: outputs of the head.
        origin: of the configuration, for messages.

    Returns:
        `numbered` names where the configuration has none.

    Raises:
        UserError: the names are not those of as many rows, or the two keys contradict each other.
    """
    by_id, by_name = (dict(found) if isinstance(found := fields.get(key), Mapping) else {} for key in _KEYS)
    forward = _by_row(by_id.items(), rows, f'{origin}: "id2label"')
    backward = _by_row(((number, name) for name, number in by_name.items()), rows, f'{origin}: "label2id"')
    named = [names for names in (forward, backward) if names and not are_numbered(names)]
    if len(named) == 2 and named[0] != named[1]:
        raise UserError(
            f'{origin}: "id2label" says {shown(named[0])}, "label2id" says {shown(named[1])}; needed is the same order'
        )
    return named[0] if named else numbered(rows)


_KEYS = ("id2label", "label2id")


def _by_row(pairs: Iterable[tuple[object, object]], rows: int, where: str) -> list[str]:
    """Names by their rows, from pairs of row and name; none where there are no pairs."""
    names = {str(number): str(name) for number, name in pairs}
    if not names:
        return []
    if names.keys() != {str(row) for row in range(rows)}:
        raise UserError(
            f"{where} names the labels {', '.join(names)}, but the head has {rows}, from 0 to {rows - 1}; needed is a "
            "name for each, or --drop_classifier to begin with a fresh head"
        )
    return [names[str(row)] for row in range(rows)]


def in_order_of_head(
    names: Sequence[str],
    head: Sequence[str] | None,
    needs: str,
    also: Sequence[Sequence[str]] = (),
    may_lack: bool = False,
) -> tuple[str, ...]:
    """Put a task's labels in the order in which a trained head has them, so that its rows keep their meaning.

    Labels are matched by name; capitals do not matter, "-", "_" and blanks are alike. ("A", "b") and a head of ("B",
    "a") give ("b", "A"). Where the head's names are `numbered`, the order stays.

    Args:
        names: the task's, in the order that they would have with a fresh head.
        head: the trained head's, in the order of its rows; None: the head is fresh.
        needs: what the sentence of refusal says before the task's labels, such as "rte needs".
        also: other names that trained models have for all of ``names``, in the same order.
        may_lack: whether the head may have labels that the task's examples lack; they keep their names and rows.

    Raises:
        UserError: the names do not agree.
    """
    if head is None:
        return tuple(names)
    for spelled in (names, *also):
        places = _places(spelled, head, may_lack)
        if places is not None:
            return tuple(own if place is None else names[place] for own, place in zip(head, places, strict=True))
    if are_numbered(head) and len(head) == len(names):
        return tuple(names)
    raise UserError(
        f"the model's labels are {_plainly(head)}, but {needs} {_plainly(names)}; needed are the same names, or "
        "--drop_classifier to begin with a fresh head"
    )


def _plainly(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_SHOWN]) + (", …" if len(names) > _MOST_SHOWN else "")


def _places(names: Sequence[str], head: Sequence[str], may_lack: bool) -> list[int | None] | None:
    """For each of the head's labels, its place among ``names``, None where it is not there; None if they disagree."""
    for spell in (str, _plain):
        places = {spell(name): place for place, name in enumerate(names)}
        rows = [spell(name) for name in head]
        are_distinct = len(places) == len(names) and len(set(rows)) == len(rows)
        if are_distinct and (places.keys() == set(rows) or (may_lack and places.keys() <= set(rows))):
            return [places.get(row) for row in rows]
    return None


def _plain(name: str) -> str:
    joined = re.sub(r"[-_\s]+", "_", name.strip().casefold())
    return _SAME.get(joined, joined)
