"""The loss is the mean over the tasks present of their means, however the batch is cut."""

import pytest
import torch
import torch.nn.functional as F

from ds_bert.multitask.objective import objective_of

OBJECTIVE = objective_of([("two", 2), ("number", 0), ("absent", 4), ("three", 3)])
TASKS = torch.tensor([0, 3, 1, 0, 3, 1, 0, 0])
LABELS = torch.tensor([0, 2, 3.5, 1, 0, -1.25, 1, 0])


def logits() -> torch.Tensor:
    counts = torch.tensor([2, 1, 4, 3])[TASKS]
    values = torch.randn(8, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return values.masked_fill(torch.arange(4) >= counts[:, None], -torch.inf)


def plain(scores: torch.Tensor) -> dict[int, list[torch.Tensor]]:
    losses: dict[int, list[torch.Tensor]] = {}
    for row, (task, label) in enumerate(zip(TASKS.tolist(), LABELS.tolist(), strict=True)):
        count = OBJECTIVE.labels[task]
        if count:
            loss = F.cross_entropy(scores[row, :count][None], torch.tensor([int(label)]))
        else:
            loss = (scores[row, 0] - label) ** 2
        losses.setdefault(task, []).append(loss)
    return losses


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_any_micro_batching_gives_the_same_loss_and_gradient(size: int) -> None:
    scores = logits().requires_grad_()
    means = {task: torch.stack(losses).mean() for task, losses in plain(scores).items()}
    expected = torch.stack(list(means.values())).mean()
    (gradient,) = torch.autograd.grad(expected, scores)

    scores = logits().requires_grad_()
    parts = [slice(begin, begin + size) for begin in range(0, 8, size)]
    labels = [{"task_ids": TASKS[part], "labels": LABELS[part]} for part in parts]
    totals = torch.stack([OBJECTIVE.counts(part) for part in labels]).sum(0)
    assert totals.tolist() == [4, 2, 0, 2]
    sums = torch.zeros(len(OBJECTIVE.sums), dtype=torch.float64)
    loss = torch.zeros((), dtype=torch.float64)
    for part, given in zip(parts, labels, strict=True):
        share, found = OBJECTIVE.forward({"logits": scores[part]}, given, totals)
        loss, sums = loss + share, sums + found
    loss.backward()
    assert scores.grad is not None and torch.isfinite(scores.grad).all()
    assert abs(loss.item() - expected.item()) <= 1e-12 and (scores.grad - gradient).abs().max() <= 1e-12
    report = OBJECTIVE.report(sums)
    assert report.keys() == {"loss", "two_loss", "number_loss", "three_loss"}
    assert report["loss"] == pytest.approx(expected.item()) and report["two_loss"] == pytest.approx(means[0].item())


def test_nothing_at_all() -> None:
    assert OBJECTIVE.report(torch.zeros(8)) == {"loss": 0.0}
