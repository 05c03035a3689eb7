"""From a model's configuration and a stage map to an engine on every process."""

from collections.abc import Callable, Collection
from typing import Any

from ds_bert.checkpoint.pretrained import PretrainedWeights
from ds_bert.engine.buckets import Share
from ds_bert.engine.engine import Engine
from ds_bert.engine.execution import Objective
from ds_bert.engine.module import StageModule
from ds_bert.engine.process_group import Grid
from ds_bert.engine.settings import EngineSettings
from ds_bert.modeling.layers import initialize
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
    """Start from a folder's weights; what it lacks, and the ``fresh`` names, stay as initialised.

    Raises:
        UserError: a tensor has another shape than the model's; no weight has changed.
    """

    def is_taken(share: Share) -> bool:
        return share.name in weights and share.name not in fresh

    for share in filter(is_taken, engine.boundary.shares(0)):
        weights.check(share.name, share.shape)

    def read(share: Share) -> None:
        if is_taken(share):
            weights.read_part(share.name, share.begin, share.part)

    engine.boundary.load(read, (), {}, 0)
