"""Which conditional modules lie in which encoder layer, relative to the model's depth.

The paper's numbers are those of 12 layers (base) and 24 (large):

- attention: all layers;
- norms: the upper half, base 6–11, large 12–23;
- bottleneck: base, the last layer's feed-forward; large, a side stream along all layers.

So a model of 6 layers has conditional norms in 3–5 and, under base, its bottleneck in 5.
"""

from dataclasses import dataclass
from typing import Any

KINDS = ("base", "large", "none")


@dataclass(frozen=True)
class Arrangement:
    """What one encoder layer has beside its attention matrix.

    Args:
        norms: whether both layer norms are conditional.
        bottleneck: whether the feed-forward ends in a bottleneck.
        side_stream: whether a bottleneck carries the side stream on.
    """

    norms: bool
    bottleneck: bool
    side_stream: bool


def is_conditional(config: Any) -> bool:
    """Whether a model's configuration asks for conditional modules."""
    return getattr(config, "conditional", "none") != "none"


def has_side_stream(config: Any) -> bool:
    """Whether the heads read a second stream of hidden states, that of the bottlenecks."""
    return getattr(config, "conditional", "none") == "large" and _has_bottleneck(config)


def arrangement(config: Any, index: int) -> Arrangement:
    """Return what encoder layer ``index``, from 0, has.

    Args:
        config: with ``conditional``, one of `KINDS` but "none", and ``num_hidden_layers``. Where it has
            ``conditional_bottleneck`` False, there is no bottleneck, and the heads read the encoder's own stream.
        index: of the layer.
    """
    layers = config.num_hidden_layers
    is_last_of_base = config.conditional == "base" and index == layers - 1
    return Arrangement(
        norms=2 * index >= layers,
        bottleneck=is_last_of_base and _has_bottleneck(config),
        side_stream=has_side_stream(config),
    )


def _has_bottleneck(config: Any) -> bool:
    return getattr(config, "conditional_bottleneck", True)
