import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from ds_bert.cli import main
from ds_bert.data.pretraining import Batch, Masking, PretrainingDataset
from ds_bert.data.sampler import GlobalBatchSampler
from ds_bert.errors import UserError

LENGTH, MOST = 64, 10


@pytest.fixture
def folder(write_corpus: Callable[..., Path], random_documents: Callable[..., list]) -> Path:
    return write_corpus(random_documents(60, most=30), shards=3)


def open_dataset(folder: Path, **changes: object) -> PretrainingDataset:
    how = {field.name: changes.pop(field.name) for field in fields(Masking) if field.name in changes}
    masking = Masking(**{"max_predictions_per_seq": MOST, **how})
    return PretrainingDataset(folder, **{"max_seq_length": LENGTH, "masking": masking, **changes})


def rows(batch: Batch) -> list[list]:
    """All that an example holds, row by row; a missing attention mask counts as all True."""
    mask = np.ones(batch.input_ids.shape, bool) if batch.attention_mask is None else batch.attention_mask
    arrays = [mask if field.name == "attention_mask" else getattr(batch, field.name) for field in fields(Batch)]
    return [[array[row].tolist() for array in arrays] for row in range(len(batch.input_ids))]


@pytest.mark.parametrize("sentence_order", [False, True])
@pytest.mark.parametrize("whole_word_mask, ngram_mask", [(False, 0), (True, 0), (False, 3)])
def test_examples_are_the_planned_tokens(
    folder: Path, whole_word_mask: bool, ngram_mask: int, sentence_order: bool
) -> None:
    """Rebuild every example token by token from the plan."""
    masks = {"whole_word_mask": whole_word_mask, "ngram_mask": ngram_mask}
    dataset = open_dataset(folder, **masks, sentence_order=sentence_order)
    stream = np.concatenate([shard.tokens for shard in dataset.corpus.shards]).tolist()
    cls_id, sep_id, pad_id = dataset.tokenizer.cls_id, dataset.tokenizer.sep_id, dataset.tokenizer.pad_id
    plan = dataset.plan(1)
    batch = dataset.batch(1, np.arange(len(dataset)))
    assert {getattr(batch, field.name).dtype for field in fields(Batch) if field.name != "attention_mask"} == {
        np.dtype(np.int64)
    }
    for row in range(len(dataset)):
        start_a, len_a, start_b, len_b = (
            int(array[row]) for array in (plan.start_a, plan.len_a, plan.start_b, plan.len_b)
        )
        text = [cls_id, *stream[start_a : start_a + len_a], sep_id, *stream[start_b : start_b + len_b], sep_id]
        padding = LENGTH - len(text)
        restored = batch.input_ids[row].copy()
        for position, label in zip(batch.masked_positions[row], batch.masked_labels[row], strict=True):
            if label != -100:
                restored[position] = label
        assert restored.tolist() == text + [pad_id] * padding
        assert batch.token_type_ids[row].tolist() == [0] * (len_a + 2) + [1] * (len_b + 1) + [0] * padding
        if batch.attention_mask is not None:
            assert batch.attention_mask[row].tolist() == [True] * len(text) + [False] * padding
        else:
            assert not padding
        assert batch.next_sentence_label[row] == plan.label[row]
        num_masked = (batch.masked_labels[row] != -100).sum()
        wanted = min(MOST, max(1, round(0.15 * (len_a + len_b))))
        assert num_masked == wanted or ((whole_word_mask or ngram_mask) and 1 <= num_masked <= MOST)


def test_full_batches_have_no_attention_mask(folder: Path) -> None:
    dataset = open_dataset(folder)
    plan = dataset.plan(0)
    full = np.flatnonzero(plan.len_a.astype(int) + plan.len_b == LENGTH - 3)
    assert dataset.batch(0, full[:50]).attention_mask is None


@pytest.mark.parametrize(
    "choices",
    [{}, {"whole_word_mask": True}, {"ngram_mask": 3, "sentence_order": True}],
    ids=["plain", "words", "albert"],
)
def test_an_example_is_the_same_in_every_batch_and_process(folder: Path, choices: dict) -> None:
    dataset, other = (open_dataset(folder, **choices) for _ in range(2))
    numbers = np.random.default_rng(0).permutation(len(dataset))[:40]
    epochs = np.arange(40) % 3
    together = rows(dataset.batch(epochs, numbers))
    for size in (1, 7, 40):
        parts = [
            row
            for first in range(0, 40, size)
            for row in rows(other.batch(epochs[first : first + size], numbers[first : first + size]))
        ]
        assert parts == together


def test_masks_differ_between_epochs_seeds_and_evaluation(folder: Path) -> None:
    numbers = np.arange(50)
    training = open_dataset(folder)
    variants = [
        training.batch(0, numbers),
        training.batch(1, numbers),
        open_dataset(folder, seed=43).batch(0, numbers),
        open_dataset(folder, evaluation=True).batch(0, numbers),
    ]
    for index, one in enumerate(variants):
        for another in variants[index + 1 :]:
            assert (one.masked_positions != another.masked_positions).mean() > 0.5


def test_batches_that_span_epochs(folder: Path) -> None:
    dataset = open_dataset(folder)
    sampler = GlobalBatchSampler(len(dataset), len(dataset) - 5, seed=0)
    epochs, numbers = sampler.samples(1)
    assert set(epochs.tolist()) == {0, 1}
    assert rows(dataset.batch(epochs, numbers))[-1] == rows(dataset.batch(1, numbers[-1:]))[0]


def test_an_id_outside_the_vocabulary_is_refused_by_the_shards_name(folder: Path) -> None:
    """A bit that flips once the folder was opened, too: the shards are mapped, not read."""
    dataset = open_dataset(folder)
    path = folder / "shard-00001" / "tokens.npy"
    tokens = np.load(path, mmap_mode="r+")
    tokens[7] ^= 1 << 15
    tokens.flush()
    message = rf"shard-00001/tokens\.npy: token 7 is 3\d{{4}}, .* ids below {dataset.tokenizer.size}; `ds-bert verify"
    with pytest.raises(UserError, match=message):
        dataset.batch(0, np.arange(len(dataset)))


@pytest.mark.skipif("DS_BERT_DATA" not in os.environ, reason="DS_BERT_DATA names no folder of real data")
def test_real_text(tmp_path: Path) -> None:
    data = Path(os.environ["DS_BERT_DATA"])
    flags = ["--input", f"{data}/text/wikitext-2/valid.txt", "--tokenizer_name", f"{data}/vocab/bert-base-uncased"]
    assert main(["prepare", *flags, "--output_dir", str(tmp_path / "data"), "--num_workers", "1"]) == 0
    dataset = PretrainingDataset(tmp_path / "data", max_seq_length=128, masking=Masking(whole_word_mask=True))
    assert dataset.corpus.num_documents == 60 and dataset.corpus.num_tokens > 200_000
    plan = dataset.plan(0)
    assert (plan.len_a.astype(int) + plan.len_b == 125).mean() > 0.99 and abs(plan.label.mean() - 0.5) < 0.02
    batch = dataset.batch(0, np.arange(64))
    text = dataset.tokenizer.backend.decode(np.where(batch.input_ids == 103, 100, batch.input_ids)[0].tolist())
    assert "homarus" in text or "lobster" in text
    masked = (batch.masked_labels != -100).sum() / (64 * 125)
    assert 0.13 < masked < 0.16


@pytest.mark.skipif("DS_BERT_DATA" not in os.environ, reason="DS_BERT_DATA names no folder of real data")
def test_real_text_for_an_albert(tmp_path: Path) -> None:
    data = Path(os.environ["DS_BERT_DATA"])
    flags = ["--input", f"{data}/text/wikitext-2/valid.txt", "--tokenizer_name", f"{data}/vocab/albert/30k-clean.model"]
    assert main(["prepare", *flags, "--output_dir", str(tmp_path / "data"), "--num_workers", "1"]) == 0
    dataset = PretrainingDataset(
        tmp_path / "data", max_seq_length=128, masking=Masking(ngram_mask=3), sentence_order=True
    )
    assert dataset.corpus.num_documents == 60 and dataset.corpus.num_tokens > 200_000
    batch = dataset.batch(0, np.arange(len(dataset)))
    assert abs(batch.next_sentence_label.mean() - 0.5) < 0.001
    chosen = np.zeros(batch.input_ids.shape, dtype=bool)
    rows, places = np.nonzero(batch.masked_labels != -100)
    chosen[rows, batch.masked_positions[rows, places]] = True
    assert 0.13 < chosen.sum() / (batch.input_ids != dataset.tokenizer.pad_id).sum() < 0.15
    # Neighbours are masked together more often than apart: a share of about 0.15 if they were independent.
    assert chosen[:, 2:][chosen[:, 1:-1]].mean() > 0.4
    original = batch.input_ids.copy()
    original[rows, batch.masked_positions[rows, places]] = batch.masked_labels[rows, places]
    special, continues = dataset.tokenizer.is_special[original], dataset.tokenizer.is_continuation[original]
    same_word = continues[:, 2:] & ~special[:, 1:-1]
    assert np.array_equal(chosen[:, 2:][same_word], chosen[:, 1:-1][same_word])
