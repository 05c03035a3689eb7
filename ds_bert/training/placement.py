"""Which layers run where: the user's stage map, or an even cut."""

from collections.abc import Callable, Mapping
from typing import Any

from ds_bert.errors import UserError
from ds_bert.files import find_config
from ds_bert.launcher import command_for, launcher_world, were_started
from ds_bert.modeling.costs import layer_costs
from ds_bert.schedules import SCHEDULES
from ds_bert.stage_map import StageMap, load_stage_map, make_stage_map, require_ascending
from ds_bert.training.arguments import JobArguments, TrainingArguments


def choose_stage_map(
    arguments: JobArguments,
    given: set[str],
    model: Mapping[str, Any],
    length: int,
    predictions: int = 0,
    head: str | Callable[..., Any] = "pretraining",
) -> StageMap:
    """Return the stage map of a job on the processes that were started.

    Args:
        arguments, given: ``stage_map`` or ``num_stages``.
        model: configuration of the model.
        length, predictions: tokens of a sequence and how many of them are predicted, for an even cut by FLOPs.
        head: the last layer, see `ds_bert.modeling.costs.layer_costs`.

    Raises:
        UserError: the map is wrong, or does not fit the model or the processes.
    """
    _, world_size = launcher_world()
    num_layers = model["num_hidden_layers"] + 2
    if arguments.stage_map:
        path = find_config("stage_maps", arguments.stage_map)
        stage_map = load_stage_map(path, num_layers, world_size)
        require_ascending(stage_map, str(path))
        if "num_stages" in given and arguments.num_stages != stage_map.num_stages:
            raise UserError(
                f"--num_stages is {arguments.num_stages}, but {path} has {stage_map.num_stages} stages; give only one"
            )
        return stage_map
    stages = arguments.num_stages
    if world_size % stages:
        fitting = max(1, world_size // stages) * stages
        raise UserError(
            f"--num_stages is {stages}, but {were_started(world_size)}; needed is a number of processes that is a "
            f"multiple of the stages, such as {fitting} ({command_for(fitting)})"
        )
    costs = [layer.flops for layer in layer_costs(model, length, predictions, head=head)]
    return make_stage_map(costs, stages, world_size // stages)


def check_schedule(arguments: TrainingArguments, stage_map: StageMap) -> None:
    """Refuse what a schedule cannot run.

    Raises:
        UserError: a warm-up that the schedules do not use, or what this schedule refuses.
    """
    stages, micro_batches = stage_map.num_stages, arguments.gradient_accumulation_steps
    usual = tuple(stages - 1 - stage for stage in range(stages))
    if stage_map.stage_to_depth not in (None, usual):
        raise UserError(
            f"{arguments.stage_map}: stage_to_depth_map is {stage_map.stage_to_depth}, but the schedules warm up by "
            f"{usual} micro-batches, which is the least that keeps {stages} stages busy; leave the key out"
        )
    if why := SCHEDULES[arguments.schedule].refusal(stages, micro_batches, arguments.fp16):
        raise UserError(why)
