"""The objectives of question answering, against torch's cross-entropy over the whole global batch."""

import pytest
import torch
import torch.nn.functional as F

from ds_bert.tasks.squad.objective import BeamSpanObjective, SpanObjective

EXAMPLES, LENGTH = 8, 12
CONTEXT_END = torch.tensor([11, 7, 9, 4, 11, 5, 8, 10])
LABELS = {
    "start_positions": torch.tensor([3, 0, 2, 3, 10, 0, 7, 4]),
    "end_positions": torch.tensor([3, 0, 8, 4, 11, 0, 7, 9]),
    "is_impossible": torch.tensor([0, 1, 0, 0, 0, 1, 0, 0]),
    "context_begin": torch.full((EXAMPLES,), 2),
    "context_end": CONTEXT_END,
}


def outputs(length: int = LENGTH, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2 * EXAMPLES * LENGTH + EXAMPLES, generator=generator)
    start, end, answer = logits.split([EXAMPLES * LENGTH, EXAMPLES * LENGTH, EXAMPLES])
    padded = [F.pad(each.view(EXAMPLES, LENGTH), (0, length - LENGTH), value=50.0) for each in (start, end)]
    named = {"start_logits": padded[0], "end_logits": padded[1], "answer_logits": answer}
    return {name: tensor.to(dtype).detach().requires_grad_() for name, tensor in named.items()}


def expected_span_loss(named: dict[str, torch.Tensor]) -> torch.Tensor:
    """One example at a time, on its own tokens only."""
    losses = []
    for number in range(EXAMPLES):
        tokens = slice(0, int(CONTEXT_END[number]) + 1)
        for side in ("start", "end"):
            logits, target = named[f"{side}_logits"][number, tokens], LABELS[f"{side}_positions"][number]
            losses.append(-torch.log_softmax(logits.float(), 0)[target])
    return torch.stack(losses).mean()


def expected_loss(named: dict[str, torch.Tensor], beam: bool) -> torch.Tensor:
    span = expected_span_loss(named)
    if not beam:
        return span
    probability = torch.sigmoid(named["answer_logits"].float())
    says = torch.where(LABELS["is_impossible"] == 1, probability, 1 - probability)
    return span - torch.log(says).mean() / 2


@pytest.mark.parametrize("beam", [False, True])
@pytest.mark.parametrize("size", [1, 2, 8])
def test_shares_add_up_to_the_mean_over_the_global_batch(beam: bool, size: int) -> None:
    objective = BeamSpanObjective() if beam else SpanObjective()
    named = outputs()
    if not beam:
        del named["answer_logits"]
    expected = expected_loss(named, beam)
    expected_gradients = torch.autograd.grad(expected, list(named.values()))
    parts = [
        tuple({name: tensor[begin : begin + size] for name, tensor in of.items()} for of in (named, LABELS))
        for begin in range(0, EXAMPLES, size)
    ]
    totals = torch.stack([objective.counts(labels) for _, labels in parts]).sum(0)
    assert totals.tolist() == [EXAMPLES] and totals.dtype == torch.float64
    shares, sums = zip(*(objective.forward(part, labels, totals) for part, labels in parts), strict=True)
    torch.testing.assert_close(sum(shares), expected)
    for found, gradient in zip(torch.autograd.grad(sum(shares), list(named.values())), expected_gradients, strict=True):
        torch.testing.assert_close(found, gradient)
    assert all(vector.shape == (len(objective.sums),) and vector.dtype == torch.float64 for vector in sums)
    report = objective.report(torch.stack(sums).sum(0))
    assert report["loss"] == pytest.approx(expected.item(), rel=1e-6)
    if beam:
        assert report["span_loss"] == pytest.approx(expected_span_loss(named).item(), rel=1e-6)
        assert report["span_loss"] + report["answerability_loss"] == pytest.approx(report["loss"])


def test_unpadded_the_span_loss_is_the_mean_of_both_cross_entropies() -> None:
    named, labels = outputs(), LABELS | {"context_end": torch.full((EXAMPLES,), LENGTH - 1)}
    objective = SpanObjective()
    share, _ = objective.forward(named, labels, objective.counts(labels))
    both = [F.cross_entropy(named[f"{side}_logits"], labels[f"{side}_positions"]) for side in ("start", "end")]
    torch.testing.assert_close(share, (both[0] + both[1]) / 2)


def test_padding_changes_nothing() -> None:
    objective, losses = SpanObjective(), []
    for length in (LENGTH, LENGTH + 20):
        named = outputs(length)
        share, _ = objective.forward(named, LABELS, objective.counts(LABELS))
        share.backward()
        losses.append(share.item())
        assert named["start_logits"].grad is not None
        assert not named["start_logits"].grad[:, LENGTH:].any()
    assert losses[0] == losses[1]


@pytest.mark.parametrize("objective", [SpanObjective(), BeamSpanObjective()])
def test_half_precision_is_summed_in_single(objective: SpanObjective) -> None:
    named = outputs(dtype=torch.bfloat16)
    share, _ = objective.forward(named, LABELS, objective.counts(LABELS))
    assert share.dtype == torch.float32
    expected = expected_loss(named, isinstance(objective, BeamSpanObjective))
    torch.testing.assert_close(share, expected)


def test_nothing_measured_is_a_loss_of_zero() -> None:
    assert SpanObjective().report(torch.zeros(2)) == {"loss": 0.0}


@pytest.mark.parametrize("objective", [SpanObjective(), BeamSpanObjective()])
@pytest.mark.parametrize("unknown", [[0], [1, 6], [2, 3, 4, 5, 7], [*range(8)]])
def test_examples_without_a_target_count_for_nothing(objective: SpanObjective, unknown: list[int]) -> None:
    named, labels = outputs(), {name: column.clone() for name, column in LABELS.items()}
    for name in ("start_positions", "end_positions"):
        labels[name][unknown] = -100
    known = [number for number in range(EXAMPLES) if number not in unknown]
    part = {name: column[known] for name, column in LABELS.items()}
    total, expected_total = objective.counts(labels), objective.counts(part)
    assert total.tolist() == expected_total.tolist() == [len(known)]
    share, sums = objective.forward(named, labels, total)
    expected, expected_sums = objective.forward({k: v[known] for k, v in named.items()}, part, expected_total)
    torch.testing.assert_close(share, expected)
    torch.testing.assert_close(sums, expected_sums)
