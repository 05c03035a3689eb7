"""Tasks of benchmarks with options by the names of the jobs' flags, those of the data among them."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from ds_bert.data.vocabulary import Tokenizer
from ds_bert.tasks.glue.task import GlueOptions, glue_task
from ds_bert.tasks.multiple_choice.task import MultipleChoiceOptions, multiple_choice_task
from ds_bert.tasks.squad.task import SquadOptions, squad_task
from ds_bert.tasks.task import DataOptions, Task, TaskOptions

Options = TypeVar("Options", bound=TaskOptions)


def options(kind: type[Options], **flags: Any) -> Options:
    """Options of this kind, and its `DataOptions`, of flags."""
    of_data = {each.name: flags.pop(each.name) for each in fields(DataOptions) if each.name in flags}
    return kind(DataOptions(**of_data), **flags)


def glue(
    name: str | None,
    folder: Path | None,
    tokenizer: Tokenizer,
    max_seq_length: int = 16,
    label_names: Sequence[str] | None = None,
    **flags: Any,
) -> Task:
    """A GLUE task, or one of own data."""
    told = options(GlueOptions, task_name=name, data_dir=folder, max_seq_length=max_seq_length, **flags)
    return glue_task(told, tokenizer, label_names)


def squad(tokenizer: Tokenizer, max_seq_length: int = 384, **flags: Any) -> Task:
    """A task of files in SQuAD's layout."""
    return squad_task(options(SquadOptions, max_seq_length=max_seq_length, **flags), tokenizer)


def multiple_choice(
    name: str | None, folder: Path | None, tokenizer: Tokenizer, max_seq_length: int = 512, **flags: Any
) -> Task:
    """A task of a benchmark, or of own files."""
    told = options(MultipleChoiceOptions, task_name=name, data_dir=folder, max_seq_length=max_seq_length, **flags)
    return multiple_choice_task(told, tokenizer)
