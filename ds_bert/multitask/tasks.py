"""From the list of tasks to one task: examples numbered through all of them, splits of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ds_bert.data.feature_cache import key_fingerprint
from ds_bert.data.features import Features
from ds_bert.data.vocabulary import Tokenizer
from ds_bert.errors import UserError
from ds_bert.modeling.conditional import MultitaskHead
from ds_bert.multitask.objective import objective_of
from ds_bert.multitask.sampling import stand_in
from ds_bert.multitask.task_list import AVERAGE, TaskEntry
from ds_bert.tasks.glue.benchmark import find_task
from ds_bert.tasks.glue.own_data import SettingNames
from ds_bert.tasks.glue.task import GlueOptions, glue_task
from ds_bert.tasks.task import SCORE, DataOptions, Outputs, Split, Task
from ds_bert.training.log import LOSS, is_error

DIAGNOSTIC = "diagnostic"


@dataclass(frozen=True)
class MultitaskTask(Task):
    """Many tasks as one; its splits are named "task/split".

    Args:
        members: the tasks, in the order of their ids.
    """

    members: tuple[Task, ...] = ()

    @property
    def all_notes(self) -> tuple[str, ...]:
        """Of the members; their examples' are among `notes`."""
        return self.notes

    @property
    def sizes(self) -> list[int]:
        """Training examples of each task."""
        return [len(member.train or ()) for member in self.members]

    @property
    def label_counts(self) -> list[int]:
        """Labels of each task; 0 in regression."""
        return [len(described["labels"]) for described in self.config["tasks"]]

    def stand_in(self) -> int:
        """Choose the task whose uncertainty regressions have; raises `UserError` where all are regressions."""
        return stand_in([member.name for member in self.members], self.label_counts, self.sizes)


def build_tasks(
    entries: Sequence[TaskEntry],
    data_dir: str | Path | None,
    tokenizer: Tokenizer,
    data: DataOptions,
    decoders: Mapping[str, Sequence[str]] | None = None,
) -> list[Task]:
    """Read every task's examples.

    Args:
        entries: the list.
        data_dir: with a folder for each official task; None: the hub.
        tokenizer: of the model.
        data: what all tasks are told of their data.
        decoders: labels of the decoders that a trained model has, by their tasks' names, in the order of their rows.

    Raises:
        UserError: files are missing or not as they should be, or a task's labels are not those of its decoder.
    """
    tasks = []
    for entry in entries:
        known = (decoders or {}).get(entry.name)
        if entry.is_own:
            task = _own_task(entry, tokenizer, data, known)
        else:
            task = glue_task(GlueOptions(data, entry.name, _folder(entry.name, data_dir)), tokenizer, known)
        tasks.append(replace(task, notes=tuple(f"{entry.name}: {note}" for note in task.all_notes)))
    return tasks


def _folder(name: str, data_dir: str | Path | None) -> Path | None:
    if data_dir is None:
        return None
    folder = Path(data_dir) / find_task(name).folder
    if not folder.is_dir():
        raise UserError(f"{data_dir}: has no folder {folder.name}, which the task {name} needs (see --tasks)")
    return folder


def _own_task(entry: TaskEntry, tokenizer: Tokenizer, data: DataOptions, decoder: Sequence[str] | None) -> Task:
    files = {"train": entry.train_file, "eval": entry.validation_file, "predict": entry.test_file}
    keys = {"train": "train_file", "eval": "validation_file", "predict": "test_file"}
    needed = ("train", "eval") if any(files.values()) else tuple(keys)  # not every task need have predictions
    for split in needed:
        if split in data.splits and files[split] is None:
            raise UserError(f'--tasks: the task {entry.name} has no "{keys[split]}", but {split} is asked for')
    text, pair = (*entry.text_columns, None, None)[:2]
    options = GlueOptions(
        replace(data, splits={split for split in data.splits if files[split] is not None}),
        train_file=entry.train_file,
        validation_file=entry.validation_file,
        test_file=entry.test_file,
        text_column=text,
        text_pair_column=pair,
        label_column=entry.label_column,
        regression=entry.regression,
        declared_labels=entry.labels,
        setting_names=SettingNames(
            train_file=f'"train_file" or "labels" of {entry.name}',
            text=f'"text_columns" of {entry.name}',
            label=f'"label_column" of {entry.name}',
            regression=f'"regression" of {entry.name}:',
        ),
    )
    task = glue_task(options, tokenizer, decoder)
    scores = [measure for measure in task.measures if not is_error(measure)]  # the highest average is chosen
    if entry.metric and entry.metric not in scores:
        raise UserError(f'--tasks: "metric" of {entry.name} is {entry.metric!r}, needed is one of {", ".join(scores)}')
    prediction = {name: _in_folder(split, entry.name) for name, split in task.prediction.items()}
    return replace(task, name=entry.name, best_metric=entry.metric or task.best_metric, prediction=prediction)


def _in_folder(split: Split, name: str) -> Split:
    """Let own tasks, whose files would have one name, write into folders of their own."""

    def write(outputs: Sequence[Outputs], folder: Path) -> Sequence[Path]:
        assert split.write is not None
        return split.write(outputs, folder / name)

    return replace(split, write=write)


def combine(tasks: Sequence[Task], model: Mapping[str, Any], share_of_largest: float = 1.0) -> MultitaskTask:
    """Make one task of many.

    Args:
        tasks: in the order of their ids.
        model: what is added to the model's configuration beside the tasks.
        share_of_largest: of the largest task's training examples; no task uses more than so many.
    """
    described: list[dict[str, Any]] = [{"name": task.name, "labels": _labels(task)} for task in tasks]
    sizes = [len(task.train) for task in tasks if task.train is not None]
    if sizes and share_of_largest < 1:
        limit = max(1, round(share_of_largest * max(sizes)))
        tasks = [replace(task, train=_first(task.train, limit)) for task in tasks]
    has_training = all(task.train is not None for task in tasks)
    return MultitaskTask(
        name="many tasks",
        head=MultitaskHead,
        config={**model, "tasks": described},
        objective=objective_of([(task["name"], len(task["labels"])) for task in described]),
        train=_join([task.train for task in tasks]) if has_training else None,
        evaluation=_splits([task.evaluation for task in tasks], tasks),
        prediction=_splits([task.prediction for task in tasks], tasks),
        best_metric=AVERAGE,
        measures=(AVERAGE, *(task.name for task in tasks), *(f"{task.name}_{LOSS}" for task in tasks)),
        unit=SCORE,
        loss_unit="mean over the tasks",
        fingerprint=key_fingerprint(
            {"tasks": described, "data": [task.fingerprint for task in tasks], "share": share_of_largest}
        )
        if has_training
        else "",
        members=tuple(tasks),
        notes=tuple(note for task in tasks for note in task.notes),
    )


def _labels(task: Task) -> list[str]:
    names = task.config["id2label"]
    return [] if task.config["problem_type"] == "regression" else [names[number] for number in sorted(names)]


def _splits(parts: Sequence[Mapping[str, Split]], tasks: Sequence[Task]) -> dict[str, Split]:
    return {
        f"{task.name}/{name}": replace(split, examples=_mark(split.examples, number))
        for number, (task, splits) in enumerate(zip(tasks, parts, strict=True))
        for name, split in splits.items()
    }


def _mark(examples: Any, task: int) -> Features:
    """Say of which task examples are."""
    columns = {**examples.columns, "task_ids": np.full(len(examples), task, dtype=np.int64)}
    return replace(examples, columns=columns)


def _first(examples: Any, count: int) -> Features:
    """The first ``count`` examples, or all if there are fewer."""
    columns = {name: column[:count] for name, column in examples.columns.items()}
    starts = examples.starts[: count + 1]
    return replace(
        examples,
        tokens=examples.tokens[: int(starts[-1])],
        starts=starts,
        first_segments=examples.first_segments[:count],
        columns=columns,
    )


def _join(parts: Sequence[Any]) -> Features:
    """Lay the tasks' examples one behind the other, with ``labels`` float32 and ``task_ids`` int64."""
    lengths = np.concatenate([np.diff(part.starts) for part in parts])
    return Features(
        tokens=np.concatenate([part.tokens for part in parts]),
        starts=np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)]),
        first_segments=np.concatenate([part.first_segments for part in parts]),
        pad_id=parts[0].pad_id,
        columns={
            "labels": np.concatenate([part.columns["labels"].astype(np.float32) for part in parts]),
            "task_ids": np.repeat(np.arange(len(parts)), [len(part) for part in parts]),
        },
    )


def check_training(task: MultitaskTask, entries: Sequence[TaskEntry], sampling: str) -> None:
    """Refuse training examples, as they are used, that nothing can be learned from.

    Args:
        task: of the entries.
        entries: the list.
        sampling: see `ds_bert.multitask.sampling.KINDS`.

    Raises:
        UserError: all examples of a task have one label, or uncertainty is asked for of regressions only.
    """
    if task.train is None:
        return
    for member, entry in zip(task.members, entries, strict=True):
        _refuse_one_label(member, str(entry.train_file or "--tasks"))
    if sampling == "uncertainty":
        task.stand_in()


def _refuse_one_label(task: Task, where: str) -> None:
    if task.config["problem_type"] == "regression":
        return
    assert isinstance(task.train, Features)
    found = np.unique(task.train.columns["labels"])
    if len(found) < 2:
        name = task.config["id2label"][int(found[0])]
        raise UserError(
            f"{where}: all {len(task.train)} training examples of {task.name} that are used have the label {name!r}, "
            "needed are examples of at least two"
        )
