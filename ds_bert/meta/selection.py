"""Which parameters the inner loop adapts, and which the outer loop trains."""

import re
from dataclasses import dataclass

from ds_bert.modeling.adapters.head import GENERATOR
from ds_bert.modeling.adapters.layers import STEP_SIZE

_LAYER = re.compile(r"\w+\.encoder\.(?:layer|albert_layer_groups)\.(\d+)\.(.*)")
_FEED_FORWARD = re.compile(r"intermediate\.|output\.|albert_layers\.\d+\.(?:ffn|full_layer_layer_norm)")


@dataclass(frozen=True)
class Selection:
    """What is adapted to a task (fast weights), and what is meta-trained.

    Args:
        parameter_efficient: adapt task adapters and norms only, and leave the encoder as it is.
        global_adapters: then train the global adapters; without them, the task adapters' and the norms' beginnings.
        warp_layers: feed-forward blocks are meta-trained, but not adapted.
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
        layer = _LAYER.match(name)
        if self.min_layer_with_grad > 0 and (".embeddings." in name or "embedding_hidden_mapping" in name):
            return False
        if layer and int(layer[1]) < self.min_layer_with_grad:
            return False
        if self.parameter_efficient:
            return _is_of_task(name)
        return not (self.warp_layers and layer and _FEED_FORWARD.match(layer[2]))

    def is_trained(self, name: str) -> bool:
        """Whether the outer loop changes the parameter of this name."""
        if not self.parameter_efficient or name.startswith("meta."):
            return True
        return ".adapter.global." in name if self.global_adapters else _is_of_task(name)


def _is_of_task(name: str) -> bool:
    return ".adapter.task." in name or "layernorm." in name.lower()
