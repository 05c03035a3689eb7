"""What a checkpoint and the folder of its run say of how it came about."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ds_bert.checkpoint.manifest import ARGUMENTS, STAGE_MAP, STATE
from ds_bert.files import read_json

LOG = "log.jsonl"


@dataclass(frozen=True)
class RunFacts:
    """What is known; each is empty where nothing is.

    Args:
        state: of the run at the checkpoint: "step", "examples_seen", "optimizer", "data", ….
        arguments: what the job was told.
        stage_map: the map that wrote the checkpoint, in PipeDream's form.
        scores: the last measures on held-out data, and the last training loss, no later than the checkpoint.
    """

    state: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    stage_map: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def step(self) -> int | None:
        """The optimizer step."""
        return self.state.get("step")


def read_facts(checkpoint: Path) -> RunFacts:
    """Read what lies in a checkpoint and beside it; a damaged log tells what it still has."""
    state = _object(checkpoint / STATE)
    arguments = _object(checkpoint / ARGUMENTS) or state.pop("arguments", {})
    stage_map = _object(checkpoint / STAGE_MAP) or _object(checkpoint.parent / STAGE_MAP)
    return RunFacts(state, arguments, stage_map, _scores(checkpoint.parent / LOG, state.get("step")))


def _object(path: Path) -> dict[str, Any]:
    data = read_json(path) if path.is_file() else {}
    return data if isinstance(data, dict) else {}


def _scores(log: Path, step: int | None) -> dict[str, float]:
    """The last of each measure up to ``step``; those of a run that was cut off or started anew do not count."""
    scores: dict[str, float] = {}
    if step is None or not log.is_file():
        return scores
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("step"), int) and entry["step"] <= step:
            kept = {key: value for key, value in entry.items() if key.startswith("eval/") or key == "train/loss"}
            scores.update({key: value for key, value in kept.items() if isinstance(value, int | float)})
    return scores
