"""The classification objective, against torch's own losses over the whole global batch."""

import pytest
import torch
import torch.nn.functional as F

from ds_bert.tasks.classification import ClassificationObjective

ROWS = 8


def _case(kind: str) -> tuple[ClassificationObjective, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(objective, logits, labels, expected mean loss) of a global batch."""
    generator = torch.Generator().manual_seed(0)
    shape = {"classes": (ROWS, 3), "tokens": (ROWS, 5, 3), "number": (ROWS, 1), "numbers": (ROWS, 2)}[kind]
    logits = torch.randn(*shape, generator=generator).requires_grad_()
    if kind in ("number", "numbers"):
        labels = torch.randn(ROWS, *([2] if kind == "numbers" else []), generator=generator)
        expected = (logits.squeeze(-1) - labels).square().mean()
        return ClassificationObjective(shape[-1], regression=True), logits, labels, expected
    labels = torch.randint(0, 3, shape[:-1], generator=generator)
    if kind == "tokens":
        labels[:, 3:] = -100
        labels[2] = -100  # a part without any label, where parts are of one row
    expected = F.cross_entropy(logits.reshape(-1, 3), labels.reshape(-1))
    return ClassificationObjective(3), logits, labels, expected


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("kind", ["classes", "tokens", "number", "numbers"])
def test_shares_add_up_to_the_mean_over_the_global_batch(kind: str, size: int) -> None:
    objective, logits, labels, expected = _case(kind)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    parts = [{"labels": part} for part in labels.split(size)]
    totals = torch.stack([objective.counts(part) for part in parts]).sum(0)
    assert totals.dtype == torch.float64
    assert totals.item() == {"classes": 8, "tokens": 21, "number": 8, "numbers": 16}[kind]
    shares, sums = zip(
        *(objective.forward({"logits": a}, b, totals) for a, b in zip(logits.split(size), parts, strict=True)),
        strict=True,
    )
    torch.testing.assert_close(sum(shares), expected)
    torch.testing.assert_close(torch.autograd.grad(sum(shares), logits)[0], expected_gradient)
    assert all(part.shape == (len(objective.sums),) for part in sums)
    report = objective.report(torch.stack(sums).sum(0))
    assert report["loss"] == pytest.approx(expected.item(), rel=1e-6)
    if kind in ("classes", "tokens"):
        counted = labels != -100
        right = (logits.argmax(-1) == labels)[counted].double().mean().item()
        assert report["accuracy"] == pytest.approx(right)
    else:
        assert set(report) == {"loss"}


def test_a_batch_without_labels_has_a_finite_loss() -> None:
    objective = ClassificationObjective(3)
    labels = {"labels": torch.full((2, 4), -100)}
    logits = torch.randn(2, 4, 3, requires_grad=True)
    loss, sums = objective.forward({"logits": logits}, labels, objective.counts(labels))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()
    assert objective.report(sums) == {"loss": 0.0, "accuracy": 0.0}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kind", ["classes", "number"])
def test_half_precision_logits_are_measured_in_fp32(kind: str, dtype: torch.dtype) -> None:
    objective, logits, labels, _ = _case(kind)
    rounded = logits.detach().to(dtype)
    _, sums = objective.forward({"logits": rounded}, {"labels": labels}, torch.ones(1))
    if kind == "classes":
        exact = F.cross_entropy(rounded.double(), labels, reduction="sum")
    else:
        exact = (rounded.double()[:, 0] - labels).square().sum()
    assert sums.dtype == torch.float64
    assert sums[0].item() == pytest.approx(exact.item(), rel=1e-6)
