"""Optimizers. One is its file in this folder and its entry in `OPTIMIZERS`. Torch is imported when one is made."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Groups = Sequence[dict[str, Any]]
"""Torch's parameter groups, of one flat parameter each, with "weight_decay", "lr_scale", and "bucket": the `Bucket`
whose tensors the parameter is made of, None where they do not decay."""
Make = Callable[[Groups, Mapping[str, Any]], "torch.optim.Optimizer"]
"""(groups, options) -> an optimizer whose state is there before its first step, so that a device too small for it is
found at once: one tensor for each moment, shaped as the parameter and zero at first, and "step" where steps count.

Its attribute ``found_inf``, a scalar on the device, says before a step whether that is to be skipped: 1, else 0. It may
have ``begin()``, called after the gradients are clipped: it begins to add up over processes what `step` needs, and
returns torch's handles to be waited for.
"""


@dataclass(frozen=True)
class OptimizerEntry:
    """What is known of one optimizer.

    Args:
        deepspeed_name: "optimizer.type" in DeepSpeed's JSON.
        maker: makes it, see `Make`; or "module:name" of what does.
        options: of "betas", "eps", "momentum" and "bias_correction", those that it takes.
    """

    deepspeed_name: str
    maker: Make | str
    options: tuple[str, ...]


_ADAMS = ("betas", "eps", "bias_correction")
OPTIMIZERS: dict[str, OptimizerEntry] = {
    "adamw": OptimizerEntry("AdamW", "ds_bert.engine.optimizers.flat:adamw", _ADAMS),
    "lamb": OptimizerEntry("Lamb", "ds_bert.engine.optimizers.flat:lamb", _ADAMS),
    "adam": OptimizerEntry("Adam", "ds_bert.engine.optimizers.flat:adam", ("betas", "eps")),
    "sgd": OptimizerEntry("SGD", "ds_bert.engine.optimizers.flat:sgd", ("momentum",)),
}
"""By the name that `--optim` knows them by."""


def optimizers_with(option: str) -> list[str]:
    """Names of the optimizers that take an option."""
    return [name for name, entry in OPTIMIZERS.items() if option in entry.options]
