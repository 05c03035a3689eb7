"""What keeps a global batch on another number of replicas, compared with trying every way."""

import re
from itertools import product

import pytest

from ds_bert.errors import UserError
from ds_bert.meta.arguments import MetaTrainArguments
from ds_bert.stage_map import StageMap
from ds_bert.training.arguments import TrainingArguments
from ds_bert.training.consistency import how_to_keep
from ds_bert.training.job import check_schedule


def stage_map(stages: int, replicas: int) -> StageMap:
    ranks = [[stage * replicas + replica for replica in range(replicas)] for stage in range(stages)]
    return StageMap(tuple(range(stages)), tuple(map(tuple, ranks)))


def runs(global_batch: int, size: int, micro_batches: int, grid: StageMap, schedule: str) -> bool:
    """Whether a job of these numbers has that global batch, and its schedule runs it."""
    try:
        check_schedule(TrainingArguments(schedule=schedule, gradient_accumulation_steps=micro_batches), grid)
    except UserError:
        return False
    return size * micro_batches * grid.num_replicas == global_batch


def ways(global_batch: int, grid: StageMap, schedule: str) -> list[tuple[int, int]]:
    numbers = range(1, global_batch + 1)
    return [pair for pair in product(numbers, numbers) if runs(global_batch, *pair, grid, schedule)]


def numbers(flag: str, said: str) -> list[int]:
    return [int(number) for number in re.findall(rf"--{flag} (\d+)", said)]


@pytest.mark.parametrize(("schedule", "stages"), [("1f1b", 1), ("1f1b", 3), ("2bw", 2), ("2bw", 3)])
@pytest.mark.parametrize("global_batch", [1, 2, 7, 12, 16])
def test_what_is_named_keeps_it_and_is_nearest(global_batch: int, schedule: str, stages: int) -> None:
    possible = {n: ways(global_batch, stage_map(stages, n), schedule) for n in range(1, global_batch + 3)}
    for replicas, size in product(possible, range(1, 10)):
        arguments = TrainingArguments(schedule=schedule, per_device_train_batch_size=size)
        said = how_to_keep(global_batch, arguments, stage_map(stages, replicas))
        steps, sizes = numbers("gradient_accumulation_steps", said), numbers("per_device_train_batch_size", said)
        pairs = dict(possible[replicas])
        if size in pairs:
            assert said == f"with --gradient_accumulation_steps {pairs[size]} it is"
        elif pairs:
            assert all(pairs[near] == steps_ for near, steps_ in zip(sizes, steps, strict=True))
            assert sizes == sorted(sizes) and not any(min(sizes) < it < max(sizes) for it in pairs)
            assert bool(min(sizes) < size) == any(it < size for it in pairs)
            assert bool(max(sizes) > size) == any(it > size for it in pairs)
            assert f"micro-batches of {size};" in said
        elif any(possible.values()):
            named = [int(number) for number in re.findall(r"\d+", said.partition("use a map of ")[2])]
            others = [count for count, pairs_ in possible.items() if pairs_]
            below, above = [it for it in others if it < replicas], [it for it in others if it > replicas]
            assert named == [*below[-1:], *above[:1]] and named
        else:
            assert said == f"nothing makes it so under {schedule} on {stages} stages; cut into fewer stages"


@pytest.mark.parametrize("in_flight", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("replicas", [1, 2, 3, 5])
def test_tasks_of_meta_training_take_turns_in_equal_groups(replicas: int, in_flight: int) -> None:
    said = how_to_keep(12, MetaTrainArguments(tasks_in_flight=in_flight), stage_map(1, replicas))
    if replicas == 5:
        assert said == "nothing makes it so on 5 replicas; use a map of 4 or 6"
        return
    assert numbers("gradient_accumulation_steps", said) == [12 // replicas]
    (group,) = numbers("tasks_in_flight", said) or [in_flight]
    assert (12 // replicas) % group == 0 and in_flight % group == 0
    assert (group == in_flight) == ((12 // replicas) % in_flight == 0)
