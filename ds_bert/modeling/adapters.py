"""What meta-learning adds to an encoder: adapters, learned step sizes, and LEOPARD's head, making label weights."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from ds_bert.modeling.families import encoder_part, family_of, is_embedding, is_feed_forward
from ds_bert.modeling.model import Carry, Embeddings, Layer, encoder_layers, initialize


class Adapter(nn.Module):
    """x + W₂ gelu(W₁ x), near the identity at first (Houlsby et al. 2019, section 2.1).

    gelu(x) = x Φ(x) with the error function; Meta-Adapters' code has the approximation by tanh, which is within 5e-4.
    """

    def __init__(self, hidden_size: int, size: int) -> None:
        super().__init__()
        self.down = nn.Linear(hidden_size, size)
        self.up = nn.Linear(size, hidden_size)

    def forward(self, hidden_BTH: torch.Tensor) -> torch.Tensor:
        """Keep the shape (B, T, H)."""
        return hidden_BTH + self.up(F.gelu(self.down(hidden_BTH)))


class AdaptedDropout(nn.Module):
    """A dropout, and the adapters after it: one that all tasks share, if there is one, then the task's own."""

    def __init__(self, dropout: nn.Module, hidden_size: int, size: int, has_global: bool) -> None:
        super().__init__()
        self.dropout = dropout
        kinds = ("global", "task") if has_global else ("task",)
        self.adapter = nn.ModuleDict({kind: Adapter(hidden_size, size) for kind in kinds})

    def forward(self, hidden_BTH: torch.Tensor) -> torch.Tensor:
        """Keep the shape (B, T, H)."""
        hidden_BTH = self.dropout(hidden_BTH)
        for adapter in self.adapter.values():
            hidden_BTH = adapter(hidden_BTH)
        return hidden_BTH


def insert_adapters(block: nn.Module, places: Sequence[str], hidden_size: int, size: int, has_global: bool) -> None:
    """Put adapters after the dropout of each of a block's modules ``places``, before residual and norm."""
    for output in map(block.get_submodule, places):
        dropout = cast(nn.Module, output.dropout)
        output.dropout = AdaptedDropout(dropout, hidden_size, size, has_global)


GENERATOR = "meta.generator."
HEAD = "meta.head."
HEAD_LAYERS = (0, 2)
"""Numbers of the head's linear layers, each of which has a step size of its own."""


def _two_layers(width: int, hidden: int, output: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, output))


class MetaHead(Layer):
    """What a class is told by: encodings of examples, and what class embeddings are averaged from.

    Args:
        config: the model's, with ``meta_learning``; see `ds_bert.modeling.adapters.MetaModel`.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        family, sizes = family_of(config), config.meta_learning
        self.prefixes = {"pooler.": family.prefix + family.pooler_name, "head.": HEAD, "generator.": GENERATOR}
        self.pooler, self.pooling = family.pooler(config), sizes["pooling"]
        self.dropout = nn.Dropout(family.classifier_dropout(config))
        width, hidden, encoding = config.hidden_size, sizes["head_hidden_size"], sizes["encoding_size"]
        self.head = _two_layers(width, hidden, encoding)
        self.generator = _two_layers(width, hidden, encoding + 1)

    def forward(self, carry: Carry, labels: Carry | None = None) -> dict[str, torch.Tensor]:
        """Return what a task's loss is made of.

        ``encoding`` (B, D), ``generated`` (B, D + 1), ``pooled`` (B, H), what they are made of, after dropout, and
        ``mean`` (B, H), the mean of the tokens' states.
        """
        hidden_BTH, mask_BT = carry["hidden"], carry.get("attention_mask")
        weights_BT1 = torch.ones_like(hidden_BTH[..., :1]) if mask_BT is None else mask_BT[..., None].to(hidden_BTH)
        mean_BH = (hidden_BTH * weights_BT1).sum(1) / weights_BT1.sum(1)
        pooled_BH = self.dropout(mean_BH if self.pooling == "mean" else self.pooler(hidden_BTH))
        return {
            "encoding": self.head(pooled_BH),
            "generated": self.generator(pooled_BH),
            "pooled": pooled_BH,
            "mean": mean_BH,
        }


STEP_SIZE = "meta.step_size."
HEAD_STEP_SIZE = f"{STEP_SIZE}head."
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
    """Fill ``parameter`` with its first weights: step sizes with ``step_size``, all else as in `initialize`.

    The head's step sizes are 0 where it is held, see `Selection`.
    """
    if name.startswith(STEP_SIZE):
        is_held = name.startswith(HEAD_STEP_SIZE) and getattr(config, "meta_learner", {}).get("warp_layers", False)
        parameter.data.fill_(0.0 if is_held else step_size)
    else:
        initialize(name, parameter, config.initializer_range, seed, config.pad_token_id)


@dataclass(frozen=True)
class Selection:
    """What is adapted to a task (inner weights), and what is meta-trained.

    Args:
        parameter_efficient: adapt task adapters and norms only, and leave the encoder as it is.
        global_adapters: then train the global adapters; without them, the task adapters' and the norms' beginnings.
        warp_layers: feed-forward blocks and head are meta-trained, not adapted. The head's step sizes are 0 and stay
            so; as in the published code, its inner gradients still count in the norm that is clipped.
        min_layer_with_grad: encoder layers below it are not adapted, nor, above 0, are the embeddings.
    """

    parameter_efficient: bool = False
    global_adapters: bool = False
    warp_layers: bool = False
    min_layer_with_grad: int = 0

    def is_adapted(self, name: str) -> bool:
        """Whether the inner loop changes the parameter of this name."""
        if name.startswith((GENERATOR, STEP_SIZE)):
            return False
        part = encoder_part(name)
        if self.min_layer_with_grad > 0 and is_embedding(name):
            return False
        if part and part[0] < self.min_layer_with_grad:
            return False
        if self.parameter_efficient:
            return _is_of_task(name) or (self.warp_layers and name.startswith(HEAD))
        return not (self.warp_layers and is_feed_forward(name))

    def is_trained(self, name: str) -> bool:
        """Whether the outer loop changes the parameter of this name."""
        if self.warp_layers and name.startswith(HEAD_STEP_SIZE):
            return False
        if not self.parameter_efficient or name.startswith("meta."):
            return True
        return ".adapter.global." in name if self.global_adapters else _is_of_task(name)


def _is_of_task(name: str) -> bool:
    return ".adapter.task." in name or "layernorm." in name.lower()
