"""Ranks that were told different things do not train together."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from ds_bert.engine.process_group import start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.errors import UserError
from ds_bert.stage_map import StageMap
from ds_bert.training.consistency import check_agreement
from ds_bert.training.job_arguments import PretrainArguments
from tests.support.processes import run_on_ranks
from tests.support.toy import toy_map

Told = tuple[dict[str, Any], dict[str, Any], str | None]
SAME: Told = ({"model_name_or_path": "/a/checkpoint-5"}, {}, "data")


def _agree(stage_map: StageMap, told: list[Told]) -> str:
    grid = start_process_group(stage_map, timeout_seconds=30)
    arguments, settings, data = told[grid.rank]
    control = grid.new_group(backend="gloo")
    engine = SimpleNamespace(grid=grid, control=control, settings=EngineSettings(**settings))
    try:
        check_agreement(cast(Any, engine), PretrainArguments(**arguments), stage_map, data)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (({"learning_rate": 1e-3}, {}, "data"), ("--learning_rate", "0.0001", "0.001")),
        (({"tf32": False}, {}, "data"), ("--tf32", "True", "False")),
        (({"resume": True}, {}, "data"), ("--resume", "False", "True")),
        (({}, {"zero_stage": 1}, "data"), ("DeepSpeed",)),
        (({}, {}, "other data"), ("training data", "'data'", "'other data'")),
        (({"model_name_or_path": "/b/checkpoint-6"}, {}, "data"), ("checkpoint to start from", "checkpoint-5")),
    ],
)
def test_all_ranks_name_what_differs(other: Told, words: tuple[str, ...]) -> None:
    said = run_on_ranks(_agree, 3, toy_map(3, 1), [SAME, SAME, other])
    assert said[0] == said[1] == said[2]
    assert all(word in said[0] for word in (*words, "rank 0 (stage 0", "rank 2 (stage 2")), said[0]


def test_places_of_files_and_stages_that_read_nothing_do_not_matter() -> None:
    elsewhere: Told = (
        {"model_name_or_path": "/b/model", "train_path": "/scratch/data", "output_dir": "/mnt/out", "local_rank": 1},
        {},
        "data",
    )
    assert run_on_ranks(_agree, 3, toy_map(3, 1), [SAME, ({}, {}, None), elsewhere]) == [""] * 3
