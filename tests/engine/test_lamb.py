"""LAMB on a flat buffer against LAMB on separate tensors."""

from typing import Any

import pytest
import torch

from ds_bert.engine.buckets import Bucket
from ds_bert.engine.optimizers.flat import Lamb
from tests.support.state import whole

SHAPES = {"matrix": (6, 7), "zero weights": (4, 5), "zero gradients": (3, 3), "one": (1, 1)}
STEPS, RATE = 5, 0.1


def _weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()}
    weights["zero weights"].zero_()
    return weights


def _gradients(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step + 1)
    gradients = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()}
    gradients["zero gradients"].zero_()
    return gradients


def _flat(adapts: bool, weight_decay: float, options: dict[str, Any]) -> dict[str, torch.Tensor]:
    parameters = {name: torch.nn.Parameter(weight) for name, weight in _weights().items()}
    bucket = Bucket(parameters, None, [0], 0, torch.float64, torch.float64, sharded=False)
    master = torch.nn.Parameter(bucket.master)
    group = {"params": [master], "weight_decay": weight_decay, "bucket": bucket if adapts else None}
    lamb = Lamb([group], lr=RATE, **options)
    for step in range(STEPS):
        for name, gradient in _gradients(step).items():
            parameters[name].main_grad.copy_(gradient)
        master.grad = bucket.gradients[0]
        assert lamb.begin() == []
        lamb.step()
    return whole(bucket, bucket.master)


def _separate(adapts: bool, weight_decay: float, beta1: float, beta2: float, eps: float, correct: bool) -> Any:
    weights = _weights()
    for name, w in weights.items():
        m, v = torch.zeros_like(w), torch.zeros_like(w)
        for step in range(STEPS):
            g = _gradients(step)[name]
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
            unbiased = (m / (1 - beta1 ** (step + 1)), v / (1 - beta2 ** (step + 1))) if correct else (m, v)
            u = unbiased[0] / (torch.sqrt(unbiased[1]) + eps) + weight_decay * w
            r = w.norm() / u.norm() if adapts and w.any() and u.any() else 1.0
            w -= RATE * r * u
    return weights


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("adapts", [True, False])
@pytest.mark.parametrize("correct", [True, False])
def test_as_on_separate_tensors(adapts: bool, weight_decay: float, correct: bool) -> None:
    options = {"betas": (0.8, 0.95), "eps": 1e-3, "bias_correction": correct}
    found = _flat(adapts, weight_decay, options)
    for name, expected in _separate(adapts, weight_decay, 0.8, 0.95, 1e-3, correct).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-12, atol=1e-14, msg=name)


def test_where_nothing_adapts_it_is_torchs_adamw() -> None:
    found = _flat(adapts=False, weight_decay=0.1, options={"eps": 1e-6})
    parameters = {name: torch.nn.Parameter(weight) for name, weight in _weights().items()}
    adamw = torch.optim.AdamW(parameters.values(), lr=RATE, eps=1e-6, weight_decay=0.1)
    for step in range(STEPS):
        for name, gradient in _gradients(step).items():
            parameters[name].grad = gradient
        adamw.step()
    for name, parameter in parameters.items():
        torch.testing.assert_close(found[name], parameter.detach(), rtol=1e-12, atol=1e-14)


def test_what_has_neither_gradient_nor_decay_stays() -> None:
    assert torch.equal(_flat(True, 0.0, {})["zero gradients"], _weights()["zero gradients"])
