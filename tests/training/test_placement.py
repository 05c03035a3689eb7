"""What the schedules refuse."""

import pytest

from ds_bert.errors import UserError
from ds_bert.stage_map import StageMap
from ds_bert.training.arguments import TrainingArguments
from ds_bert.training.job import check_schedule


def stage_map(stages: int, depths: tuple[int, ...] | None = None) -> StageMap:
    return StageMap(tuple(range(stages)), tuple((stage,) for stage in range(stages)), depths)


def test_two_bw_needs_as_many_micro_batches_as_stages() -> None:
    check_schedule(TrainingArguments(schedule="2bw", gradient_accumulation_steps=4), stage_map(4))
    with pytest.raises(UserError, match=r"gradient_accumulation_steps is 3, .* at least 4.*d x g"):
        check_schedule(TrainingArguments(schedule="2bw", gradient_accumulation_steps=3), stage_map(4))


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe"])
def test_others_run_with_any_number(schedule: str) -> None:
    check_schedule(TrainingArguments(schedule=schedule, gradient_accumulation_steps=1, fp16=True), stage_map(4))


def test_two_bw_refuses_fp16() -> None:
    with pytest.raises(UserError, match="2bw cannot be combined with --fp16"):
        check_schedule(TrainingArguments(schedule="2bw", gradient_accumulation_steps=2, fp16=True), stage_map(2))


def test_only_the_usual_warm_up_is_run() -> None:
    check_schedule(TrainingArguments(), stage_map(3, (2, 1, 0)))
    with pytest.raises(UserError, match="stage_to_depth_map"):
        check_schedule(TrainingArguments(stage_map="map.json"), stage_map(3, (3, 1, 0)))
