"""Every conditional module gives what its formula, written out in loops, gives, and the same gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from ds_bert.modeling.conditional import (
    ConditionalAttention,
    ConditionalBottleneck,
    Film,
    attention_bias,
    block_size,
    conditional_norm,
)
from tests.support import conditional as plain

B, T, H = 5, 11, 12


def filled(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random values, so that nothing is hidden by a zero."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data.normal_(0, 0.5, generator=generator)
    return module.double()


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    """Conditions (B, H) and hidden states (B, T, H)."""
    generator = torch.Generator().manual_seed(1)
    made = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((B, H), (B, T, H)))
    return tuple(tensor.requires_grad_() for tensor in made)  # type: ignore[return-value]


def check(found: torch.Tensor, expected: torch.Tensor, of: list[torch.Tensor]) -> None:
    """Compare values and gradients, by an uneven weighting of all outputs."""
    assert found.shape == expected.shape and (found - expected).abs().max() <= 1e-6
    weights = torch.linspace(-1, 2, found.numel(), dtype=torch.float64).view(found.shape)
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), of),
        torch.autograd.grad((expected * weights).sum(), of),
        strict=True,
    ):
        assert one.abs().max() > 0 and (one - other).abs().max() <= 1e-6


def each(function: Callable[[int], torch.Tensor]) -> torch.Tensor:
    return torch.stack([function(example) for example in range(B)])


def test_film() -> None:
    module, (condition, hidden) = filled(Film(H, H)), inputs()
    names = {f"x.{name}": parameter for name, parameter in module.named_parameters()}
    expected = each(lambda example: plain.film(names, "x", condition[example], hidden[example]))
    check(module(condition, hidden), expected, [condition, hidden, *module.parameters()])


@pytest.mark.parametrize("length", [1, 4, 7, T, 13])
@pytest.mark.parametrize("hidden_size", [H, 26, 40])
def test_attention_matrix(hidden_size: int, length: int) -> None:
    """Lengths up to the most, which need not divide anything; widths of one, two and three blocks."""
    module = filled(ConditionalAttention(hidden_size, 13))
    condition = torch.randn(B, hidden_size, dtype=torch.float64, requires_grad=True)
    names = {f"x.{name}": parameter for name, parameter in module.named_parameters()}
    expected = each(lambda example: plain.attention_matrix(names, "x", condition[example], length))
    check(module(condition, length), expected, [condition, *module.parameters()])


@pytest.mark.parametrize(("hidden_size", "width"), [(768, 22), (1024, 16), (384, 43), (32, 128)])
def test_blocks_are_those_of_the_paper(hidden_size: int, width: int) -> None:
    assert block_size(hidden_size, 128) == width


def test_nothing_is_attended_to_at_padding() -> None:
    matrix, mask = torch.randn(2, 3, 3), torch.tensor([[True, True, False], [True, True, True]])
    bias = attention_bias(matrix, mask)
    assert bias.shape == (2, 1, 3, 3) and (bias[0, 0, :, 2] < -1e30).all()
    assert torch.equal(bias[0, 0, :, :2], matrix[0, :, :2]) and torch.equal(bias[1, 0], matrix[1])
    assert torch.equal(attention_bias(matrix, None)[:, 0], matrix)


def test_norm() -> None:
    norm, module, (condition, hidden) = filled(nn.LayerNorm(H), 2), filled(Film(H, H)), inputs()
    assert isinstance(norm, nn.LayerNorm) and isinstance(module, Film)
    names = {f"norm.{name}": item for name, item in norm.named_parameters()}
    names |= {f"x.{name}": item for name, item in module.named_parameters()}
    expected = each(
        lambda example: plain.conditional_norm(names, "norm", "x", condition[example], hidden[example], norm.eps)
    )
    check(conditional_norm(norm, module, condition, hidden), expected, [condition, hidden, *names.values()])
    assert torch.equal(conditional_norm(norm, None, condition, hidden), norm(hidden))


def test_bottleneck() -> None:
    module, (condition, hidden) = filled(ConditionalBottleneck(H)), inputs()
    assert [*module.down.weight.shape] == [H // 3, H]
    names = {f"x.{name}": parameter for name, parameter in module.named_parameters()}
    expected = each(lambda example: plain.bottleneck(names, "x", condition[example], hidden[example]))
    check(module(condition, hidden), expected, [condition, hidden, *module.parameters()])
