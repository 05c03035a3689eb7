"""The peers compute one and the same loss, and the report counts what it says."""

import pytest
import report
import torch
import workload
from peers import (
    EncoderLayer,
    HeadTransform,
    OtherEmbeddings,
    Stage,
    WholeModel,
    WordEmbeddings,
    build_model,
    pretraining_loss,
)


@pytest.fixture(scope="module")
def model():
    return build_model().eval()


@pytest.fixture(scope="module")
def batch():
    return workload.global_batch(0).micro_batches(2)[3]


@pytest.fixture(scope="module")
def expected(model, batch):
    return WholeModel(model, "transformers")(batch).item()


def test_a_batch_is_reproducible_and_differs_from_the_next():
    first, again, second = workload.global_batch(0), workload.global_batch(0), workload.global_batch(1)
    assert torch.equal(first.input_ids, again.input_ids)
    assert not torch.equal(first.input_ids, second.input_ids)


def test_exactly_the_predictions_are_masked_and_labelled():
    batch = workload.global_batch(0)
    assert batch.input_ids.shape == (64, 128)
    labelled = batch.labels != -100
    assert (labelled.sum(dim=1) == 20).all()
    assert torch.equal(labelled, batch.input_ids == workload.MASK)
    assert torch.equal(batch.labels[labelled].view(64, 20), batch.masked_labels)
    assert torch.equal(labelled.nonzero()[:, 1].view(64, 20), batch.masked_positions)


def test_masked_head_has_transformers_loss(model, batch, expected):
    assert WholeModel(model, "masked")(batch).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("head", ["transformers", "masked"])
def test_two_stages_have_transformers_loss(model, batch, expected, head):
    hidden = Stage(model, 2, True, "fp32")(batch.input_ids, batch.token_type_ids)
    positions = batch.masked_positions if head == "masked" else None
    logits = Stage(model, 2, False, "fp32")(hidden, positions=positions)
    assert pretraining_loss(logits, batch.target(head)).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("head", ["transformers", "masked"])
def test_deepspeed_layers_have_transformers_loss(model, batch, expected, head):
    positions = (batch.masked_positions,) if head == "masked" else ()
    words = WordEmbeddings(model)
    encoder = [EncoderLayer(model, index) for index in range(workload.LAYERS)]
    message = (batch.input_ids, batch.token_type_ids, *positions)
    for layer in [words, OtherEmbeddings(model), *encoder, HeadTransform(model)]:
        message = layer(message)
    logits = WordEmbeddings.decode(words, message)
    assert pretraining_loss(logits, batch.target(head)).item() == pytest.approx(expected, rel=1e-6)


def _run(system, number, speed, first=11.0, last=10.0):
    losses = {"loss_first": first, "loss_last": last}
    return {"system": system, "precision": "fp32", "round": number, "samples_per_second": speed, "cut": None, **losses}


def test_ratios_are_pairwise_by_round():
    ours, theirs = [20.0, 8.0, 30.0], [10.0, 8.0, 10.0]
    runs = [_run("ds_bert", number, speed) for number, speed in enumerate(ours)]
    runs += [_run("ddp", number, speed) for number, speed in enumerate(theirs)]
    runs += [_run("deepspeed", number, 1.0) for number in range(3)]
    runs += [_run("one_core", number, 40.0) for number in range(3)]
    summary = {entry["system"]: entry for entry in report.summarise(runs)}
    assert summary["ddp"]["ratio"] == 2.0
    assert (summary["ds_bert"]["min"], summary["ds_bert"]["median"], summary["ds_bert"]["max"]) == (8.0, 20.0, 30.0)
    assert summary["best peer: ddp"]["ratio"] == 2.0
    header, *rows = report.table(list(summary.values())).splitlines()
    assert [len(row) for row in rows if not row.startswith("fp32       ds_bert")] == [len(header)] * 4


def test_a_loss_that_is_off_or_rises_is_reported():
    good = [_run("ddp", number, 1.0) for number in range(3)]
    assert report.problems(good) == []
    assert len(report.problems([*good, _run("deepspeed", 0, 1.0, first=11.3)])) == 1
    assert len(report.problems([*good, _run("deepspeed", 0, 1.0, last=11.1)])) == 1
