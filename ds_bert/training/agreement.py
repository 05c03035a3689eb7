"""Processes of one job, each started with words and files of its own, must have been told the same."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ds_bert.checkpoint import folders
from ds_bert.checkpoint.saving import gather
from ds_bert.engine.engine import Engine
from ds_bert.errors import UserError
from ds_bert.stage_map import StageMap, to_json
from ds_bert.training.arguments import TrainingArguments
from ds_bert.training.declaration import flags_of


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
    flags, place = flags_of(type(arguments)), engine.place
    told: dict[str, Any] = {f"--{name}": getattr(arguments, name) for name, flag in flags.items() if flag.ranks_agree}
    told |= {
        "the stage map": to_json(stage_map),
        "zero_optimization.stage of the DeepSpeed configuration": engine.settings.zero_stage,
        "the training data's fingerprint": data or None,
        "the checkpoint to start from": _checkpoint_of(arguments),
    }
    everyone: list[Mapping[str, Any]] = gather(engine.control, told, place.world_size)
    for key in told:
        known = [(rank, found[key]) for rank, found in enumerate(everyone) if found[key] is not None]
        for rank, value in known[1:]:
            if value != known[0][1]:
                first = place.describe(known[0][0])
                raise UserError(
                    f"{key}: {first} has {known[0][1]!r}, {place.describe(rank)} has {value!r}; needed is the same on "
                    "all nodes"
                )


def _checkpoint_of(arguments: TrainingArguments) -> str | None:
    """Name the checkpoint that this rank has chosen of a run, which may have gone on before others looked."""
    name = Path(getattr(arguments, "model_name_or_path", None) or "").name
    return name if folders.is_checkpoint_name(name) else None
