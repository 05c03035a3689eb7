"""A task's options have the names and the defaults of its job's flags, and say what the flags say."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from ds_bert.errors import UserError
from ds_bert.tasks.glue.task import GlueOptions
from ds_bert.tasks.multiple_choice.task import MultipleChoiceOptions
from ds_bert.tasks.squad.task import SquadOptions
from ds_bert.tasks.task import DataOptions, TaskOptions
from ds_bert.training.finetuning import options_of
from ds_bert.training.job_arguments import (
    FinetuneArguments,
    GlueArguments,
    MultipleChoiceArguments,
    SquadArguments,
)

JOBS = [(GlueOptions, GlueArguments), (SquadOptions, SquadArguments), (MultipleChoiceOptions, MultipleChoiceArguments)]
NO_FLAGS = {"data", "declared_labels", "setting_names"}  # a list of tasks says these, not a flag


def other(value: Any) -> Any:
    """A value that a flag with this default may have, too."""
    return not value if isinstance(value, bool) else value + 1 if isinstance(value, int | float) else "other"


@pytest.mark.parametrize(("kind", "job"), JOBS)
def test_every_option_is_a_flag(tmp_path: Path, kind: type[TaskOptions], job: type[FinetuneArguments]) -> None:
    plain = job(do_eval=True, cache_dir=str(tmp_path))
    names = [each.name for each in fields(kind) if each.name not in NO_FLAGS]
    assert options_of(kind, plain) == kind(DataOptions(plain.max_seq_length, {"eval"}, tmp_path))
    for name in names:
        value = other(getattr(plain, name))
        told = options_of(kind, replace(plain, **{name: value}))
        assert [each for each in names if getattr(told, each) != getattr(plain, each)] == [name]
        assert getattr(told, name) == value


def test_what_all_are_told_of_their_data(tmp_path: Path) -> None:
    flags: dict[str, Any] = {"do_train": True, "do_predict": True, "max_seq_length": 9, "cache_dir": str(tmp_path)}
    flags |= {"overwrite_cache": True, "max_train_samples": 3, "max_predict_samples": 5}
    told = options_of(GlueOptions, GlueArguments(**flags, train_file="")).data
    assert told == DataOptions(9, {"train", "predict"}, tmp_path, True, 3, None, 5)
    assert told.limits == {"train": 3, "eval": None, "predict": 5}


@pytest.mark.parametrize("split", ["train", "eval", "predict"])
@pytest.mark.parametrize(("kind", "job"), JOBS)
def test_too_few_examples_are_refused(kind: type[TaskOptions], job: type[FinetuneArguments], split: str) -> None:
    limit: dict[str, Any] = {f"max_{split}_samples": -1}
    with pytest.raises(UserError, match=f"--max_{split}_samples -1: needs at least 1"):
        options_of(kind, job(do_eval=True, **limit))
    with pytest.raises(UserError, match="nothing to do"):
        options_of(kind, job())


def test_a_path_that_is_empty_is_none() -> None:
    assert options_of(GlueOptions, GlueArguments(do_eval=True, train_file="", data_dir="")).own_files == {}
    assert options_of(GlueOptions, GlueArguments(do_eval=True, data_dir="")).data_dir is None
