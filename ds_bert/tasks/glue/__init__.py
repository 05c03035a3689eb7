"""GLUE, tasks of the same kind, and texts of a user's own: classification and regression of a text or a pair."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ds_bert.data.vocabulary import Tokenizer
    from ds_bert.tasks.task import Task


def glue_task(
    task_name: str | None,
    data_dir: Path | None,
    tokenizer: "Tokenizer",
    max_seq_length: int,
    splits: Collection[str] = ("train", "eval"),
    train_file: Path | None = None,
    validation_file: Path | None = None,
    label_names: Sequence[str] | None = None,
) -> "Task":
    """Build a task from what scripts mostly need; `ds_bert.tasks.glue.task` has all options in a dataclass.

    Args:
        task_name, data_dir, train_file, validation_file: see `ds_bert.tasks.glue.task.GlueOptions`.
        tokenizer: of the model.
        max_seq_length, splits: see `ds_bert.tasks.task.DataOptions`.
        label_names: of a trained model's head, see `ds_bert.tasks.glue.task.glue_task`.

    Raises:
        UserError: something is missing, contradicts itself, or is not as it should be in a file.
    """
    from ds_bert.tasks.glue import task  # here, as whoever reads this package's tables need not load torch
    from ds_bert.tasks.task import DataOptions

    data = DataOptions(max_seq_length, splits)
    options = task.GlueOptions(data, task_name, data_dir, train_file, validation_file)
    return task.glue_task(options, tokenizer, label_names)
