"""A model from pieces: parts of it whose parameters are named inside each part only.

Pipelines save each of their modules by itself, with names that begin where that system began them: "layers.2.attention.
self.query.weight", "block.attention.self.query.weight". What they end with is what transformers' modules are named by,
so a name's longest known ending says what the parameter is, and what stands before it says which layer it belongs to.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from ds_bert.errors import UserError
from ds_bert.modeling.families import family_of
from ds_bert.modeling.families.family import Family

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
