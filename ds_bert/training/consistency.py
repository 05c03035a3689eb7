"""What must be the same on all processes of a job, and in a run that is resumed; and what may change, which is said."""

import socket
from collections.abc import Iterator, Mapping
from math import gcd
from pathlib import Path
from typing import Any

from ds_bert.checkpoint import folders
from ds_bert.checkpoint.saving import gather
from ds_bert.checkpoint.training_state import read_state
from ds_bert.engine.engine import Engine
from ds_bert.errors import UserError
from ds_bert.stage_map import StageMap, to_json
from ds_bert.training.arguments import JobArguments, TrainingArguments
from ds_bert.training.declaration import Resume, flags_of


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


def check_agreement(engine: Engine, arguments: TrainingArguments, stage_map: StageMap, data: str | None) -> None:
    """Refuse ranks that would train differently; all processes call this.

    Args:
        engine: for its processes.
        arguments: after `apply_deepspeed_config`.
        stage_map: which layers run where.
        data: fingerprint of the training data; None on a process that reads none.

    Raises:
        UserError: on all processes, naming what differs, and two ranks.
    """
    flags, grid = flags_of(type(arguments)), engine.grid
    told: dict[str, Any] = {f"--{name}": getattr(arguments, name) for name, flag in flags.items() if flag.ranks_agree}
    told |= {
        "the stage map": to_json(stage_map),
        "zero_optimization.stage of the DeepSpeed configuration": engine.settings.zero_stage,
        "the training data's fingerprint": data or None,
        "the checkpoint to start from": _checkpoint_of(arguments),
    }
    everyone: list[Mapping[str, Any]] = gather(engine.control, told, grid.world_size)
    for key in told:
        known = [(rank, found[key]) for rank, found in enumerate(everyone) if found[key] is not None]
        for rank, value in known[1:]:
            if value != known[0][1]:
                first = grid.describe(known[0][0])
                raise UserError(
                    f"{key}: {first} has {known[0][1]!r}, {grid.describe(rank)} has {value!r}; needed is the same on "
                    "all nodes"
                )


def check_found(engine: Engine, run_dir: Path | None, found: Path | None) -> None:
    """Refuse ranks that have not found the same checkpoint to go on from; all processes call this.

    Args:
        engine: for its processes.
        run_dir: where each has looked; None where nothing is kept.
        found: the checkpoint that this process has found there; None for none.

    Raises:
        UserError: on all processes, naming two ranks, their machines, and what each has found.
    """
    grid = engine.grid
    seen = gather(engine.control, (found.name if found else None, socket.gethostname()), grid.world_size)
    for rank, (name, host) in enumerate(seen):
        if name != seen[0][0]:
            raise UserError(
                f"{run_dir}: {grid.describe(rank)} on {host} finds {name or 'no checkpoint'} to go on from, "
                f"{grid.describe(0)} on {seen[0][1]} finds {seen[0][0] or 'none'}; needed is an --output_dir that "
                "all processes see"
            )


def _checkpoint_of(arguments: TrainingArguments) -> str | None:
    """Name the checkpoint that this rank has chosen of a run, which may have gone on before others looked."""
    name = Path(getattr(arguments, "model_name_or_path", None) or "").name
    return name if folders.is_checkpoint_name(name) else None


def how_to_keep(global_batch: int, arguments: TrainingArguments, stage_map: StageMap) -> str:
    """Say which arguments make a global batch of so many examples on this map.

    That is another number of micro-batches, if one will do; else also micro-batches of another size, the nearest
    smaller and larger one that will; else the nearest numbers of replicas.

    Example: 24 examples in micro-batches of 4. 2 replicas take 3 micro-batches each. With 4 replicas, the 6 examples of
    each are 2 micro-batches of 3, or 1 of 6. With 5, there is no way; with 4 or 6 there is.
    """
    replicas, size = stage_map.num_replicas, arguments.per_device_train_batch_size
    fewest = stage_map.num_stages if arguments.schedule == "2bw" else 1  # micro-batches, see `check_schedule`
    in_flight = getattr(arguments, "tasks_in_flight", 0)  # in meta-training, where a micro-batch is always one task
    fitting = _micro_batches(global_batch, replicas, fewest, one_each=bool(in_flight))
    if size in fitting:
        steps = fitting[size]
        turns = f" and --tasks_in_flight {gcd(steps, in_flight)}" if in_flight and steps % in_flight else ""
        return f"with --gradient_accumulation_steps {steps}{turns} it is"
    if fitting:
        ways = [
            f"--per_device_train_batch_size {near} --gradient_accumulation_steps {fitting[near]}"
            for near in _nearest(size, list(fitting))
        ]
        return (
            f"no --gradient_accumulation_steps makes it so with micro-batches of {size}; with {' or '.join(ways)} it is"
        )
    others = range(1, global_batch // fewest + 1)
    possible = [other for other in others if _micro_batches(global_batch, other, fewest, one_each=bool(in_flight))]
    count = f"{replicas} replica{'s' * (replicas > 1)}"
    if not possible:
        return f"nothing makes it so under {arguments.schedule} on {stage_map.num_stages} stages; cut into fewer stages"
    return f"nothing makes it so on {count}; use a map of {' or '.join(map(str, _nearest(replicas, possible)))}"


def _micro_batches(global_batch: int, replicas: int, fewest: int, one_each: bool) -> dict[int, int]:
    """{examples of a micro-batch: micro-batches} of the ways to divide a replica's share of the global batch."""
    share, rest = divmod(global_batch, replicas)
    sizes = (1,) if one_each else range(1, share + 1)
    return {} if rest else {size: share // size for size in sizes if share % size == 0 and share // size >= fewest}


def _nearest(value: int, choices: list[int]) -> list[int]:
    """The largest choice below and the smallest above, where there are such."""
    below, above = [choice for choice in choices if choice < value], [choice for choice in choices if choice > value]
    return [*below[-1:], *above[:1]]
