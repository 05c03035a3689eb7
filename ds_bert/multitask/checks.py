"""What training examples of many tasks must have, once they are chosen."""

from collections.abc import Sequence

import numpy as np

from ds_bert.data.features import Features
from ds_bert.errors import UserError
from ds_bert.multitask.task_list import TaskEntry
from ds_bert.multitask.tasks import MultitaskTask
from ds_bert.tasks.task import Task


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
