"""Saving and restoring a training run: weights by Hugging Face's names, moments by the same names, and the step.

Nothing in a checkpoint depends on the cut that wrote it. Dropout, order of examples and masks follow from the seed and
the step, so the step is all that a run needs besides weights and moments to go on as if it had not stopped.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from safetensors import SafetensorError

from ds_bert.checkpoint import folders
from ds_bert.checkpoint.tensors import WEIGHTS, TensorFolder, part_name, write_index, write_tensors
from ds_bert.errors import UserError
from ds_bert.files import read_json, write_json

STATE = "trainer_state.json"
MOMENTS = "optimizer"


class TrainedStage(Protocol):
    """What of an engine is saved."""

    place: Any
    boundary: Any
    control: Any
    steps_done: int

    def resume_at(self, step: int) -> None:
        """Number the next global batch."""


def save_checkpoint(
    output_dir: Path, engine: TrainedStage, describe: Callable[[Path], None], state: Mapping[str, Any]
) -> Path:
    """Write `checkpoint-<step>` together with all processes; return its path.

    Args:
        output_dir: a folder that all processes see.
        engine: whose weights, moments and step are saved.
        describe: writes what else belongs to the model (config.json, tokenizer) into a folder; called on rank 0.
        state: what else belongs to the run, as JSON.

    Raises:
        RuntimeError: a process could not write its part; earlier checkpoints are as they were.
    """
    place, step = engine.place, engine.steps_done
    partial, whole = folders.partial_folder(output_dir, step), folders.checkpoint_folder(output_dir, step)
    if place.rank == 0:
        folders.begin(output_dir, step)
    _gather(engine, 0)
    tensors, scalars = engine.boundary.state_by_name(step)
    written, error = 0, None
    try:
        written = _write_part(partial, engine, tensors)
        if place.rank == 0:
            describe(partial)
            write_json(partial / STATE, {"step": step, "optimizer": scalars, **state})
    except (OSError, SafetensorError) as problem:
        error = str(problem)
    total_bytes = sum(_gather(engine, written, error))
    if place.rank == 0:
        if place.num_stages > 1:
            owners = engine.boundary.owners
            files = {name: part_name(WEIGHTS, stages[0], place.num_stages) for name, stages in owners.items()}
            write_index(partial, files, total_bytes)
        folders.commit(output_dir, step)
    _gather(engine, 0)
    return whole


def _write_part(folder: Path, engine: TrainedStage, tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> int:
    """Let the first replica of each stage write the parameters that no earlier stage has; return the weights' bytes."""
    place, owners = engine.place, engine.boundary.owners
    if place.replica > 0:
        return 0
    own = [name for name in tensors["weights"] if owners[name][0] == place.stage]
    weights = {name: tensors["weights"][name] for name in own}
    write_tensors(folder / part_name(WEIGHTS, place.stage, place.num_stages), weights)
    moments = {f"{kind}/{name}": tensors[kind][name] for kind in tensors if kind != "weights" for name in own}
    write_tensors(folder / part_name(MOMENTS, place.stage, place.num_stages), moments)
    return sum(tensor.numel() * tensor.itemsize for tensor in weights.values())


def _gather(engine: TrainedStage, number: int, error: str | None = None) -> list[int]:
    """Wait for all processes and return their numbers; where one had an error, let all fail."""
    answers: list[Any] = [None] * engine.place.world_size
    dist.all_gather_object(answers, (number, error and f"{engine.place}: {error}"), group=engine.control)
    problems = [error for _, error in answers if error]
    if problems:
        raise RuntimeError(f"the checkpoint of step {engine.steps_done} could not be written: {'; '.join(problems)}")
    return [number for number, _ in answers]


def read_state(checkpoint: Path, needed: Sequence[str] = ()) -> dict[str, Any]:
    """What `save_checkpoint` was told of the run.

    Args:
        checkpoint: its folder.
        needed: keys that must be there beside "step" and "optimizer".

    Raises:
        UserError: the checkpoint is damaged.
    """
    folders.check_files(checkpoint)
    state = read_json(checkpoint / STATE)
    missing = {"step", "optimizer", *needed} - set(state if isinstance(state, dict) else ())
    if missing:
        raise UserError(f"{checkpoint / STATE}: has no {' and no '.join(sorted(missing))}: damaged; restore the file")
    return state


def load_checkpoint(checkpoint: Path, engine: TrainedStage) -> None:
    """Give this process's stage the weights, moments and step of a checkpoint, whatever cut wrote it."""
    state = read_state(checkpoint)
    names = list(engine.boundary.parameters)
    tensors = {"weights": TensorFolder(checkpoint).read_all(names)}
    moments = TensorFolder(checkpoint, MOMENTS)
    for kind in sorted({name.partition("/")[0] for name in moments.names()}):
        stored = moments.read_all(f"{kind}/{name}" for name in names)
        tensors[kind] = {name.partition("/")[2]: tensor for name, tensor in stored.items()}
    engine.boundary.load_state_by_name(tensors, state["optimizer"], state["step"])
    engine.resume_at(state["step"])


def describe_model(config: Any, tokenizer: Any) -> Callable[[Path], None]:
    """Return a function that writes a Hugging Face ``config.json`` and a tokenizer into a folder."""

    def describe(folder: Path) -> None:
        write_json(folder / "config.json", json.loads(config.to_json_string(use_diff=False)))
        tokenizer.save(folder)

    return describe
