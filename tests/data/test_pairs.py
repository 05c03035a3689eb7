from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ds_bert.data import pairs
from ds_bert.data.pairs import IN_ORDER, IS_NEXT, NOT_NEXT, SWAPPED, PairPlan, count_examples, plan_pairs
from ds_bert.data.shards import ShardedCorpus
from ds_bert.errors import UserError

LENGTH = 64
FILL = LENGTH - 3


@pytest.fixture
def corpus(write_corpus: Callable[..., Path], random_documents: Callable[..., list]) -> ShardedCorpus:
    return ShardedCorpus.open(write_corpus(random_documents(150, most=40), shards=4))


def document_bounds(corpus: ShardedCorpus) -> np.ndarray:
    starts = [shard.first_token + shard.sentences[shard.documents[:-1]] for shard in corpus.shards]
    return np.append(np.concatenate(starts), corpus.num_tokens)


def sentence_starts(corpus: ShardedCorpus) -> set[int]:
    return {int(start) for shard in corpus.shards for start in shard.first_token + shard.sentences[:-1]}


def rows(plan: PairPlan) -> list[tuple[int, int, int, int, int]]:
    columns = (plan.start_a, plan.len_a, plan.start_b, plan.len_b, plan.label)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def padded_share(plan: PairPlan) -> float:
    return 1 - (plan.len_a.astype(int) + plan.len_b).mean() / FILL


def document_of(place: int, bounds: np.ndarray) -> int:
    return int(np.searchsorted(bounds, place, side="right")) - 1


@pytest.mark.parametrize("epoch", [0, 3])
@pytest.mark.parametrize("block_tokens", [1 << 24, 20_000])
def test_every_token_is_used_once_and_pairs_are_what_they_say(
    corpus: ShardedCorpus, epoch: int, block_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "_FEWEST_TOKENS", block_tokens)
    plan = plan_pairs(corpus, LENGTH, seed=1, epoch=epoch)
    bounds, used = document_bounds(corpus), Counter[int]()
    for start_a, len_a, start_b, len_b, label in rows(plan):
        assert len_a >= 1 and len_b >= 1 and len_a + len_b <= FILL
        a, b = document_of(start_a, bounds), document_of(start_b, bounds)
        assert start_a + len_a <= bounds[a + 1] and start_b + len_b <= bounds[b + 1]
        used.update(range(start_a, start_a + len_a))
        if label == IS_NEXT:
            assert a == b and start_b == start_a + len_a
            used.update(range(start_b, start_b + len_b))
        else:
            assert label == NOT_NEXT and a != b and start_b in sentence_starts(corpus)
    assert used == Counter(range(corpus.num_tokens))


def test_examples_are_full_and_balanced_and_as_many_in_every_epoch(corpus: ShardedCorpus) -> None:
    plans = [plan_pairs(corpus, LENGTH, seed=1, epoch=epoch) for epoch in range(4)]
    assert {len(plan) for plan in plans} == {count_examples(corpus, LENGTH)}
    for plan in plans:
        full = plan.len_a.astype(int) + plan.len_b == FILL
        assert full.mean() >= 0.99 and padded_share(plan) < 0.001
        assert abs(plan.label.mean() - 0.5) < 0.002


def test_cuts_stand_at_sentences_wherever_there_is_one(corpus: ShardedCorpus) -> None:
    starts = sentence_starts(corpus)
    plan = plan_pairs(corpus, LENGTH, seed=1, epoch=0)
    for start_a, len_a, start_b, len_b, label in rows(plan):
        if label == IS_NEXT:
            inside = starts & set(range(start_a + 1, start_b + len_b))
            assert start_a + len_a in inside or not inside


def test_cuts_are_spread(corpus: ShardedCorpus) -> None:
    plan = plan_pairs(corpus, LENGTH, seed=1, epoch=0)
    for label in (IS_NEXT, NOT_NEXT):
        lengths = plan.len_a[plan.label == label]
        assert 0.4 < lengths.mean() / FILL < 0.6 and lengths.std() / FILL > 0.2


def test_partners_are_spread_over_the_documents(corpus: ShardedCorpus) -> None:
    plan = plan_pairs(corpus, LENGTH, seed=1, epoch=0)
    bounds = document_bounds(corpus)
    partners = {document_of(start, bounds) for start in plan.start_b[plan.label == NOT_NEXT]}
    assert len(partners) > 100


def test_a_plan_follows_from_seed_and_epoch(corpus: ShardedCorpus) -> None:
    plans = [rows(plan_pairs(corpus, LENGTH, seed, epoch)) for seed, epoch in [(1, 0), (1, 0), (1, 1), (2, 0)]]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2] and plans[0] != plans[3] and plans[2] != plans[3]


def test_rests_of_long_documents_are_widened_for_balance(write_corpus: Callable[..., Path]) -> None:
    # 61 + 40 tokens: one chunk, one rest each; and short documents that can only be rests.
    corpus = ShardedCorpus.open(write_corpus([[30, 31, 40]] * 60 + [[20, 9]] * 30))
    plan = plan_pairs(corpus, LENGTH, seed=0, epoch=0)
    assert abs(plan.label.mean() - 0.5) < 0.01
    assert np.all((plan.len_a.astype(int) + plan.len_b)[plan.label == IS_NEXT] == FILL)
    assert len(plan) == 150 == count_examples(corpus, LENGTH)


def test_short_documents_are_padded_as_the_last_resort(write_corpus: Callable[..., Path]) -> None:
    corpus = ShardedCorpus.open(write_corpus([[10, 8, 7]] * 50 + [[1]] * 4))
    plan = plan_pairs(corpus, LENGTH, seed=0, epoch=0)
    assert abs(plan.label.mean() - 0.5) < 0.01 and padded_share(plan) > 0
    bounds = document_bounds(corpus)
    for start_a, len_a, start_b, len_b, label in rows(plan):
        a, b = document_of(start_a, bounds), document_of(start_b, bounds)
        assert (a == b) == (label == IS_NEXT) and len_a >= 1 and len_b >= 1
        assert start_b + len_b <= bounds[b + 1]


def test_one_giant_document_among_small_ones(write_corpus: Callable[..., Path]) -> None:
    corpus = ShardedCorpus.open(write_corpus([[20] * 400, [30, 20], [5]]))
    plan = plan_pairs(corpus, LENGTH, seed=0, epoch=0)
    bounds = document_bounds(corpus)
    for start_a, _, start_b, _, label in rows(plan):
        assert (document_of(start_a, bounds) == document_of(start_b, bounds)) == (label == IS_NEXT)
    assert abs(plan.label.mean() - 0.5) < 0.02


@pytest.mark.parametrize("epoch", [0, 3])
@pytest.mark.parametrize("block_tokens", [1 << 24, 20_000])
def test_order_pairs_are_neighbours_and_use_every_token(
    corpus: ShardedCorpus, epoch: int, block_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "_FEWEST_TOKENS", block_tokens)
    plan = plan_pairs(corpus, LENGTH, seed=1, epoch=epoch, sentence_order=True)
    bounds, starts, used = document_bounds(corpus), sentence_starts(corpus), Counter[int]()
    for start_a, len_a, start_b, len_b, label in rows(plan):
        (first, first_length), (second, length) = sorted([(start_a, len_a), (start_b, len_b)])
        assert first_length >= 1 and length >= 1 and second == first + first_length
        assert label == (IN_ORDER if start_a < start_b else SWAPPED)
        document = document_of(first, bounds)
        assert second + length <= bounds[document + 1]
        assert first_length + length == min(FILL, bounds[document + 1] - bounds[document])
        inside = starts & set(range(first + 1, second + length))
        assert second in inside or not inside
        used.update(range(first, second + length))
    alone = bounds[:-1][np.diff(bounds) == 1].tolist()
    assert set(used) == set(range(corpus.num_tokens)) - set(alone)
    repeated = sum(used.values()) - len(used)
    assert 0 < repeated <= FILL * corpus.num_documents and max(used.values()) == 2


def test_order_pairs_are_full_balanced_and_as_many_in_every_epoch(corpus: ShardedCorpus) -> None:
    plans = [plan_pairs(corpus, LENGTH, seed=1, epoch=epoch, sentence_order=True) for epoch in range(3)]
    assert {len(plan) for plan in plans} == {count_examples(corpus, LENGTH, sentence_order=True)}
    sizes = np.diff(document_bounds(corpus))
    short = int(((sizes > 1) & (sizes < FILL)).sum())
    for plan in plans:
        lengths = plan.len_a.astype(int) + plan.len_b
        assert (lengths == FILL).sum() == len(plan) - short
        assert plan.label.sum() == len(plan) // 2
        assert abs(np.corrcoef(np.arange(len(plan)), plan.label)[0, 1]) < 0.05
        firsts = np.where(plan.label == IN_ORDER, plan.len_a, plan.len_b)[lengths == FILL]
        assert 0.4 < firsts.mean() / FILL < 0.6 and firsts.std() / FILL > 0.2
    assert rows(plans[0]) != rows(plans[1])
    assert rows(plans[0]) == rows(plan_pairs(corpus, LENGTH, seed=1, epoch=0, sentence_order=True))


def test_order_needs_no_second_document_but_two_tokens(write_corpus: Callable[..., Path]) -> None:
    plan = plan_pairs(ShardedCorpus.open(write_corpus([[9, 9], [1]])), 64, 0, 0, sentence_order=True)
    assert len(plan) == 1 and sorted([plan.start_a[0], plan.start_b[0]]) == [0, 9]
    assert len(plan_pairs(ShardedCorpus.open(write_corpus([[9, 9]], name="one")), 64, 0, 0, sentence_order=True)) == 1
    tiny = ShardedCorpus.open(write_corpus([[1], [1]], name="tiny"))
    for function in (lambda: count_examples(tiny, 64, True), lambda: plan_pairs(tiny, 64, 0, 0, True)):
        with pytest.raises(UserError, match="one token each"):
            function()


@pytest.mark.parametrize(
    "documents, length, words", [([[9, 9]], 64, "one document"), ([[9], [9]], 7, "max_seq_length")]
)
def test_the_impossible_is_refused(
    write_corpus: Callable[..., Path], documents: list[list[int]], length: int, words: str
) -> None:
    corpus = ShardedCorpus.open(write_corpus(documents))
    for function in (lambda: count_examples(corpus, length), lambda: plan_pairs(corpus, length, 0, 0)):
        with pytest.raises(UserError, match=words):
            function()
