"""Batches of encoded examples against a plain loop."""

import numpy as np
import pytest

from ds_bert.data.features import IGNORED, Features, join_pair, make_features

SEQUENCES = [[2, 7, 3], [2, 7, 8, 9, 10, 11, 12, 13, 3, 4, 3], [2, 3], [2, 5, 3, 6, 3]]
FIRST = [3, 9, 2, 3]


def features(per_example: int = 1) -> Features:
    columns = {"labels": np.arange(len(SEQUENCES) // per_example) * 10}
    return make_features(SEQUENCES, FIRST, pad_id=0, columns=columns, per_example=per_example)


def test_a_batch_is_padded_to_its_longest() -> None:
    batch = features().batch(0, np.array([0, 3]))
    assert batch["input_ids"].tolist() == [[2, 7, 3, 0, 0, 0, 0, 0], [2, 5, 3, 6, 3, 0, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[0] * 8, [0, 0, 0, 1, 1, 0, 0, 0]]
    assert batch["attention_mask"].sum(axis=1).tolist() == [3, 5]
    assert batch["labels"].tolist() == [0, 30]


def test_lengths_are_rounded_up_to_eight() -> None:
    assert features().batch(0, np.array([1]))["input_ids"].shape == (1, 16)


def test_no_mask_where_nothing_is_padded() -> None:
    full = make_features([[2] * 8, [2] * 8], [8, 8], pad_id=0)
    assert "attention_mask" not in full.batch(0, np.array([0, 1]))


def test_an_example_may_be_several_sequences() -> None:
    pairs = features(per_example=2)
    assert len(pairs) == 2 and pairs.lengths.tolist() == [11, 5]
    batch = pairs.batch(0, np.array([1, 0]))
    assert batch["labels"].tolist() == [10, 0]
    assert [row[row != 0].tolist() for row in batch["input_ids"]] == [SEQUENCES[i] for i in (2, 3, 0, 1)]


def test_labels_of_tokens_are_ignored_at_padding() -> None:
    plain = features()
    tags = np.arange(len(plain.tokens))
    tagged = Features(plain.tokens, plain.starts, plain.first_segments, 0, token_columns={"labels": tags})
    labels = tagged.batch(0, np.array([2, 0]))["labels"]
    assert labels.tolist() == [[14, 15] + [IGNORED] * 6, [0, 1, 2] + [IGNORED] * 5]


@pytest.mark.parametrize(
    ("left", "right", "most", "kept"),
    [(10, 4, 11, (4, 4)), (4, 10, 11, (4, 4)), (6, 6, 12, (5, 4)), (3, 3, 20, (3, 3)), (20, 2, 10, (5, 2))],
)
def test_pairs_lose_tokens_of_the_longer(left: int, right: int, most: int, kept: tuple[int, int]) -> None:
    ids, first = join_pair(range(100, 100 + left), range(200, 200 + right), 1, 2, most)
    assert ids == [1, *range(100, 100 + kept[0]), 2, *range(200, 200 + kept[1]), 2]
    assert first == kept[0] + 2


def test_a_single_text_is_cut() -> None:
    assert join_pair([5, 6, 7, 8], None, 1, 2, 5) == ([1, 5, 6, 7, 2], 5)
