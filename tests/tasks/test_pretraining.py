"""The pre-training objective, against torch's cross-entropy over the whole global batch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ds_bert.training.pretraining import PretrainingObjective, split_batch
from tests.support.toy import VOCABULARY, global_batch, part

ROWS = 8
OBJECTIVE = PretrainingObjective()


def _outputs(words: int, rows: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "mlm_logits": torch.randn(words, VOCABULARY, generator=generator).to(dtype).requires_grad_(),
        "nsp_logits": torch.randn(rows, 2, generator=generator).to(dtype).requires_grad_(),
    }


def _labels(batch: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return split_batch(batch)[1]


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_shares_add_up_to_the_mean_over_the_global_batch(size: int) -> None:
    whole = _labels(global_batch(0))
    outputs = _outputs(len(whole["masked_words"]), ROWS)
    expected = F.cross_entropy(outputs["mlm_logits"], whole["masked_words"])
    expected = expected + F.cross_entropy(outputs["nsp_logits"], whole["next_sentence"])
    expected_gradients = torch.autograd.grad(expected, list(outputs.values()))

    parts = [_labels(part(global_batch(0), begin, begin + size)) for begin in range(0, ROWS, size)]
    totals = torch.stack([OBJECTIVE.counts(labels) for labels in parts]).sum(0)
    assert totals.tolist() == [len(whole["masked_words"]), ROWS]
    words = outputs["mlm_logits"].split([len(labels["masked_words"]) for labels in parts])
    pairs = outputs["nsp_logits"].split(size)
    shares, sums = zip(
        *(
            OBJECTIVE.forward({"mlm_logits": mlm, "nsp_logits": nsp}, labels, totals)
            for mlm, nsp, labels in zip(words, pairs, parts, strict=True)
        ),
        strict=True,
    )
    torch.testing.assert_close(sum(shares), expected)
    for found, gradient in zip(
        torch.autograd.grad(sum(shares), list(outputs.values())), expected_gradients, strict=True
    ):
        torch.testing.assert_close(found, gradient)
    report = OBJECTIVE.report(torch.stack(sums).sum(0))
    assert report["loss"] == pytest.approx(expected.item(), rel=1e-6)
    assert report["mlm_loss"] + report["nsp_loss"] == report["loss"]


@torch.no_grad()
def test_accuracies_are_counted_where_no_gradient_is_asked_for() -> None:
    labels = _labels(global_batch(0))
    outputs = _outputs(len(labels["masked_words"]), ROWS)
    outputs["mlm_logits"][torch.arange(5), labels["masked_words"][:5]] = 100.0
    _, sums = OBJECTIVE.forward(outputs, labels, torch.ones(2))
    report = OBJECTIVE.report(sums)
    right = (outputs["mlm_logits"].argmax(1) == labels["masked_words"]).sum().item()
    assert right >= 5
    assert report["mlm_accuracy"] == right / len(labels["masked_words"])
    expected = (outputs["nsp_logits"].argmax(1) == labels["next_sentence"]).double().mean().item()
    assert report["nsp_accuracy"] == expected


@torch.no_grad()
def test_pairs_in_order_are_measured_under_their_own_name() -> None:
    labels = _labels(global_batch(0))
    outputs = _outputs(len(labels["masked_words"]), ROWS)
    reports = []
    for objective in (PretrainingObjective(), PretrainingObjective(pairs="sop")):
        _, sums = objective.forward(outputs, labels, torch.ones(2))
        assert len(objective.sums) == len(sums)
        reports.append(objective.report(sums))
    assert list(reports[0]) == ["loss", "mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy"]
    assert {name.replace("nsp", "sop"): value for name, value in reports[0].items()} == reports[1]


def test_a_batch_without_masked_words_has_a_finite_loss() -> None:
    labels = _labels(part(global_batch(0), 3, 4))
    assert labels["masked_words"].numel() == 0
    outputs = _outputs(0, 1)
    loss, sums = OBJECTIVE.forward(outputs, labels, OBJECTIVE.counts(labels))
    loss.backward()
    assert loss.item() == pytest.approx(F.cross_entropy(outputs["nsp_logits"], labels["next_sentence"]).item())
    assert OBJECTIVE.report(sums)["mlm_loss"] == 0.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_measured_in_fp32(dtype: torch.dtype) -> None:
    labels = _labels(global_batch(0))
    outputs = _outputs(len(labels["masked_words"]), ROWS, dtype=dtype)
    _, sums = OBJECTIVE.forward(outputs, labels, torch.ones(2))
    exact = F.cross_entropy(outputs["mlm_logits"].double(), labels["masked_words"], reduction="sum")
    assert sums.dtype == torch.float64
    assert sums[0].item() == pytest.approx(exact.item(), rel=1e-6)


def test_split_finds_positions_in_flattened_tokens() -> None:
    batch = global_batch(0)
    inputs, labels = split_batch(batch)
    assert set(inputs) == {"input_ids", "token_type_ids", "attention_mask"}
    expected = [
        (row * 16 + position, word)
        for row in range(ROWS)
        for position, word in zip(batch["masked_positions"][row], batch["masked_labels"][row], strict=True)
        if word != -100
    ]
    found = list(zip(labels["masked_positions"].tolist(), labels["masked_words"].tolist(), strict=True))
    assert found == expected
    assert labels["next_sentence"].tolist() == batch["next_sentence_label"].tolist()


@pytest.mark.parametrize("mask", ["absent", None])
def test_split_of_an_unpadded_batch_has_no_mask(mask: str | None) -> None:
    batch = {name: array for name, array in global_batch(0).items() if name != "attention_mask"}
    inputs, _ = split_batch(batch if mask else {**batch, "attention_mask": None})
    assert set(inputs) == {"input_ids", "token_type_ids"}
