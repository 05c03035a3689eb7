"""What tasks made of text have to be, looked at token by token, by code that knows nothing of how they were made."""

import os
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from ds_bert.data.features import Features
from ds_bert.data.prepare import PrepareSettings, prepare
from ds_bert.data.shards import ShardedCorpus
from ds_bert.meta.tasks.task_set import TaskSet
from ds_bert.meta.tasks.task_settings import TaskSettings
from ds_bert.meta.tasks.text_index import Sentences
from ds_bert.meta.tasks.text_to_tasks import make_tasks

DATA = os.environ.get("DS_BERT_DATA")
NUM_TASKS = 45
ARTICLES = 350


class Made(NamedTuple):
    corpus: ShardedCorpus
    train: TaskSet
    validation: TaskSet


@pytest.fixture(scope="module", params=["synthetic", "wikipedia"])
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, large_text: Path) -> Path:
    folder, text, tokenizer = tmp_path_factory.mktemp(request.param), large_text, str(large_text.parent)
    if request.param == "wikipedia":
        if not DATA:
            pytest.skip("needs DS_BERT_DATA, the folder of real data")
        text, tokenizer = folder / "text.jsonl", f"{DATA}/vocab/bert-base-cased"
        with open(f"{DATA}/text/wikipedia_en.jsonl", encoding="utf-8") as file:
            text.write_text("".join(islice(file, ARTICLES)), encoding="utf-8")
    prepare(PrepareSettings(folder / "data", (str(text),), tokenizer_name=tokenizer))
    return folder / "data"


@pytest.fixture(scope="module")
def smlmt(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(prepared, tmp_path_factory, kind="smlmt", min_frequency=50)


def make(prepared: Path, tmp_path_factory: pytest.TempPathFactory, **settings: object) -> Made:
    out = tmp_path_factory.mktemp("tasks") / "made"
    fields = {"num_tasks": NUM_TASKS, "validation_share": 0.2, "max_seq_length": 64, **settings}
    make_tasks(TaskSettings(out, (str(prepared),), **fields))  # type: ignore[arg-type]
    return Made(ShardedCorpus.open(prepared), TaskSet.open(out), TaskSet.open(out / "validation"))


def sequences(features: Features) -> list[tuple[int, ...]]:
    starts = features.starts
    return [tuple(features.tokens[a:b].tolist()) for a, b in pairwise(starts)]


def labelled(tasks: TaskSet, number: int) -> list[tuple[tuple[int, ...], int]]:
    episode = tasks.task(number)
    parts = (episode.support, episode.query)
    return [row for part in parts for row in zip(sequences(part), part.columns["labels"].tolist(), strict=True)]


def words_of(ids: tuple[int, ...], tokens: list[str]) -> list[str]:
    words: list[str] = []
    for token in (tokens[number] for number in ids):
        if token.startswith("##"):
            words[-1] += token[2:]
        else:
            words.append(token)
    return [word.lower() for word in words]


def all_sentences(corpus: ShardedCorpus) -> list[tuple[int, ...]]:
    sentences = Sentences(corpus)
    return [tuple(sentences.tokens(number).tolist()) for number in range(len(sentences))]


def check_shape(tasks: TaskSet) -> None:
    """Sizes, balance, labels, and that support and query have no example in common."""
    for number in range(len(tasks)):
        episode = tasks.task(number)
        assert episode.num_classes == 2 + number % 3
        for part, size in ((episode.support, 80), (episode.query, 10)):
            counts = Counter(part.columns["labels"].tolist())
            assert sum(counts.values()) == len(part) == size and set(counts) == set(range(episode.num_classes))
            assert max(counts.values()) - min(counts.values()) <= 1
            assert part.lengths.max() <= 64
        rows = sequences(episode.support) + sequences(episode.query)
        assert len(set(rows)) == 90 and all(row[0] == rows[0][0] and row[-1] == rows[0][-1] for row in rows)


def test_smlmt_tasks_are_balanced_and_disjoint(smlmt: Made) -> None:
    assert len(smlmt.train) == NUM_TASKS and len(smlmt.validation) == 9
    check_shape(smlmt.train)
    check_shape(smlmt.validation)


def test_the_words_of_a_task_never_stand_in_its_sentences(smlmt: Made) -> None:
    tokens = smlmt.corpus.tokenizer.tokens
    for tasks in (smlmt.train, smlmt.validation):
        for number in range(len(tasks)):
            targets = set(tasks.name(number).split(", "))
            assert len(targets) == tasks.task(number).num_classes
            for ids, _ in labelled(tasks, number):
                words = words_of(ids, tokens)
                assert "[mask]" in words and not targets & set(words)


def test_masked_sentences_are_sentences_of_the_text_without_their_word(smlmt: Made) -> None:
    """Every sentence of the text that has the word becomes the example, once one [MASK] is put for each such word."""
    tokens, mask_id = smlmt.corpus.tokenizer.tokens, smlmt.corpus.tokenizer.mask_id
    sentences = all_sentences(smlmt.corpus)
    by_word: dict[str, set[tuple[int, ...]]] = {}
    wanted = {word for number in range(12) for word in smlmt.train.name(number).split(", ")}
    for ids in sentences:
        for word in wanted & set(words_of(ids, tokens)):
            by_word.setdefault(word, set()).add(plainly_masked(ids, word, tokens, mask_id))
    several = 0
    for number in range(12):
        targets = smlmt.train.name(number).split(", ")
        for ids, label in labelled(smlmt.train, number):
            assert ids[1:-1] in by_word[targets[label]]
            several += ids.count(mask_id) > 1
    assert several


def plainly_masked(ids: tuple[int, ...], word: str, tokens: list[str], mask_id: int) -> tuple[int, ...]:
    result: list[int] = []
    place = 0
    while place < len(ids):
        end = place + 1
        while end < len(ids) and tokens[ids[end]].startswith("##"):
            end += 1
        is_word = words_of(ids[place:end], tokens) == [word]
        result += [mask_id] if is_word else ids[place:end]
        place = end
    return tuple(result)


def test_words_are_frequent_and_of_one_part_only(smlmt: Made) -> None:
    words = [
        {word for number in range(len(tasks)) for word in tasks.name(number).split(", ")}
        for tasks in (smlmt.train, smlmt.validation)
    ]
    assert not words[0] & words[1] and min(map(len, words)) > 5
    tokens = smlmt.corpus.tokenizer.tokens
    counts = Counter(word for ids in set(all_sentences(smlmt.corpus)) for word in set(words_of(ids, tokens)))
    assert min(counts[word] for word in words[0] | words[1]) >= 50


def test_sentence_clusters_are_balanced_and_of_one_part_only(
    prepared: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    made = make(prepared, tmp_path_factory, kind="sentence-clusters", num_clusters=20, validation_share=0.4)
    known = set(all_sentences(made.corpus))
    clusters: dict[tuple[int, ...], set[str]] = {}
    used: list[set[tuple[int, ...]]] = []
    for tasks in (made.train, made.validation):
        check_shape(tasks)
        used.append(set())
        for number in range(len(tasks)):
            names = tasks.name(number).split(", ")
            for ids, label in labelled(tasks, number):
                clusters.setdefault(ids, set()).add(names[label])
                used[-1].add(ids)
    assert {ids[1:-1] for ids in clusters} <= known
    assert all(len(names) == 1 for names in clusters.values()) and not used[0] & used[1]


def test_pairs_have_the_relation_of_their_class(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = {"kind": "pairs", "ways": (2, 3), "max_seq_length": 512, "num_tasks": 8, "validation_share": 0.3}
    made = make(prepared, tmp_path_factory, **settings)
    sentences, reader = all_sentences(made.corpus), Sentences(made.corpus)
    places = {ids: number for number, ids in reversed(list(enumerate(sentences)))}
    documents: list[set[int]] = []
    for tasks in (made.train, made.validation):
        documents.append(set())
        for number in range(len(tasks)):
            names, seen = tasks.name(number).split(", "), []
            episode = tasks.task(number)
            assert (len(episode.support), len(episode.query)) == (80, 10)
            for part in (episode.support, episode.query):
                for ids, first, label in zip(
                    sequences(part), part.first_segments.tolist(), part.columns["labels"].tolist(), strict=True
                ):
                    left, right = (places[ids[1 : first - 1]], places[ids[first:-1]])
                    document, other = reader.documents([left, right])  # type: ignore[arg-type]
                    near = "next" if right == left + 1 else "same document"
                    assert names[label] == (near if document == other else "other document")
                    seen += [left, right]
                    documents[-1] |= {document, other}
            assert len(set(seen)) == 180
    assert not documents[0] & documents[1]
