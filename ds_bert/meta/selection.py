"""Which parameters the inner loop adapts, and which the outer loop trains."""

from dataclasses import dataclass

from ds_bert.modeling.adapters.head import GENERATOR
from ds_bert.modeling.adapters.layers import STEP_SIZE
from ds_bert.modeling.families import encoder_part, is_embedding, is_feed_forward


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
        part = encoder_part(name)
        if self.min_layer_with_grad > 0 and is_embedding(name):
            return False
        if part and part[0] < self.min_layer_with_grad:
            return False
        if self.parameter_efficient:
            return _is_of_task(name)
        return not (self.warp_layers and is_feed_forward(name))

    def is_trained(self, name: str) -> bool:
        """Whether the outer loop changes the parameter of this name."""
        if not self.parameter_efficient or name.startswith("meta."):
            return True
        return ".adapter.global." in name if self.global_adapters else _is_of_task(name)


def _is_of_task(name: str) -> bool:
    return ".adapter.task." in name or "layernorm." in name.lower()
