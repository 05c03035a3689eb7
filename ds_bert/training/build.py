"""From a model's configuration and a stage map to an engine on every process."""

from pathlib import Path

from transformers import BertConfig

from ds_bert.checkpoint.tensors import TensorFolder
from ds_bert.engine.engine import Engine
from ds_bert.engine.module import StageModule
from ds_bert.engine.process_group import Grid, start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.modeling.carry import BatchShape, Field, encoder_carry
from ds_bert.modeling.families.bert import pretraining_layers
from ds_bert.modeling.layer import initialize
from ds_bert.stage_map import StageMap
from ds_bert.tasks.pretraining import PretrainingObjective


def build_pretraining_engine(
    config: BertConfig,
    stage_map: StageMap,
    settings: EngineSettings,
    micro_batch_size: int,
    micro_batches: int,
    timeout_seconds: float = 1800,
) -> Engine:
    """Join the processes and build this one's stage; see `pretraining_engine`.

    Args:
        config: the model, from `ds_bert.modeling.families.bert.bert_config`.
        stage_map: which layers run on which ranks.
        settings: optimizer, precision, sharding; ``settings.seed`` is that of the first weights, too.
        micro_batch_size: rows of a micro-batch.
        micro_batches: micro-batches of a global batch per replica.
        timeout_seconds: how long a silent peer is waited for.
    """
    grid = start_process_group(stage_map, timeout_seconds)
    return pretraining_engine(config, grid, settings, micro_batch_size, micro_batches)


def pretraining_engine(
    config: BertConfig, grid: Grid, settings: EngineSettings, micro_batch_size: int, micro_batches: int
) -> Engine:
    """Build this process's stage of a BERT with fresh weights for pre-training; all processes must call it."""
    module = StageModule(pretraining_layers(config), grid.stage_map.cuts, grid, settings.seed, settings.recompute)
    for name, parameter in module.parameters_by_name().items():
        initialize(name, parameter.data, config.initializer_range, settings.seed, config.pad_token_id)

    def carry(rows: int, length: int, padded: bool) -> list[Field]:
        return encoder_carry(config.hidden_size, settings.dtype, BatchShape(rows, length, padded))

    return Engine(module, carry, PretrainingObjective(), settings, grid, micro_batch_size, micro_batches)


def load_weights(engine: Engine, folder: Path) -> None:
    """Start from the weights of a Hugging Face folder of this model; what it lacks stays as initialised."""
    weights = TensorFolder(folder)
    tensors = engine.boundary.state_by_name(0)[0]["weights"]
    tensors |= {name: weights.read(name) for name in tensors if name in weights}
    engine.boundary.load_state_by_name({"weights": tensors}, {}, 0)
