"""The model of a meta-learning job: what it starts from, and this process's stage of it."""

from typing import Any

import torch

from ds_bert.checkpoint.pretrained import PretrainedWeights
from ds_bert.engine.module import StageModule
from ds_bert.engine.process_group import Grid
from ds_bert.errors import UserError
from ds_bert.modeling.adapters import MetaHead, MetaModel, initialize_meta, meta_layers
from ds_bert.modeling.families import families_that, family_of
from ds_bert.modeling.model import build_config


def meta_config(fields: dict[str, Any], options: MetaModel, learner: dict[str, Any]) -> Any:
    """Build the model's configuration, which says how it was meta-trained, too (``meta_learner``).

    Raises:
        UserError: adapters were asked for in a model that has no place for them.
    """
    family = family_of(fields)
    if options.adapter_hidden_size and not family.adapter_places:
        raise UserError(
            f"--parameter_efficient: adapters have no place in the layers of the family {family.model_type}; needed is "
            f"a model of {families_that('adapter_places')}"
        )
    return build_config({**fields, **options.fields(), "meta_learner": learner}, MetaHead)


def build_stage(config: Any, grid: Grid, seed: int, recompute: bool, step_size: float) -> StageModule:
    """Build this process's layers with fresh weights.

    Raises:
        UserError: layers of several stages share their parameters.
    """
    groups = family_of(config).num_groups(vars(config))
    if grid.num_stages > 1 and groups < config.num_hidden_layers:
        raise UserError(
            f"--num_stages is {grid.num_stages}, but this model's layers share their parameters, which an inner step "
            "changes on one stage only; needed is 1"
        )
    module = StageModule(meta_layers(config), grid.stage_map.cuts, grid, seed, recompute)
    for name, parameter in module.parameters_by_name().items():
        initialize_meta(name, parameter.data, step_size, config, seed)
    return module


def check_meta_weights(weights: PretrainedWeights, config: Any, optional: tuple[str, ...]) -> str:
    """Compare the weights to start from with the model; return a sentence on what they lack, "" for nothing.

    Args:
        weights: to start from.
        config: the model's.
        optional: parts of names that need not be there and then start fresh.

    Raises:
        UserError: a shape does not fit, or a name that is not optional is missing.
    """
    with torch.device("meta"):
        layers = [make() for make in meta_layers(config)]
    shapes = {
        layer.hugging_face_name(name): tuple(item.shape) for layer in layers for name, item in layer.named_parameters()
    }
    missing = [name for name in shapes if name not in weights]
    lacking = [name for name in missing if not any(part in name for part in optional)]
    if lacking:
        raise UserError(f"{weights.folder}: its weights have no {lacking[0]}, which this model needs")
    for name, shape in shapes.items():
        if name in weights and weights.shape(name) != shape:
            raise UserError(f"{weights.folder}: {name} has shape {weights.shape(name)}, but this model's is {shape}")
    return f"{weights.folder}: {len(missing)} tensors start fresh, {missing[0]} among them" if missing else ""


FRESH = ("meta.", ".adapter.", ".pooler.")
"""What a model that was not meta-trained lacks."""
