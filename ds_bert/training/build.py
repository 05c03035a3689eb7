"""From a model's configuration and a stage map to an engine on every process."""

from collections.abc import Callable, Collection
from typing import Any

from ds_bert.checkpoint.pretrained import PretrainedWeights
from ds_bert.engine.engine import Engine
from ds_bert.engine.execution import Objective
from ds_bert.engine.module import StageModule
from ds_bert.engine.process_group import Grid
from ds_bert.engine.settings import EngineSettings
from ds_bert.modeling.layer import initialize
from ds_bert.modeling.model import carry_declaration, model_layers


def build_engine(
    config: Any,
    head: str | Callable[[Any], Any],
    objective: Objective,
    grid: Grid,
    settings: EngineSettings,
    micro_batches: int,
) -> Engine:
    """Build this process's stage of a model with fresh weights; all processes must call it.

    Args:
        config: the model, from `ds_bert.modeling.model.build_config`.
        head: name of a head, or a function from ``config`` to a layer.
        objective: the loss and its measures.
        grid: this process's place.
        settings: schedule, optimizer, precision, sharding; ``settings.seed`` is that of the first weights, too.
        micro_batches: micro-batches of a global batch per replica.
    """
    module = StageModule(model_layers(config, head), grid.stage_map.cuts, grid, settings.seed, settings.recompute)
    for name, parameter in module.parameters_by_name().items():
        initialize(name, parameter.data, config.initializer_range, settings.seed, config.pad_token_id)
    carry = carry_declaration(config, settings.dtype)
    return Engine(module, carry, objective, settings, grid, micro_batches)


def load_weights(engine: Engine, weights: PretrainedWeights, fresh: Collection[str] = ()) -> None:
    """Start from a folder's weights; what it lacks, and the ``fresh`` names, stay as initialised."""
    tensors = engine.boundary.state_by_name(0)[0]["weights"]
    for name in tensors:
        if name in weights and name not in fresh:
            tensors[name] = weights.read(name)
    engine.boundary.load_state_by_name({"weights": tensors}, {}, 0)
