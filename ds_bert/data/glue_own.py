"""A user's own texts to classify: which columns hold them, and which labels there are."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ds_bert.data.glue_features import Source, TextData, as_number, label_name
from ds_bert.data.tables import Table
from ds_bert.errors import UserError

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
class Settings:
    """What the user knows the settings as, for messages that ask for one.

    Args:
        train_file, text, label: of the file of training examples, and of the columns.
    """

    train_file: str = "--train_file"
    text: str = "--text_column, and --text_pair_column for pairs"
    label: str = "--label_column"


FLAGS = Settings()


def own_data(
    tables: Mapping[str, Table],
    splits: Collection[str],
    columns: Columns,
    label_names: Sequence[str] | None = None,
    regression: bool | None = None,
    settings: Settings = FLAGS,
) -> TextData:
    """Find texts and labels in a user's own tables.

    Labels that are all integers are ordered as numbers, others as text. Labels that are all numbers, not all of them
    integers, make a regression.

    Args:
        tables: by split: "train", "eval", "predict". The labels are those of "train", even where it is not in
            ``splits``.
        splits: what to use.
        columns: what the user says of them.
        label_names: in the order of their ids, where a trained model has fixed it. Where they are LABEL_0, LABEL_1, …,
            training examples name them if there are any.
        regression: whether the label is a number; None: guess.
        settings: what messages call them.

    Raises:
        UserError: a table that is needed is missing, a column is missing or cannot be guessed, or labels are unknown.
    """
    flags = {"train": "--train_file", "eval": "--validation_file", "predict": "--test_file"}
    for split in splits:
        if split not in tables:
            raise UserError(f"{flags[split]} is not given, but {split} is asked for; needs a .csv, .tsv or .jsonl file")
    texts = _texts(next(iter(tables.values())), columns, settings.text)
    label = None
    if "train" in tables or "eval" in splits:
        label = _label(tables["train"] if "train" in tables else tables["eval"], columns.label, settings.label)
    sources = {
        split: Source(tables[split], texts, None if split == "predict" else label, _index(tables[split], texts))
        for split in splits
    }
    training = (tables["train"], label) if "train" in tables and label is not None else None
    names = _names(training, label_names, regression, settings.train_file)
    evaluation = {"validation": sources["eval"]} if "eval" in sources else {}
    prediction = {"test": sources["predict"]} if "predict" in sources else {}
    return TextData(None, names, sources.get("train"), evaluation, prediction)


def are_numbered(names: Sequence[str]) -> bool:
    """Say whether a model's labels are transformers' own LABEL_0, LABEL_1, …, which say nothing."""
    return list(names) == [f"LABEL_{number}" for number in range(len(names))]


def _names(
    training: tuple[Table, str] | None, label_names: Sequence[str] | None, regression: bool | None, setting: str
) -> tuple[str, ...]:
    """Return the labels in the order of their ids; none in regression.

    Args:
        training: training examples and the column of their labels.
        label_names: those of a trained model; one that predicts a number has a single one.
        regression: what the user says.
        setting: what a message calls the training file.
    """
    if regression or (regression is None and label_names is not None and len(label_names) == 1):
        return ()
    if label_names is not None and not (training and are_numbered(label_names)):
        return tuple(label_names)
    if training is None:
        raise UserError(f"the labels and their order are not known without training examples; needs {setting} too")
    return _label_names(*training, regression)


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
            f"{table.where(1)}: which of the columns {', '.join(map(repr, table.columns))} is the text is not clear; "
            f"needs {setting}"
        )
    return found[0]


def _label(table: Table, said: str | None, setting: str) -> str:
    found = [said] if said is not None else [name for name in _LABELS if name in table.columns]
    if len(found) != 1:
        raise UserError(
            f"{table.where(1)}: which of the columns {', '.join(map(repr, table.columns))} is the label is not clear; "
            f"needs {setting}"
        )
    return found[0]


def _index(table: Table, texts: Sequence[str]) -> str | None:
    return next((name for name in _INDICES if name in table.columns and name not in texts), None)


def _label_names(table: Table, column: str, regression: bool | None) -> tuple[str, ...]:
    """Return the labels of training examples in the order of their ids; none where they are numbers."""
    found = {label_name(table, number, cell) for number, (cell,) in table.read([column])}
    are_integers = all(map(_is_integer, found))
    if regression is None and not are_integers and all(as_number(name) is not None for name in found):
        return ()
    if len(found) < 2:
        shown = ", ".join(map(repr, found)) or "no example"
        raise UserError(f"{table.origin}: the column {column!r} holds {shown}; needs at least two labels to tell apart")
    return tuple(sorted(found, key=lambda name: (int(name) if are_integers else 0, name)))


def _is_integer(name: str) -> bool:
    return name.removeprefix("-").isdecimal()
