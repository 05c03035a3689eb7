"""Data sets of the Hugging Face hub, through the optional package `datasets`."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from ds_bert.data.feature_cache import key_fingerprint
from ds_bert.data.tables import Row, Table
from ds_bert.errors import UserError


def hub_table(name: str, config: str | None, split: str, label_names: Sequence[str] = ()) -> Table:
    """Open one split of a data set of the hub (or of a folder that `datasets` reads).

    Args:
        name: the hub's name.
        config: which of its configurations; None where it has one.
        split: "train", "validation", "test", …
        label_names: what to call the classes, by their numbers; none: as the hub does.

    Raises:
        UserError: `datasets` is not installed, or it cannot get the data.
    """
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"{name}: reading from the hub needs the package datasets (pip install datasets); or give files, "
            "with --data_dir or --train_file, --validation_file and --test_file"
        ) from None
    origin = f"{name} [{' '.join([config, split] if config else [split])}]"
    try:
        data = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # it raises many kinds: no network, no such name, no such split
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(
            f"{origin}: cannot be had from the hub ({reason}); check name and network, or give files"
        ) from None
    columns = tuple(data.column_names)
    classes = {column: names for column in columns if (names := getattr(data.features[column], "names", None))}
    if label_names:
        classes = {column: list(label_names) for column in classes}
    fingerprint = key_fingerprint({"hub": name, "config": config, "split": split, "content": data._fingerprint})
    return Table(origin, columns, fingerprint, partial(_rows, data, columns, classes), unit="row")


def _rows(data: Any, columns: Sequence[str], classes: dict[str, list[str]]) -> Iterator[Row]:
    """Yield rows, with names instead of the numbers of classes; the hub writes -1 where a class is unknown."""
    for number, record in enumerate(data, 1):
        cells = dict(record)
        for column, names in classes.items():
            value = cells[column]
            cells[column] = names[value] if value is not None and 0 <= value < len(names) else None
        yield number, [cells[column] for column in columns]
