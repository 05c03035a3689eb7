"""Which tasks to train on: names, or a file of names and declarations."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ds_bert.errors import UserError
from ds_bert.files import read_json, read_text
from ds_bert.tasks.glue.benchmark import OTHER_TASKS, find_task
from ds_bert.training.log import is_error

PAPER = ("cola", "mnli", "rte", "wnli", "qqp", "stsb", "sst2", "qnli", "mrpc")
"""GLUE's tasks in the order of the paper's task ids."""
AVERAGE, SPREAD, ALL = "average", "spread", "all"
"""What results call the tasks as a whole; no task has such a name."""
_KNOWN = (*PAPER, *OTHER_TASKS)
_FILES = ("train_file", "validation_file", "test_file")
_KEYS = ("name", *_FILES, "text_columns", "label_column", "labels", "regression", "metric")


@dataclass(frozen=True)
class TaskEntry:
    """One task of the list.

    Args:
        name: official, or the user's.
        train_file, validation_file, test_file: of the user's own task.
        text_columns: the column of the text, or of a pair; none: guessed.
        label_column: None: guessed.
        labels: in the order of their ids; None: those of the training file.
        regression: whether labels are numbers; None: guessed.
        metric: the measure that is the task's score; None: the usual one.
    """

    name: str
    train_file: Path | None = None
    validation_file: Path | None = None
    test_file: Path | None = None
    text_columns: tuple[str, ...] = ()
    label_column: str | None = None
    labels: tuple[str, ...] | None = None
    regression: bool | None = None
    metric: str | None = None

    @property
    def is_own(self) -> bool:
        """Whether the user has declared it."""
        return self.name not in _KNOWN


def read_tasks(words: Sequence[str], of_checkpoint: Sequence[str] = ()) -> list[TaskEntry]:
    """Make the list of what `--tasks` was given.

    Args:
        words: names, or one file; nothing means those of the checkpoint, or else GLUE's nine.
        of_checkpoint: names of the tasks that the model was trained on.

    Raises:
        UserError: no such task or file, a declaration with wrong keys or types, a task that stands there twice, or a
            checkpoint of tasks of one's own, whose files are not known.
    """
    if not words:
        words = of_checkpoint or PAPER
        own = [name for name in of_checkpoint if name not in _KNOWN]
        if own:
            raise UserError(
                f"--tasks is not given, but the model was trained on {', '.join(own)}, which no official task is; "
                "needed is --tasks with the file that it was trained with"
            )
    if len(words) == 1 and (Path(words[0]).suffix or Path(words[0]).is_file()):
        entries = _read_file(Path(words[0]))
    else:
        entries = [_official(word, "--tasks") for word in words]
    names = [entry.name for entry in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"--tasks {' '.join(words)}: the task {twice[0]} stands there twice; needed is each once")
    if not entries:
        raise UserError(f"--tasks {' '.join(words)}: found no task, needed is at least one")
    return entries


def _official_name(name: str) -> str | None:
    try:
        return find_task(name).name
    except UserError:
        return None


def _official(name: str, where: str) -> TaskEntry:
    found = _official_name(name)
    if found is None or found not in _KNOWN:
        raise UserError(
            f"{where}: no task {name!r} is known; needed are names among {', '.join(_KNOWN)}, or a JSON file that "
            "declares it"
        )
    return TaskEntry(found)


def _read_file(path: Path) -> list[TaskEntry]:
    if path.suffix != ".json":
        lines = read_text(path).splitlines()
        return [
            _official(line.strip(), f"{path}: line {number}") for number, line in enumerate(lines, 1) if line.strip()
        ]
    data = read_json(path)
    if not isinstance(data, list):
        raise UserError(f"{path}: holds a {type(data).__name__}, needed is a list of tasks: names, or objects")
    entries = []
    for number, item in enumerate(data, 1):
        where = f"{path}: task {number}"
        if isinstance(item, str):
            entries.append(_official(item, where))
        elif isinstance(item, dict):
            entries.append(_declared(item, where, path.parent))
        else:
            raise UserError(f"{where} is {item!r}, needed is a name or an object")
    return entries


def _declared(item: Mapping[str, Any], where: str, folder: Path) -> TaskEntry:
    unknown = sorted(item.keys() - set(_KEYS))
    if unknown:
        raise UserError(f"{where}: unknown key {unknown[0]!r}; known are {', '.join(_KEYS)}")
    name, regression = _name(item, where), _typed(item, "regression", bool, where)
    labels = _labels(item, where)
    if labels is not None and regression:
        raise UserError(f'{where}: has both "labels" and "regression", needed is one: classes, or numbers')
    texts = _texts(item, "text_columns", where) or ()
    if len(texts) > 2:
        raise UserError(f'{where}: "text_columns" names {len(texts)} columns, needed are one or two')
    files = {key: _typed(item, key, str, where) for key in _FILES}
    return TaskEntry(
        name,
        **{key: folder / file if file else None for key, file in files.items()},
        text_columns=texts,
        label_column=_typed(item, "label_column", str, where),
        labels=labels,
        regression=False if labels is not None else regression,
        metric=_typed(item, "metric", str, where),
    )


def _name(item: Mapping[str, Any], where: str) -> str:
    name = _typed(item, "name", str, where)
    if not name or not re.fullmatch(r"[\w-]+", name) or _official_name(name):
        raise UserError(
            f'{where}: "name" is {name!r}, needed are letters, digits, "_" and "-" that are no official task\'s name'
        )
    if name in (AVERAGE, SPREAD, ALL):
        raise UserError(f'{where}: "name" is {name!r}, which results call all tasks together; needed is another')
    if is_error(name):
        raise UserError(
            f'{where}: "name" is {name!r}, which in results is an error, the lower the better; needed is another'
        )
    return name


def _labels(item: Mapping[str, Any], where: str) -> tuple[str, ...] | None:
    labels = _texts(item, "labels", where)
    if labels is None:
        return None
    if len(set(labels)) < 2:
        raise UserError(f'{where}: "labels" is {list(labels)}, needed are at least two to tell apart')
    if len(set(labels)) < len(labels):
        raise UserError(f'{where}: "labels" is {list(labels)}, needed is each once')
    return labels


def _typed(item: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    value = item.get(key)
    if value is None or type(value) is kind:
        return value
    needed = {str: "a text", bool: "true or false"}[kind]
    raise UserError(f'{where}: "{key}" is {value!r} (a {type(value).__name__}), needed is {needed}')


def _texts(item: Mapping[str, Any], key: str, where: str) -> tuple[str, ...] | None:
    value = item.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise UserError(f'{where}: "{key}" is {value!r} (a {type(value).__name__}), needed is a list of texts')
    return tuple(value)
