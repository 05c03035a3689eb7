"""What a resumed run must have in common with its checkpoint, and what may be another now, which is said."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ds_bert.checkpoint.training_state import read_state
from ds_bert.errors import UserError
from ds_bert.stage_map import StageMap
from ds_bert.training.arguments import JobArguments, TrainingArguments
from ds_bert.training.declaration import Resume, flags_of
from ds_bert.training.global_batch import how_to_keep


def check_same_run(
    checkpoint: Path, arguments: TrainingArguments, stage_map: StageMap, model: Mapping[str, Any], data: str | None
) -> None:
    """Refuse to go on from a checkpoint where the trajectory would be another.

    Args:
        checkpoint: to go on from.
        arguments, stage_map: of the job now.
        model: fields of the configuration that it has now.
        data: fingerprint of the training data; None on a process that reads none.

    Raises:
        UserError: naming what was found in the checkpoint, what is given now, and what to do.
    """
    state = read_state(checkpoint, ("arguments", "global_batch", "model", "data"))
    check_same_arguments(checkpoint, state["arguments"], arguments)
    if data not in (None, state["data"]):
        raise UserError(
            f"{checkpoint}: was written on other training data than those given now; go on with the data it began "
            "with, or start from its weights with --model_name_or_path in another --output_dir"
        )
    for name in sorted(state["model"].keys() | model.keys()):
        if state["model"].get(name) != model.get(name):
            found, wanted = model.get(name), state["model"].get(name)
            raise UserError(
                f"{checkpoint}: was written by a model with {name} {wanted!r}, now it is {found!r}; go on with the "
                "model it began with, or begin anew in another --output_dir"
            )
    size, micro_batches = arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps
    global_batch = arguments.global_batch(stage_map.num_replicas)
    if state["global_batch"] != global_batch:
        raise UserError(
            f"{checkpoint}: was written with global batches of {state['global_batch']}, now {size} examples x "
            f"{micro_batches} micro-batches x {stage_map.num_replicas} replicas = {global_batch}; needed is the same: "
            f"{how_to_keep(state['global_batch'], arguments, stage_map)}"
        )


def check_same_arguments(source: Path, before: Mapping[str, Any], arguments: JobArguments) -> None:
    """Refuse flags whose values a resumed run must keep.

    Args:
        source: where the earlier ones were found.
        before: the earlier values by name; one that an older version did not write counts as the default.
        arguments: the values now.

    Raises:
        UserError: the first that differs.
    """
    for name, old, new in _differences(before, arguments, Resume.SAME):
        raise UserError(
            f"{source}: was written with --{name} {old}, now {new}; {_how_to_have(name, old)}, or begin anew in "
            "another --output_dir"
        )


def changes_since(checkpoint: Path, arguments: JobArguments) -> list[str]:
    """Say which flags that the trajectory follows from have other values now than before: one sentence each."""
    state = read_state(checkpoint, ("arguments",))
    return [
        f"--{name} {_spell(old)} → {_spell(new)}, from step {state['step']} on"
        for name, old, new in _differences(state["arguments"], arguments, Resume.TOLD)
    ]


def _differences(before: Mapping[str, Any], arguments: JobArguments, resume: Resume) -> Iterator[tuple[str, Any, Any]]:
    """(name, value before, value now) of the flags of one kind whose values differ."""
    for name, flag in flags_of(type(arguments)).items():
        old, new = before.get(name, flag.default), getattr(arguments, name)
        if flag.resume is resume and old != new:
            yield name, old, new


def _how_to_have(name: str, value: Any) -> str:
    return f"leave --{name} out" if value is None else f"go on with --{name} {_spell(value)}"


def _spell(value: Any) -> str:
    """Write a value as it is typed."""
    return str(value).lower() if isinstance(value, bool | None) else str(value)
