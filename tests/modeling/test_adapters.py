"""An adapter gives what its formula, written out number by number, gives; and which form of GELU that is."""

import math

import torch

from ds_bert.modeling.adapters import Adapter


def gelu(x: float) -> float:
    """x Φ(x), with the error function."""
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


def gelu_by_tanh(x: float) -> float:
    """The approximation of BERT's and Meta-Adapters' own code."""
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def test_it_adds_two_layers_with_a_gelu_between_them() -> None:
    adapter = Adapter(5, 3).double()
    for parameter in adapter.parameters():
        parameter.data.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
    hidden_BTH = torch.randn(2, 4, 5, dtype=torch.float64)
    found_BTH = adapter(hidden_BTH)
    down, up = ([layer.weight.tolist(), layer.bias.tolist()] for layer in (adapter.down, adapter.up))
    for row, found in zip(hidden_BTH.view(-1, 5).tolist(), found_BTH.view(-1, 5).tolist(), strict=True):
        inner = [
            gelu(sum(w * x for w, x in zip(weights, row, strict=True)) + bias)
            for weights, bias in zip(*down, strict=True)
        ]
        for place, (weights, bias) in enumerate(zip(*up, strict=True)):
            added = sum(w * x for w, x in zip(weights, inner, strict=True)) + bias
            assert abs(row[place] + added - found[place]) < 1e-12


def test_the_published_form_is_nowhere_further_than_it_is_said_to_be() -> None:
    """docs/meta.md says by how much."""
    most = max(abs(gelu(x / 1000) - gelu_by_tanh(x / 1000)) for x in range(-8000, 8001))
    assert 4e-4 < most < 5e-4
