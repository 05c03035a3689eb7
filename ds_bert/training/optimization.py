"""The learning rate as a function of the optimizer step: nothing to store, nothing to restore."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from transformers import PretrainedConfig

from ds_bert.engine.process_group import Grid
from ds_bert.engine.settings import EngineSettings, ParameterGroup, Precision, by_dimensions
from ds_bert.modeling.families import encoder_part, family_of, is_embedding
from ds_bert.training.arguments import TrainingArguments


def learning_rate(step: int, total_steps: int, warmup_steps: int, peak: float, course: str) -> float:
    """Return the learning rate of ``step``, counted from 0.

    Args:
        step: optimizer steps taken before.
        total_steps: of the whole training; at its end "linear" and "cosine" reach 0.
        warmup_steps: steps over which the rate rises linearly from 0.
        peak: highest rate.
        course: "linear", "cosine" or "constant" after the warm-up.
    """
    if step < warmup_steps:
        return peak * step / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if course == "linear":
        return peak * max(0.0, 1.0 - progress)
    if course == "cosine":
        return peak * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
    return peak


def warmup_steps(arguments: TrainingArguments, total_steps: int) -> int:
    """Steps over which the rate rises: those that were given, or a share of all."""
    return arguments.warmup_steps or round(arguments.warmup_ratio * total_steps)


@dataclass(frozen=True)
class LayerwiseDecay:
    """Scale learning rates by layer as ELECTRA's code does (Clark et al. 2020, google-research/electra).

    With decay d, the head has scale 1, encoder layer k of L (from 1) d^(L+2-k), and the embeddings d^(L+2): the last
    encoder layer has d^2, and no parameter d^1. Pooler and all else outside embeddings and encoder belong to the head;
    a word matrix that is tied to the head, to the embeddings.
    """

    decay: float
    num_layers: int

    def __call__(self, name: str, dimensions: int) -> ParameterGroup:
        """Return the group of the parameter that Hugging Face knows as ``name``."""
        depth = 0 if is_embedding(name) else self.num_layers + 2
        if part := encoder_part(name):
            depth = part[0] + 1
        return replace(by_dimensions(name, dimensions), lr_scale=self.decay ** (self.num_layers + 2 - depth))


def with_layerwise_decay(settings: EngineSettings, decay: float, config: PretrainedConfig) -> EngineSettings:
    """Give the parameters of each layer a learning rate of their own.

    Where encoder layers share their parameters, each group of them counts as one layer, however often it is passed
    through. With one group, the encoder has d^2 and the embeddings have d^3.

    Args:
        settings: of the engine.
        decay: `--layerwise_lr_decay`, more than 0 and at most 1, which changes nothing.
        config: the model.

    """
    if decay == 1.0:
        return settings
    num_layers = family_of(config).num_groups(vars(config))
    return replace(settings, parameter_group=LayerwiseDecay(decay, num_layers))


class Peak(NamedTuple):
    """Dense TFLOP/s of matrix products, from the data sheets; 0 where a card has no units for it."""

    bf16: float
    fp16: float
    tf32: float
    fp32: float


# By the words that a card's name must have; of several that fit, the one with the most words counts.
_PEAKS = {
    "V100": Peak(0, 125, 0, 15.7),
    "V100 PCIE": Peak(0, 112, 0, 14),
    "T4": Peak(0, 65, 0, 8.1),
    "A10": Peak(125, 125, 62.5, 31.2),
    "A30": Peak(165, 165, 82, 10.3),
    "A40": Peak(149.7, 149.7, 74.8, 37.4),
    "A100": Peak(312, 312, 156, 19.5),
    "L4": Peak(121, 121, 60, 30.3),
    "L40S": Peak(362, 362, 183, 91.6),
    "RTX 3090": Peak(71, 71, 35.6, 35.6),  # sums in fp32, as training has them
    "RTX 4090": Peak(165, 165, 82.6, 82.6),
    "H100": Peak(989, 989, 494.5, 67),
    "H100 PCIE": Peak(756, 756, 378, 51),
    "H100 NVL": Peak(835, 835, 417.5, 60),
    "H200": Peak(989, 989, 494.5, 67),
    "H200 NVL": Peak(835, 835, 417.5, 60),
    "B200": Peak(2250, 2250, 1125, 75),
}
# A slice of a card, or a weaker one of the same number.
_OTHERS = {"MIG", "LAPTOP", "MOBILE", "MAX", "D", "TI", "SUPER"}


def known_peak(name: str, precision: Precision, tf32: bool) -> float | None:
    """The peak of a GPU in FLOP/s, dense; None for a card that is not known, or cannot do this.

    Args:
        name: as `torch.cuda.get_device_name` gives it, such as "NVIDIA A100-SXM4-80GB".
        precision: of the layers' weights and activations.
        tf32: whether fp32 products are taken in TF32; of no matter in other precisions, and on cards without it.
    """
    words = set(re.split(r"[^A-Z0-9]+", name.upper()))
    fitting = [key for key in _PEAKS if words.issuperset(key.split())]
    if not fitting or words & _OTHERS or precision == "fp64":
        return None
    peak = _PEAKS[max(fitting, key=lambda key: len(key.split()))]
    tflops = ((tf32 and peak.tf32) or peak.fp32) if precision == "fp32" else getattr(peak, precision)
    return tflops * 1e12 or None


@contextmanager
def fp32_products(place: Grid, settings: EngineSettings) -> Iterator[None]:
    """Let CUDA take fp32 matrix products in TF32, or in full fp32, as the run wants it, for its time; rank 0 says so.

    TF32 has fp32's range and 10 bits after the point; it needs a card of compute capability 8 or more. Nothing is
    touched on CPUs, and in runs of another precision.
    """
    if place.device.type != "cuda" or settings.precision != "fp32":
        yield
        return
    found = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    _set_fp32_products("high" if settings.tf32 else "highest", settings.tf32)
    if settings.tf32 and place.rank == 0 and torch.cuda.get_device_capability(place.device) >= (8, 0):
        print("fp32 matrix products in TF32; --tf32 false for full fp32", flush=True)
    try:
        yield
    finally:
        _set_fp32_products(*found)


def _set_fp32_products(matmul: str, tf32: bool) -> None:
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = tf32
