"""What a checkpoint, a run or a Hugging Face folder holds, and how it came about; no weight is read."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch

from ds_bert.checkpoint import folders
from ds_bert.checkpoint.convert.classes import head_of, known_names
from ds_bert.checkpoint.convert.foreign_model import read_hugging_face, standard_names
from ds_bert.checkpoint.manifest import ARGUMENTS, MANIFEST, STAGE_MAP, STATE, faults
from ds_bert.checkpoint.pretrained import checkpoint_in, is_run
from ds_bert.checkpoint.tensors import MOMENTS, WEIGHTS, TensorFolder, has_tensors
from ds_bert.errors import UserError
from ds_bert.files import read_json
from ds_bert.modeling.config import SIZES
from ds_bert.modeling.families import Family, family_of

_PREVIOUS = "previous_weights"  # the older of the two weight versions of 2BW, beside the moments
_TIED = ("decoder.weight", "decoder.bias")
Parameters = dict[str, tuple[tuple[int, ...], torch.dtype]]


def is_hugging_face(path: Path) -> bool:
    """Whether a folder is neither a checkpoint nor a run, but a model's."""
    return (path / "config.json").is_file() and not ((path / MANIFEST).is_file() or is_run(path))


def inspect_folder(path: Path, fields: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Describe a folder, as JSON.

    Args:
        path: what the user named.
        fields: the model's configuration.
        folder: `path`, or the checkpoint in it.

    Raises:
        UserError: its files cannot be read.
    """
    parameters = _parameters(folder, fields)
    known = known_names(fields)
    facts, moments = read_facts(folder), _moments(folder)
    return {
        "path": str(folder),
        "checkpoints": [checkpoint.name for checkpoint in folders.checkpoints(path)],
        "faults": [] if is_hugging_face(folder) else faults(folder, tensors=False),
        "model_type": fields["model_type"],
        "sizes": {
            name: fields[name]
            for name in (*SIZES, *family_of(fields).sizes, "num_labels")
            if fields.get(name) is not None
        },
        "head": head_of(fields, parameters.keys() & known),
        "parameters": sum(prod(shape) for shape, _ in parameters.values()),
        "parameters_by_layer": _by_layer(parameters, known, family_of(fields)),
        "dtypes": dict(Counter(str(dtype).removeprefix("torch.") for _, dtype in parameters.values())),
        "step": facts.step,
        "state": {key: value for key, value in facts.state.items() if key not in ("step", "model")},
        "arguments": facts.arguments,
        "moments": moments,
        "weight_versions": 2 if _PREVIOUS in moments else 1,
        "stage_map": facts.stage_map,
        "scores": facts.scores,
        "extra_weights": sorted(parameters.keys() - known),
    }


def folder_to_inspect(path: Path) -> Path:
    """The folder with weights that ``path`` means: itself, or of a run what `model_in` chooses.

    Raises:
        UserError: it is neither a checkpoint, nor a run with one, nor a Hugging Face folder.
    """
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; needed is a checkpoint, a run's output_dir or a Hugging Face folder")
    return path if is_hugging_face(path) else checkpoint_in(path)


def _parameters(folder: Path, fields: Mapping[str, Any]) -> Parameters:
    """Shape and type of every parameter, by Hugging Face's name; second copies of tied ones do not count."""
    if has_tensors(folder, WEIGHTS):
        stored = TensorFolder(folder)
        found = {
            name: torch.empty(stored.shape(name), dtype=stored.dtype(name), device="meta") for name in stored.names()
        }
    else:
        found = {name: tensor.to("meta") for name, tensor in read_hugging_face(folder).weights.items()}
    single = {name: tensor for name, tensor in found.items() if not name.endswith(_TIED)}
    named, _ = standard_names(single, fields["model_type"])
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in named.items()}


def _by_layer(parameters: Parameters, known: set[str], family: Family) -> dict[str, int]:
    """Elements of the embeddings, of every encoder layer (or group of layers), of pooler, head and extra."""
    counts: Counter[str] = Counter()
    for name, (shape, _) in parameters.items():
        counts[_layer_of(name, family) if name in known else "extra"] += prod(shape)
    last = ("pooler", "head", "extra")
    places = {"embeddings": (0, 0), **{name: (2, place) for place, name in enumerate(last)}}
    return dict(sorted(counts.items(), key=lambda item: places.get(item[0]) or (1, int(item[0].rpartition(" ")[2]))))


def _layer_of(name: str, family: Family) -> str:
    if part := family.encoder_part(name):
        return f"encoder {'group' if family.shares_layers else 'layer'} {part[0]}"
    if family.is_embedding(name):
        return "embeddings"
    return "pooler" if name.startswith(family.prefix + family.pooler_name) else "head"


def _moments(folder: Path) -> list[str]:
    if not has_tensors(folder, MOMENTS):
        return []
    return sorted({name.partition("/")[0] for name in TensorFolder(folder, MOMENTS).names()})


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
