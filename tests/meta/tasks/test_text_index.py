from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from ds_bert.data.shards import ShardedCorpus
from ds_bert.errors import UserError
from ds_bert.meta.tasks import text_index
from ds_bert.meta.tasks.text_index import Sentences, TextIndex, WordSplitter, build_index


def plain_words(ids: list[int], tokens: list[str]) -> list[str]:
    """The words of a sentence, one token after the other."""
    words: list[str] = []
    for token in (tokens[number] for number in ids):
        if token.startswith("##") and words:
            words[-1] += token[2:]
        else:
            words.append(token)
    return words


def plain_index(corpus: ShardedCorpus, longest: int) -> tuple[list[bool], dict[str, list[int]]]:
    """Which sentences are usable, and in which of them each word stands."""
    sentences, tokens = Sentences(corpus), corpus.tokenizer.tokens
    usable, found, seen = [], defaultdict(list), set()
    for number in range(len(sentences)):
        ids = tuple(sentences.tokens(number).tolist())
        usable.append(5 <= len(ids) <= longest and ids not in seen)
        seen.add(ids)
        if usable[-1]:
            for word in set(plain_words(list(ids), tokens)):
                if word.isalpha() and len(word) > 1:
                    found[word].append(number)
    return usable, found


@pytest.mark.parametrize("at_a_time", [97, 1 << 20])
def test_words_and_their_sentences_are_those_of_a_plain_search(
    corpus: ShardedCorpus, monkeypatch: pytest.MonkeyPatch, at_a_time: int
) -> None:
    monkeypatch.setattr(text_index, "_TOKENS_AT_A_TIME", at_a_time)
    assert len(corpus.shards) > 2
    index = build_index(corpus, min_frequency=30, max_sentence_tokens=15)
    usable, expected = plain_index(corpus, 15)
    assert index.usable.tolist() == usable and 0 < sum(usable) < len(usable)
    found = {
        word: index.postings[first:last].tolist()
        for word, first, last in zip(index.words, index.posting_starts, index.posting_starts[1:], strict=False)
    }
    assert found == {word: places for word, places in expected.items() if len(places) >= 30}
    assert 0 < len(found) < len(expected) and any(len(word) > 3 for word in found)


def test_words_are_found_by_their_hashes(index: TextIndex) -> None:
    tokenizer, sentences = index.corpus.tokenizer, Sentences(index.corpus)
    splitter = WordSplitter(tokenizer)
    for number in range(0, len(sentences), 37):
        ids = sentences.tokens(number)
        found = index.words_of(splitter.split(ids, np.array([0])).hashes).tolist()
        expected = plain_words(ids.tolist(), tokenizer.tokens)
        assert [index.words[word] if word >= 0 else None for word in found] == [
            word if word in index.words else None for word in expected
        ]


def test_an_index_reads_back(index: TextIndex, tmp_path: Path) -> None:
    index.save(tmp_path / "index")
    again = TextIndex.open(tmp_path / "index", index.corpus)
    assert again.words == index.words and not again.postings.flags.owndata
    assert np.array_equal(again.postings, index.postings) and np.array_equal(again.hashes, index.hashes)


def test_capitals_make_no_difference(tmp_path: Path) -> None:
    from ds_bert.data.vocabulary import load_tokenizer

    path = tmp_path / "vocab.txt"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "King", "king", "Ki", "##ng", "##s", "."]
    path.write_text("\n".join([*tokens, *(f"[unused{number}]" for number in range(100))]))
    tokenizer = load_tokenizer(path)
    splitter = WordSplitter(tokenizer)
    ids = np.array([tokens.index(token) for token in ["King", "king", "Ki", "##ng", "king", "##s", "."]])
    begins, hashes = splitter.split(ids, np.array([0]))
    assert begins.tolist() == [0, 1, 2, 4, 6] and len(set(hashes.tolist())) == 5
    ends = [*begins[1:], len(ids)]
    texts = [splitter.text(ids[a:b].tolist()) for a, b in zip(begins, ends, strict=True)]
    assert texts == ["king", "king", "king", "kings", "."]


def test_text_without_usable_sentences_is_refused(corpus: ShardedCorpus) -> None:
    with pytest.raises(UserError, match="none of 480 sentences has 5 to 4 tokens"):
        build_index(corpus, 1, 4)
