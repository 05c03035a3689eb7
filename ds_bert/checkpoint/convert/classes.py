"""Which parameters each of transformers' classes of whole models has, and which class a set of parameters is of."""

from collections.abc import Collection, Mapping
from typing import Any

import torch

from ds_bert.errors import UserError
from ds_bert.modeling.families import FAMILIES, family_of
from ds_bert.modeling.heads import HEADS, exportable_heads

Shapes = dict[str, tuple[int, ...]]


def class_name(model_type: str, head: str) -> str:
    """Name of transformers' class, "BertForMaskedLM"."""
    return FAMILIES[model_type].class_prefix + str(HEADS[head].class_ending)


def make_config(fields: Mapping[str, Any], head: str) -> Any:
    """Build transformers' configuration of a class from a ``config.json``'s fields."""
    config_class = family_of(fields).whole("Config")
    return config_class(**{**fields, "architectures": [class_name(fields["model_type"], head)]})


def shapes_of(fields: Mapping[str, Any], head: str) -> Shapes:
    """Name and shape of a class's parameters, each tied one once; the encoder's begin with the family's prefix."""
    family = family_of(fields)
    with torch.device("meta"):
        model = family.whole(str(HEADS[head].class_ending))(make_config(fields, head))
    prefix = family.prefix if head == "base" else ""
    return {prefix + name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def heads_of(fields: Mapping[str, Any]) -> list[str]:
    """The heads that transformers has classes of, for this configuration's family."""
    return [head for head in exportable_heads() if family_of(fields).has_whole(str(HEADS[head].class_ending))]


def known_names(fields: Mapping[str, Any]) -> set[str]:
    """Names of all parameters that any class has for this configuration."""
    return {name for head in heads_of(fields) for name in shapes_of(fields, head)}


def head_of(fields: Mapping[str, Any], names: Collection[str]) -> str:
    """The head that parameters of these names make up, with the fewest left over, then the fewest lacking.

    Where that leaves a choice, ``architectures`` of the configuration decides.
    """
    named = (fields.get("architectures") or [""])[0]

    def misfit(head: str) -> tuple[int, int, bool]:
        shapes = shapes_of(fields, head)
        left_over, lacking = len(names - shapes.keys()), len(shapes.keys() - names)
        return left_over, lacking, class_name(fields["model_type"], head) != named

    names = set(names)
    return min(heads_of(fields), key=misfit)


def check_encoder(shapes: Shapes, found: Mapping[str, tuple[int, ...]], model_type: str, origin: str) -> list[str]:
    """Compare parameters with what a class needs.

    Args:
        shapes: of the class.
        found: shapes of the parameters there are.
        model_type: the family's.
        origin: names them in messages.

    Returns:
        Names that are lacking: only a head or a pooler may be.

    Raises:
        UserError: a part of the encoder is lacking, or a shape differs.
    """
    lacking = [name for name in shapes if name not in found]
    encoder = [name for name in lacking if name.startswith(FAMILIES[model_type].prefix) and ".pooler." not in name]
    if encoder:
        raise UserError(f"{origin}: lacks {len(encoder)} parameters of the encoder, such as {encoder[0]}")
    for name in (name for name in shapes if name in found):
        if found[name] != shapes[name]:
            raise UserError(
                f"{origin}: {name} has shape {found[name]}, but its configuration says {shapes[name]}; "
                "needed is the configuration that belongs to these weights"
            )
    return lacking
