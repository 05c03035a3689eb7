"""The products with the word embeddings, against torch's own."""

import pytest
import torch
import torch.nn.functional as F

from ds_bert.modeling.model import embedding_lookup, tied_decoder

VOCABULARY, HIDDEN = 11, 6


def _weight(main_grad: torch.dtype | None = None, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(VOCABULARY, HIDDEN, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    if main_grad is not None:
        weight.main_grad = torch.ones(VOCABULARY, HIDDEN, dtype=main_grad)
    return weight


def _random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


IDS = torch.tensor([[3, 0, 3, 10], [0, 7, 3, 1]])


@pytest.mark.parametrize("padding_id", [-1, 0, 3])
def test_lookup_without_main_grad_is_torchs(padding_id: int) -> None:
    ours, torchs, upstream = _weight(), _weight(), _random(2, 4, HIDDEN)
    found = embedding_lookup(ours, IDS, padding_id)
    expected = F.embedding(IDS, torchs, None if padding_id < 0 else padding_id)
    assert torch.equal(found, expected)
    found.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(ours.grad, torchs.grad)


@pytest.mark.parametrize("padding_id", [-1, 0, 3])
def test_lookup_adds_to_main_grad(padding_id: int) -> None:
    ours, torchs, upstream = _weight(torch.float64), _weight(), _random(2, 4, HIDDEN)
    for _ in range(2):
        embedding_lookup(ours, IDS, padding_id).backward(upstream)
        F.embedding(IDS, torchs, None if padding_id < 0 else padding_id).backward(upstream)
    assert ours.grad is None
    torch.testing.assert_close(ours.main_grad, torchs.grad + 1)


@pytest.mark.parametrize("rows", [5, 1, 0])
@pytest.mark.parametrize("main_grad", [None, torch.float64])
def test_decoder_is_torchs_linear(rows: int, main_grad: torch.dtype | None) -> None:
    upstream = _random(rows, VOCABULARY, seed=2)
    gradients = []
    for decode, weight in ((tied_decoder, _weight(main_grad)), (F.linear, _weight())):
        hidden = _random(rows, HIDDEN).requires_grad_()
        bias = _random(VOCABULARY, seed=3).requires_grad_()
        logits = decode(hidden, weight, bias)
        logits.backward(upstream)
        summed = weight.grad if weight.grad is not None else weight.main_grad - 1
        gradients.append((logits, hidden.grad, bias.grad, summed))
    for ours, torchs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, torchs)


def test_bf16_products_are_summed_in_fp32() -> None:
    """Ones that bfloat16 could not count beyond 256."""
    weight = _weight(torch.float32, torch.bfloat16)
    bias = torch.zeros(VOCABULARY, dtype=torch.bfloat16, requires_grad=True)
    hidden = torch.ones(1, HIDDEN, dtype=torch.bfloat16)
    for _ in range(300):
        embedding_lookup(weight, torch.tensor([4])).sum().backward()
        tied_decoder(hidden, weight, bias).sum().backward()
    assert weight.grad is None
    expected = torch.full((VOCABULARY, HIDDEN), 301.0)
    expected[4] += 300
    assert torch.equal(weight.main_grad, expected)
