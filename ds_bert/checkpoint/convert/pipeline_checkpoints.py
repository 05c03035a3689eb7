"""Checkpoints of pipelines, DeepSpeed's and PipeDream's: a model from pieces named inside each piece only.

Pipelines save each of their modules by itself, with names that begin where that system began them: "layers.2.attention.
self.query.weight", "block.attention.self.query.weight". What they end with is what transformers' modules are named by,
so a name's longest known ending says what the parameter is, and what stands before it says which layer it belongs to.

PipeDream's are one pickle per stage and epoch, `checkpoint.<stage>.pth.tar.epoch.<epoch>`. Each holds {"epoch",
"state_dict": {"module<k>": parameters, …}, "optimizer"}, with k counted over the stage or over the model; a
half-precision run adds its "master_parameters". The stages say nothing of the model's sizes.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ds_bert.checkpoint.convert.foreign_model import ForeignModel, load_pickle, load_tensors, named_tensors
from ds_bert.errors import UserError
from ds_bert.modeling.families import Family, family_of

Piece = tuple[str, Mapping[str, torch.Tensor]]
"""Where it was read, and its parameters."""

_EMBEDDINGS = ("word_embeddings.weight", "position_embeddings.weight", "token_type_embeddings.weight")
_NORM = ("LayerNorm.weight", "LayerNorm.bias")
_BOTH = (".weight", ".bias")
# Heads of fine-tuning, which have one name wherever they stand.
_HEADS = ("classifier", "qa_outputs")
# The decoder and its bias, under the names that they have had.
_DECODER = {
    "decoder.weight": "decoder.weight",
    "decoder.bias": "decoder.bias",
    "predictions.bias": "bias",
}
_BARE_DECODER = {"decoder_weight": "decoder.weight", "bias": "bias"}  # parameters of the layer itself


def assemble(pieces: Sequence[Piece], fields: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Join pieces to a model.

    Args:
        pieces: in the order of the model's layers.
        fields: the model's configuration.

    Returns:
        Parameters by Hugging Face's names, the decoder's copies of tied ones among them.

    Raises:
        UserError: the family's pieces cannot be joined, a parameter is of no known name, there are fewer or more
            encoder layers than ``fields`` says, or layers that share their parameters differ.
    """
    family = family_of(fields)
    if not family.layer_modules:
        raise UserError(f"{pieces[0][0]}: how pieces of a {family.model_type} model are joined is not known here")
    layers: dict[tuple[int, str], dict[str, torch.Tensor]] = {}
    weights: dict[str, torch.Tensor] = {}
    for number, (origin, parameters) in enumerate(pieces):
        for name in sorted(parameters, key=_by_number):
            before, ending, role = _recognise(name, family, origin)
            if role is None:
                layers.setdefault((number, before), {})[ending] = parameters[name]
            elif not torch.equal(weights.setdefault(role, parameters[name]), parameters[name]):
                raise UserError(f"{origin}: {name} would be a second {role}, with other values")
    for index, layer in enumerate(_encoder_layers(list(layers.values()), fields, pieces[0][0])):
        for ending, tensor in layer.items():
            weights[family.block_name(index) + ending] = tensor
    return weights


def _recognise(name: str, family: Family, origin: str) -> tuple[str, str, str | None]:
    """Split a name into (what stands before, its known ending), with Hugging Face's name unless it is of a layer."""
    roles = _roles(family)
    standard = name.replace(".gamma", ".weight").replace(".beta", ".bias").replace("dense_act.", "dense.")
    if standard in _BARE_DECODER:
        return "", standard, family.predictions_name + _BARE_DECODER[standard]
    parts = standard.split(".")
    for begin in range(len(parts)):
        ending = ".".join(parts[begin:])
        if ending in roles:
            return ".".join(parts[:begin]), ending, roles[ending]
    raise UserError(f"{origin}: {name} is no parameter of a {family.model_type} model that is known here")


def _roles(family: Family) -> dict[str, str | None]:
    """Hugging Face's name by a name's ending; None for those of encoder layers."""
    modules = {**family.other_names, **{head: head for head in _HEADS}}
    roles: dict[str, str | None] = {
        ending: f"{family.prefix}{family.embedding_names[0]}{ending}" for ending in (*_EMBEDDINGS, *_NORM)
    }
    roles |= {ending + kind: name + kind for ending, name in modules.items() for kind in _BOTH}
    roles |= {ending: family.predictions_name + name for ending, name in _DECODER.items()}
    return roles | dict.fromkeys(module + kind for module in family.layer_modules for kind in _BOTH)


def _encoder_layers(
    layers: list[dict[str, torch.Tensor]], fields: Mapping[str, Any], origin: str
) -> Iterable[dict[str, torch.Tensor]]:
    """One set of parameters per encoder layer, or per group that its layers share."""
    wanted, groups, found = fields["num_hidden_layers"], family_of(fields).num_groups(fields), len(layers)
    if found not in (groups, wanted):
        raise UserError(f"{origin}: {found} encoder layers are there, the configuration has {wanted}")
    return layers if found == groups else _groups(layers, fields, origin)


def _groups(
    layers: list[dict[str, torch.Tensor]], fields: Mapping[str, Any], origin: str
) -> list[dict[str, torch.Tensor]]:
    """The parameters of each group of layers, all of which must have the same."""
    family = family_of(fields)
    shared: dict[int, tuple[int, dict[str, torch.Tensor]]] = {}
    for index, layer in enumerate(layers):
        first, expected = shared.setdefault(family.group(fields, index), (index, layer))
        differing = [name for name in sorted(expected.keys() | layer.keys()) if not _same(expected, layer, name)]
        if differing:
            raise UserError(
                f"{origin}: encoder layers {first} and {index} (counted from 0) differ in {differing[0]}, but a "
                f"model of {family.num_groups(fields)} groups shares it; needed are equal layers, or num_hidden_groups "
                "as it was trained"
            )
    return [layer for _, layer in shared.values()]


def _same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor], name: str) -> bool:
    return name in one and name in other and torch.equal(one[name], other[name])


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sort "layers.10" after "layers.9"."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"\.", name)]


_LAYER = re.compile(r"layer_(\d+)(?:-model_(\d+))?-model_states\.pt")
_WHOLE = "mp_rank_00_model_states.pt"


def read_deepspeed(folder: Path, config_path: Path, fields: Mapping[str, Any], tag: str | None) -> ForeignModel:
    """Read the weights of a checkpoint; its optimizer state stays behind.

    Args:
        folder: the save_dir, or the folder of one tag in it.
        config_path, fields: the model's configuration, which the files do not have.
        tag: which checkpoint of the save_dir; None for the one that its file `latest` names.

    Raises:
        UserError: there is none, or a file is damaged, holds code, or is one slice of a tensor-parallel model.
    """
    folder = _tagged(folder, tag)
    layers: dict[int, Path] = {}
    for path in folder.glob("layer_*-model_states.pt"):
        if match := _LAYER.fullmatch(path.name):
            if int(match[2] or 0) > 0:
                raise UserError(f"{path}: is one slice of a tensor-parallel model, which cannot be joined here")
            layers[int(match[1])] = path
    whole = folder / _WHOLE
    if layers:
        pieces = [(str(layers[index]), load_tensors(layers[index])) for index in sorted(layers)]
        weights = assemble(pieces, fields)
    elif whole.is_file():
        weights = _whole_model(whole)
    else:
        raise UserError(f"{folder}: has neither layer_<index>-model_states.pt nor {_WHOLE}, which DeepSpeed writes")
    return ForeignModel(config_path, dict(fields), weights, notes=[f"{folder.name} of DeepSpeed"])


def _tagged(folder: Path, tag: str | None) -> Path:
    latest = folder / "latest"
    if tag is None and latest.is_file():
        tag = latest.read_text(encoding="utf-8").strip()
    found = folder / tag if tag else folder
    if not found.is_dir():
        raise UserError(f"{found}: no such folder; needed is a checkpoint of DeepSpeed")
    return found


def _whole_model(path: Path) -> dict[str, Any]:
    if (path.parent / "mp_rank_01_model_states.pt").is_file():
        raise UserError(f"{path}: is one slice of a tensor-parallel model, which cannot be joined here")
    data = load_pickle(path)
    module = data.get("module") if isinstance(data, dict) else None
    if module is None:
        raise UserError(f'{path}: has no "module" with weights, and no layer_<index>-model_states.pt lies beside it')
    return named_tensors(module, str(path))


_FILE = re.compile(r"checkpoint\.(\d+)\.pth\.tar\.epoch\.(\d+)")
_MODULE = re.compile(r"module(\d+)")


def read_pipedream(folder: Path, config_path: Path, fields: Mapping[str, Any], epoch: int | None) -> ForeignModel:
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
    return ForeignModel(config_path, dict(fields), assemble(pieces, fields), notes=notes)


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
