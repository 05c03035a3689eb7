"""PipeDream's checkpoints: one pickle per stage and epoch, `checkpoint.<stage>.pth.tar.epoch.<epoch>`.

Each holds {"epoch", "state_dict": {"module<k>": parameters, …}, "optimizer"}, with k counted over the stage or over the
model; a half-precision run adds its "master_parameters". The stages say nothing of the model's sizes.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ds_bert.checkpoint.convert.pieces import Piece, assemble
from ds_bert.checkpoint.convert.source import Source
from ds_bert.checkpoint.convert.unpickle import load_pickle, named_tensors
from ds_bert.errors import UserError

_FILE = re.compile(r"checkpoint\.(\d+)\.pth\.tar\.epoch\.(\d+)")
_MODULE = re.compile(r"module(\d+)")


def read_pipedream(folder: Path, config_path: Path, fields: Mapping[str, Any], epoch: int | None) -> Source:
    """Merge the stages of an epoch.

    Args:
        folder: PipeDream's checkpoint_dir.
        config_path, fields: the model's configuration, which the files do not have.
        epoch: which; None for the last.

    Raises:
        UserError: there are none, or a stage is missing, damaged or holds code.
    """
    epochs: dict[int, dict[int, Path]] = {}
    for path in folder.glob("checkpoint.*.pth.tar.epoch.*") if folder.is_dir() else ():
        if match := _FILE.fullmatch(path.name):
            epochs.setdefault(int(match[2]), {})[int(match[1])] = path
    if not epochs:
        raise UserError(f"{folder}: has no checkpoint.<stage>.pth.tar.epoch.<epoch>, which PipeDream writes")
    chosen = max(epochs) if epoch is None else epoch
    if chosen not in epochs:
        raise UserError(f"{folder}: has no epoch {chosen}; it has {', '.join(map(str, sorted(epochs)))}")
    stages = epochs[chosen]
    missing = sorted(set(range(max(stages) + 1)) - stages.keys())
    if missing:
        raise UserError(f"{folder}: epoch {chosen} has stage {max(stages)} but not stage {missing[0]}")
    pieces = [piece for stage in sorted(stages) for piece in _modules(stages[stage])]
    notes = [f"epoch {chosen}, {len(stages)} stage{'s' if len(stages) > 1 else ''}"]
    return Source(config_path, dict(fields), assemble(pieces, fields), notes=notes)


def _modules(path: Path) -> list[Piece]:
    """The modules of a stage, in order."""
    data = load_pickle(path)
    state = data.get("state_dict") if isinstance(data, dict) else None
    if not isinstance(state, dict):
        raise UserError(f'{path}: has no "state_dict"; needed is a stage that PipeDream has saved')
    modules = {int(match[1]): name for name in state if (match := _MODULE.fullmatch(str(name)))}
    if not modules:
        raise UserError(
            f"{path}: its state_dict has no module0, module1, …; needed is a stage that PipeDream has saved"
        )
    return [
        (f"{path}: {modules[number]}", named_tensors(state[modules[number]], str(path))) for number in sorted(modules)
    ]
