"""A model for meta-learning as a pipeline: the family's layers, each with its learned step size, and LEOPARD's head."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from ds_bert.modeling.adapters.adapter import insert_adapters
from ds_bert.modeling.adapters.head import HEAD, MetaHead
from ds_bert.modeling.families import encoder_part, family_of
from ds_bert.modeling.layers import Embeddings, Layer, encoder_layers, initialize

STEP_SIZE = "meta.step_size."
LABELS = "labels"


@dataclass(frozen=True)
class MetaModel:
    """What meta-learning adds to a model; kept in its ``config.json`` as ``meta_learning``.

    Args:
        adapter_hidden_size: width of adapters; 0 for none.
        global_adapters: whether an adapter that all tasks share stands before each task's own.
        head_hidden_size: width inside head and generator.
        encoding_size: D, of an example's encoding and of a class's weights.
        pooling: what head and generator see of a sequence: "cls", its first token's state after the pooler, or "mean",
            the mean of its tokens' states.
    """

    adapter_hidden_size: int = 0
    global_adapters: bool = False
    head_hidden_size: int = 384
    encoding_size: int = 256
    pooling: str = "cls"

    def fields(self) -> dict[str, Any]:
        """What `ds_bert.modeling.model.build_config` is told."""
        return {"meta_learning": asdict(self)}


def group_of(name: str) -> str:
    """The layer group of a parameter, which has one step size."""
    if part := encoder_part(name):
        return f"layer.{part[0]}"
    if name.startswith(HEAD):
        return f"head.{name.removeprefix(HEAD).partition('.')[0]}"
    return "pooler" if ".pooler." in name else "embeddings"


def meta_layers(config: Any) -> list[Callable[[], Layer]]:
    """Describe the L + 2 layers of a model for meta-learning; each is built by calling it.

    Args:
        config: with ``meta_learning``.
    """
    options = MetaModel(**config.meta_learning)
    encoder = [partial(_encoder_layer, make, config, options) for make in encoder_layers(config)]
    return [partial(_embeddings, config), *encoder, partial(_head, config)]


def _embeddings(config: Any) -> Layer:
    return _with_step_sizes(Embeddings(config))


def _encoder_layer(make: Callable[[], Layer], config: Any, options: MetaModel) -> Layer:
    layer: Any = make()
    if options.adapter_hidden_size:
        places = family_of(config).adapter_places
        insert_adapters(layer.block, places, config.hidden_size, options.adapter_hidden_size, options.global_adapters)
    return _with_step_sizes(layer)


def _head(config: Any) -> Layer:
    return _with_step_sizes(MetaHead(config), LABELS)


def _with_step_sizes(layer: Layer, *more: str) -> Layer:
    """Give a layer a step size for each group of its parameters, and for ``more``."""
    names = [layer.hugging_face_name(name) for name, _ in layer.named_parameters()]
    groups = dict.fromkeys(group_of(name) for name in names if not name.startswith("meta.generator."))
    layer.step_size = nn.ParameterDict({_key(group): nn.Parameter(torch.empty(1)) for group in (*groups, *more)})
    own = {f"step_size.{_key(group)}": STEP_SIZE + group for group in (*groups, *more)}
    layer.prefixes = {**own, **layer.prefixes}
    return layer


def _key(group: str) -> str:
    return group.replace(".", "_")  # torch's names of modules have no dots


def initialize_meta(name: str, parameter: torch.Tensor, step_size: float, config: Any, seed: int) -> None:
    """Fill ``parameter`` with its first weights: step sizes with ``step_size``, all else as in `initialize`."""
    if name.startswith(STEP_SIZE):
        parameter.data.fill_(step_size)
    else:
        initialize(name, parameter, config.initializer_range, seed, config.pad_token_id)
