"""A user's own texts to classify: which columns hold them, and which labels there are."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ds_bert.data.labels import (
    are_numbered,
    as_number,
    describe_classes,
    describe_numbers,
    in_order_of_head,
    is_fraction,
    is_not_finite,
    shown,
    sorted_names,
)
from ds_bert.data.tables import Table
from ds_bert.errors import UserError
from ds_bert.tasks.glue.features import TextData, TextSplit, label_name

_PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text_a", "text_b"),
    ("text1", "text2"),
)
_SINGLE = (("sentence",), ("text",))
_LABELS = ("label", "labels", "gold_label")
_INDICES = ("index", "idx", "id")


@dataclass(frozen=True)
class Columns:
    """What the user says of the columns; None: guess it where only one guess is possible.

    Args:
        text, pair: of the text, and of the second text of a pair.
        label: of the label.
    """

    text: str | None = None
    pair: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class SettingNames:
    """What the user knows the settings as, for messages that ask for one.

    Args:
        train_file, text, label: of the file of training examples, and of the columns.
        regression: of whether labels are numbers.
    """

    train_file: str = "--train_file"
    text: str = "--text_column, and --text_pair_column for pairs"
    label: str = "--label_column"
    regression: str = "--regression"


FLAGS = SettingNames()


def own_data(
    tables: Mapping[str, Table],
    splits: Collection[str],
    columns: Columns,
    label_names: Sequence[str] | None = None,
    regression: bool | None = None,
    settings: SettingNames = FLAGS,
    declared: Sequence[str] | None = None,
) -> TextData:
    """Find texts and labels in a user's own tables.

    What is not said of the labels is guessed, and `TextData.notes` say what: numbers of which one at least has a
    decimal point or a negative exponent make a regression; all others are classes, ordered as numbers where all are
    integers, else as text. Fractions beside words are refused, and "nan" or "inf" beside numbers.

    Args:
        tables: by split: "train", "eval", "predict". The labels are those of "train", even where it is not in
            ``splits``.
        splits: what to use.
        columns: what the user says of them.
        label_names: of a trained model's head, in the order of its rows, see `ds_bert.data.labels.in_order_of_head`; a
            single one means that it predicts a number. None: the head is fresh.
        regression: whether the label is a number; None: guess.
        settings: what messages call them.
        declared: the labels in the order of their ids, where the user has named them.

    Raises:
        UserError: a table that is needed is missing, a column is missing or cannot be guessed, or labels are unknown or
            not those of the model.
    """
    flags = {"train": "--train_file", "eval": "--validation_file", "predict": "--test_file"}
    for split in splits:
        if split not in tables:
            raise UserError(f"{flags[split]} is not given, but {split} is asked for; needs a .csv, .tsv or .jsonl file")
    texts = _texts(next(iter(tables.values())), columns, settings.text)
    labelled = tables.get("train", tables["eval"] if "eval" in splits else None)
    label = None if labelled is None else _label(labelled, columns.label, settings.label)
    found = {
        split: TextSplit(tables[split], texts, None if split == "predict" else label, _index(tables[split], texts))
        for split in splits
    }
    known = None
    if labelled is not None and label is not None:
        known = _Known(labelled, label, is_training="train" in tables)
    names, note = _labels(known, label_names, declared, regression, settings)
    evaluation = {"validation": found["eval"]} if "eval" in found else {}
    prediction = {"test": found["predict"]} if "predict" in found else {}
    is_guessed = columns.text is None or (label is not None and columns.label is None)
    notes = (note, _columns_taken(texts, label)) if is_guessed else (note,)
    return TextData(None, names, found.get("train"), evaluation, prediction, notes)


def _columns_taken(texts: Sequence[str], label: str | None) -> str:
    named = f"{' and '.join(map(repr, texts))} {'are the texts' if len(texts) > 1 else 'is the text'}"
    return f"columns: {named}{f', {label!r} the label' if label is not None else ''}"


@dataclass(frozen=True)
class _Known:
    """Examples with labels.

    Args:
        table, column: where the labels are.
        is_training: whether they are the examples to train on.
    """

    table: Table
    column: str
    is_training: bool

    def labels(self) -> dict[str, int]:
        """Every label that there is, and the first row that has it."""
        found: dict[str, int] = {}
        for number, (cell,) in self.table.read([self.column]):
            found.setdefault(label_name(self.table, number, cell), number)
        return found


def _labels(
    known: _Known | None,
    head: Sequence[str] | None,
    declared: Sequence[str] | None,
    regression: bool | None,
    settings: SettingNames,
) -> tuple[tuple[str, ...], str]:
    """Return the labels in the order of their ids, none in regression, and what is to be said of them."""
    if declared is not None:
        names = in_order_of_head(declared, head, "the task has")
        return names, describe_classes(names, head)
    found = known.labels() if known else {}
    if regression is None and head is not None:
        regression = len(head) == 1  # what was trained is kept
    if regression is None and known and known.is_training:
        regression = _are_numbers(known.table, found, settings.regression)
    if regression:
        values = [value for name in found if (value := as_number(name.strip())) is not None]
        return (), describe_numbers(values)
    names = _classes(known, found, head, settings.train_file)
    return names, describe_classes(names, head)


def _classes(
    known: _Known | None, found: Mapping[str, int], head: Sequence[str] | None, setting: str
) -> tuple[str, ...]:
    """Return the classes that examples have, in the order of the head or in their own."""
    if known is None and head is not None:
        return tuple(head)  # nothing but texts to predict
    says_nothing = head is None or (are_numbered(head) and found.keys() != set(head))
    if known is None or (says_nothing and not known.is_training):
        raise UserError(f"the labels and their order are not known without training examples; needs {setting} too")
    if head is None and len(found) < 2:
        raise UserError(
            f"{known.table.origin}: the column {known.column!r} holds {shown(found) or 'no example'}; needs at least "
            "two labels to tell apart"
        )
    return in_order_of_head(sorted_names(found), head, f"{known.table.origin} has", may_lack=True)


def _are_numbers(table: Table, found: Mapping[str, int], setting: str) -> bool:
    """Guess from all labels, each with its first row, whether they are numbers to be predicted.

    Raises:
        UserError: some look so and others do not.
    """
    numbers = [name for name in found if as_number(name) is not None]
    others = [name for name in found if as_number(name) is None]
    fractions = [name for name in numbers if is_fraction(name)]
    strange = next(iter(others), None)
    if strange is not None and (fractions or (numbers and all(map(is_not_finite, others)))):
        raise UserError(
            f"{table.where(found[strange])}: the label is {strange!r}, but others are numbers, such as "
            f"{(fractions or numbers)[0]!r}; needs a finite number in every {table.unit}, or {setting} false where "
            "labels are classes"
        )
    return bool(fractions) and not others


def _texts(table: Table, columns: Columns, setting: str) -> tuple[str, ...]:
    if columns.text is not None:
        return (columns.text,) if columns.pair is None else (columns.text, columns.pair)
    if columns.pair is not None:
        raise UserError(f"--text_pair_column {columns.pair} without the column of the first text; needs --text_column")
    found: list[tuple[str, ...]] = [names for names in _PAIRS if set(names) <= set(table.columns)]
    paired = {name for names in found for name in names}
    found += [names for names in _SINGLE if names[0] in table.columns and names[0] not in paired]
    if not found:
        others = [name for name in table.columns if name not in (*_LABELS, *_INDICES, columns.label)]
        found = [(others[0],)] if len(others) == 1 else []
    if len(found) != 1:
        raise UserError(
            f"{table.where(1)}: the columns are {_listed(table)}, and which of them is the text is not clear; "
            f"needs {setting}"
        )
    return found[0]


def _listed(table: Table) -> str:
    return ", ".join(map(repr, table.columns))


def _label(table: Table, said: str | None, setting: str) -> str:
    found = [said] if said is not None else [name for name in _LABELS if name in table.columns]
    if len(found) != 1:
        raise UserError(
            f"{table.where(1)}: the columns are {_listed(table)}, and which of them is the label is not clear; "
            f"needs {setting}"
        )
    return found[0]


def _index(table: Table, texts: Sequence[str]) -> str | None:
    return next((name for name in _INDICES if name in table.columns and name not in texts), None)
