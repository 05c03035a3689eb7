"""What matrix products are taken in, and the peak FLOP/s of a card that takes them so."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from ds_bert.engine.process_group import Grid
from ds_bert.engine.settings import EngineSettings, Precision


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
