"""Weights to start from: do they fit the model, and what does it lack."""

from collections.abc import Callable
from typing import Any

import torch

from ds_bert.checkpoint.pretrained import PretrainedWeights
from ds_bert.errors import UserError
from ds_bert.modeling.model import model_layers

_MOST_SHOWN = 10  # names in a message


def check_weights(
    weights: PretrainedWeights, config: Any, head: str | Callable[[Any], Any], drop_head: bool = False
) -> tuple[tuple[str, ...], str]:
    """Compare the weights' shapes with the model's.

    Args:
        weights: to start from.
        config: the model's.
        head: name of a head, or a function from ``config`` to a layer.
        drop_head: whether the head is to start with fresh weights in any case.

    Returns:
        Names that must start with fresh weights though there are stored ones, which are the head's with ``drop_head``;
        and a sentence on those that are missing, "" if none is.

    Raises:
        UserError: a shape does not fit, or there is nothing of this model.
    """
    with torch.device("meta"):
        layers = [make_layer() for make_layer in model_layers(config, head)]
    shapes = [
        {layer.hugging_face_name(name): tuple(parameter.shape) for name, parameter in layer.named_parameters()}
        for layer in layers
    ]
    of_head = tuple(name for name in shapes[-1] if not name.startswith(f"{config.model_type}."))
    everything = {name: shape for layer in shapes for name, shape in layer.items()}
    missing = [name for name in everything if name not in weights]
    if all(name in missing for name in everything if name not in of_head):
        raise UserError(f"{weights.folder}: its weights have none of this model's names, such as {missing[0]}")
    for name, shape in everything.items():
        if name in weights and weights.shape(name) != shape and not (drop_head and name in of_head):
            advice = "; begin with a fresh head with --drop_classifier" if name in of_head else ""
            raise UserError(
                f"{weights.folder}: {name} has shape {weights.shape(name)}, but this model's is {shape}{advice}"
            )
    shown = ", ".join(missing[:_MOST_SHOWN]) + (f", …, {len(missing)} in all" if len(missing) > _MOST_SHOWN else "")
    note = f"{weights.folder}: has no {shown}; these start with fresh weights" if missing else ""
    return of_head if drop_head else (), note
