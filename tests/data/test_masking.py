from pathlib import Path

import numpy as np
import pytest

from ds_bert.data.pretraining import IGNORED_LABEL, Masker, Masking, _cut_runs, _run_by_run
from ds_bert.data.sampler import random_bits, uniform
from ds_bert.data.vocabulary import Tokenizer, load_tokenizer
from ds_bert.errors import UserError

LENGTH, ROWS = 60, 400


@pytest.fixture
def tokenizer(vocabulary_file: Path) -> Tokenizer:
    return load_tokenizer(vocabulary_file)


def random_batch(tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[CLS] tokens [SEP] padding, of random lengths, with some [UNK]."""
    rng = np.random.default_rng(0)
    input_ids = rng.integers(5, tokenizer.size, size=(ROWS, LENGTH))
    input_ids[rng.random((ROWS, LENGTH)) < 0.03] = tokenizer.unk_id
    input_ids[:, 0] = tokenizer.cls_id
    for row, end in enumerate(rng.integers(3, LENGTH, size=ROWS)):
        input_ids[row, end] = tokenizer.sep_id
        input_ids[row, end + 1 :] = tokenizer.pad_id
    starts = np.zeros(input_ids.shape, dtype=bool)
    starts[:, 1] = True
    return input_ids, ~tokenizer.is_special[input_ids], starts


def words_of(tokens: np.ndarray, maskable: np.ndarray, tokenizer: Tokenizer) -> list[list[int]]:
    """Group the maskable positions into words, in plain Python."""
    words: list[list[int]] = []
    for position in np.flatnonzero(maskable).tolist():
        continues = tokenizer.tokens[tokens[position]].startswith("##") and position > 1
        if continues and words and words[-1][-1] == position - 1:
            words[-1].append(position)
        else:
            words.append([position])
    return words


@pytest.mark.parametrize("whole, ngram", [(False, 0), (True, 0), (True, 1), (False, 3)])
@pytest.mark.parametrize("most, probability", [(20, 0.15), (4, 0.15), (60, 0.5), (1, 0.15)])
def test_invariants(tokenizer: Tokenizer, whole: bool, ngram: int, most: int, probability: float) -> None:
    original, maskable, starts = random_batch(tokenizer)
    masked = original.copy()
    positions, labels = Masker(tokenizer, Masking(most, probability, whole, ngram)).mask(
        masked, maskable, starts, keys()
    )
    whole = whole or ngram > 1
    assert positions.shape == labels.shape == (ROWS, most)
    restored = masked.copy()
    for row in range(ROWS):
        used = labels[row] != IGNORED_LABEL
        chosen = positions[row, used].tolist()
        assert chosen == sorted(set(chosen)) and not positions[row, ~used].any()
        assert np.all(np.diff(used.astype(int)) <= 0)  # padding comes last
        assert maskable[row, chosen].all()
        restored[row, chosen] = labels[row, used]
        num_maskable = int(maskable[row].sum())
        wanted = min(most, max(1, round(probability * num_maskable))) if num_maskable else 0
        if not whole:
            assert len(chosen) == wanted
            continue
        words = words_of(original[row], maskable[row], tokenizer)
        sizes = [len(word) for word in words]
        assert all(set(word) <= set(chosen) or not set(word) & set(chosen) for word in words)
        if min(sizes, default=most + 1) > most:
            assert not chosen
        else:
            limit = max(wanted, min(sizes))
            skipped = [len(word) for word in words if word[0] not in chosen]
            assert 1 <= len(chosen) <= limit <= most
            assert all(len(chosen) + size > limit for size in skipped) or len(chosen) == limit
    assert np.array_equal(restored, original)
    changed = masked[masked != original]
    assert not np.isin(changed, [tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id]).any()


def keys(first: int = 0) -> np.ndarray:
    return np.arange(first, first + ROWS).astype(np.uint64) * np.uint64(7919)


@pytest.mark.parametrize("whole, ngram", [(False, 0), (True, 0), (False, 3)])
def test_shares_of_mask_random_and_kept(tokenizer: Tokenizer, whole: bool, ngram: int) -> None:
    original, maskable, starts = random_batch(tokenizer)
    fates: list[np.ndarray] = []
    drawn: list[np.ndarray] = []
    for repeat in range(20):
        masked = original.copy()
        masker = Masker(tokenizer, Masking(20, 0.15, whole, ngram))
        positions, labels = masker.mask(masked, maskable, starts, keys(repeat * ROWS))
        used = labels != IGNORED_LABEL
        now = np.take_along_axis(masked, positions, axis=1)[used]
        fates.append(np.where(now == tokenizer.mask_id, 0, np.where(now == labels[used], 2, 1)))
        drawn.append(now[(now != tokenizer.mask_id) & (now != labels[used])])
    fate, tokens = np.concatenate(fates), np.concatenate(drawn)
    kept_by_chance = 0.1 / len(tokenizer.ordinary_ids)
    shares = np.bincount(fate, minlength=3) / len(fate)
    assert np.allclose(shares, [0.8, 0.1 - kept_by_chance, 0.1 + kept_by_chance], atol=0.008)
    counts = np.bincount(tokens, minlength=tokenizer.size)
    assert (counts[tokenizer.ordinary_ids] > 0).mean() > 0.99 and counts[:5].sum() == 0


def test_every_position_is_chosen_equally_often(tokenizer: Tokenizer) -> None:
    input_ids = np.full((5000, 20), 10)
    maskable = np.ones(input_ids.shape, dtype=bool)
    numbers = np.arange(5000).astype(np.uint64)
    positions, labels = Masker(tokenizer, Masking(5, 0.15)).mask(input_ids, maskable, ~maskable, numbers)
    counts = np.bincount(positions[labels != IGNORED_LABEL], minlength=20)
    assert np.all(np.abs(counts / 5000 - 0.15) < 0.02)


def simple_runs(maskable: list[bool], draws: list[float], longest: int) -> list[list[int]]:
    """Cut words of one token into runs with p(n) ∝ 1/n, in plain Python; what may not be chosen stands alone."""
    total = sum(1 / n for n in range(1, longest + 1))
    runs, place = [], 0
    for draw in draws:
        size = next(n for n in range(1, longest + 1) if draw * total < sum(1 / k for k in range(1, n + 1)))
        joins = False
        for position in range(place, min(place + size, len(maskable))):
            if joins and maskable[position]:
                runs[-1].append(position)
            else:
                runs.append([position])
            joins = maskable[position]
        place += size
    return runs


def test_ngrams_are_those_of_a_simple_loop(tokenizer: Tokenizer) -> None:
    rng = np.random.default_rng(1)
    original = rng.integers(5, 100, size=(200, LENGTH))
    original[:, [0, 30, LENGTH - 1]] = tokenizer.cls_id
    original[rng.random(original.shape) < 0.02] = tokenizer.unk_id
    maskable = ~tokenizer.is_special[original]
    numbers = np.arange(200).astype(np.uint64)
    masker = Masker(tokenizer, Masking(12, 0.15, ngram_mask=3))
    positions, labels = masker.mask(original.copy(), maskable, np.zeros_like(maskable), numbers)
    priority = masker._priority(numbers, LENGTH)
    for row in range(200):
        draws = uniform(random_bits(row, 3, np.arange(LENGTH))).tolist()
        runs = simple_runs(maskable[row].tolist(), draws, 3)
        order = sorted(range(len(runs)), key=lambda run: priority[row, run])
        in_order = [position for run in order for position in runs[run] if maskable[row, position]]
        wanted = min(12, max(1, round(0.15 * len(in_order))))
        assert positions[row, labels[row] != IGNORED_LABEL].tolist() == sorted(in_order[:wanted])


@pytest.mark.parametrize("longest", [2, 3, 5])
def test_lengths_of_ngrams_go_with_their_inverse(longest: int) -> None:
    words = np.broadcast_to(np.arange(1000), (100, 1000))
    runs = _cut_runs(words, np.ones(words.shape, dtype=bool), longest, np.arange(100).astype(np.uint64))
    lengths = np.concatenate([np.bincount(row)[:-1] for row in runs])  # the last one ends with the row
    expected = 1 / np.arange(1, longest + 1)
    shares = np.bincount(lengths, minlength=longest + 1)[1:] / len(lengths)
    assert lengths.min() == 1 and np.allclose(shares, expected / expected.sum(), atol=0.006)


def test_words_of_a_run_follow_each_other_in_priority() -> None:
    priority = np.array([[5, 3, 9, 1]]) << 16
    assert _run_by_run(priority, np.array([[0, 0, 1, 2]])).argsort().tolist() == [[2, 0, 1, 3]]


def test_ngrams_mask_every_position_equally_often(tokenizer: Tokenizer) -> None:
    input_ids = np.full((20_000, 30), 10)
    maskable = np.ones(input_ids.shape, dtype=bool)
    numbers = np.arange(20_000).astype(np.uint64)
    positions, labels = Masker(tokenizer, Masking(6, 0.2, ngram_mask=3)).mask(input_ids, maskable, ~maskable, numbers)
    shares = np.bincount(positions[labels != IGNORED_LABEL], minlength=30) / 20_000
    assert np.allclose(shares, 0.2, atol=0.03)


@pytest.mark.parametrize("ngram", [0, 3])
def test_rows_do_not_depend_on_each_other(tokenizer: Tokenizer, ngram: int) -> None:
    original, maskable, starts = random_batch(tokenizer)
    masker = Masker(tokenizer, Masking(20, 0.15, whole_word_mask=True, ngram_mask=ngram))
    together = original.copy()
    positions, labels = masker.mask(together, maskable, starts, keys())
    for row in (0, 17, 399):
        alone = original[row : row + 1].copy()
        part = slice(row, row + 1)
        own_positions, own_labels = masker.mask(alone, maskable[part], starts[part], keys()[part])
        assert np.array_equal(alone[0], together[row])
        assert np.array_equal(own_positions[0], positions[row]) and np.array_equal(own_labels[0], labels[row])


@pytest.mark.parametrize("most, probability, word", [(0, 0.15, "max_predictions"), (5, 0.0, "mlm_"), (5, 1.5, "mlm_")])
def test_settings_out_of_bounds_are_refused(tokenizer: Tokenizer, most: int, probability: float, word: str) -> None:
    with pytest.raises(UserError, match=word):
        Masker(tokenizer, Masking(most, probability))
    with pytest.raises(UserError, match="ngram_mask is -1"):
        Masker(tokenizer, Masking(20, ngram_mask=-1))
