"""CoNLL's columns as files in the wild have them, JSON lines, and what becomes of words without tokens."""

import json
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest

from ds_bert.data.features import IGNORED
from ds_bert.data.tagging import Sentence, encode_sentences, read_conll, read_sentences, write_sentences
from ds_bert.data.vocabulary import Tokenizer, load_tokenizer
from ds_bert.errors import UserError
from tests.support.model_folder import write_vocabulary

SENTENCES = [
    (("EU", "rejects", "#deal", "\ufe0f"), ("B-ORG", "O", "B-event", "O")),
    (("#", "@anna", "1\u00a0000", "\u2028x"), ("O", "B-person", "O", "O")),
    (("-", "a#b", "# x"), ("O", "I-person", "O")),
]
VARIANTS = list(product(["\n", "\r\n"], ["\t", " ", "  ", " \t"], ["", "\ufeff"], [False, True], [False, True]))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    write_vocabulary(folder := tmp_path_factory.mktemp("vocabulary"), ["eu", "rejects"])
    return load_tokenizer(folder)


def known(sentences: list[Sentence]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    return [(sentence.words, sentence.tags) for sentence in sentences]


@pytest.mark.parametrize(("end", "between", "mark", "has_more", "is_bare"), VARIANTS)
def test_every_layout_gives_the_same_sentences(
    tmp_path: Path, end: str, between: str, mark: str, has_more: bool, is_bare: bool
) -> None:
    """Line ends, separators, a byte order mark, more columns; comments, documents and empty lines at every place."""
    expected = [pair for pair in SENTENCES if "\t" in between or "# x" not in pair[0]]  # no blanks in words otherwise
    middle, lines = ["NNP", "_"] if has_more else [], []
    for number, (words, tags) in enumerate(expected):
        if not is_bare:
            lines += [
                "",
                " ",
                between.join(["-DOCSTART-", *(["-X-"] * len(middle)), "O"]),
                "",
                f"# id = {number} of many",
            ]
            lines += ["# text", "#", "# remark"]
        lines += [
            between.join([word, *middle, tag]) + ("" if is_bare else " ") for word, tag in zip(words, tags, strict=True)
        ]
        lines += [""] if is_bare else ["", "\t", ""]
    text = end.join(lines).rstrip("\r\n") if is_bare else end.join(lines) + end + end
    path = tmp_path / "a.conll"
    path.write_bytes((mark + text).encode())
    found = read_conll(path)
    assert known(found) == expected
    assert found[0].where == f"{path}: line {1 if is_bare else 9}"


def test_real_layouts(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\nPeter NNP B-NP B-PER\n\n")
    assert known(read_conll(path)) == [(("EU", "rejects"), ("B-ORG", "O")), (("Peter",), ("B-PER",))]
    assert known(read_conll(path, tag_column=1))[0] == (("EU", "rejects"), ("NNP", "VBZ"))
    assert known(read_conll(path, with_tags=False)) == [(("EU", "rejects"), ()), (("Peter",), ())]
    path.write_text("# sent_id = 1\n# text = He eats .\n1\tHe\the\tPRON\n2\teats .\teat\tVERB\n\n")
    assert known(read_conll(path, word_column=1, tag_column=3)) == [(("He", "eats ."), ("PRON", "VERB"))]
    path.write_text("#\thello\tO\nword\tone\tB-x\n\tgone\tO\n\n\nlast\ttwo\tO")
    assert known(read_conll(path)) == [(("#", "word", ""), ("O", "B-x", "O")), (("last",), ("O",))]
    path.write_text("EU\n#tag\n\n# a remark of some words\nagain\n")
    assert known(read_conll(path, with_tags=False)) == [(("EU", "#tag"), ()), (("again",), ())]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("EU B-ORG\nrejects\n", "line 2: 1 columns, but the lines before have 2"),
        ("EU\tB-ORG\nrejects it\tx\tO\n", "line 2: "),
        ("EU\nrejects\n", "line 1: 1 column; needed are at least 2"),
        ("EU B-ORG\n#tag\n", "line 2: 1 columns"),
        ("\n\n# nothing\n-DOCSTART- O\n", "no sentence"),
        ("", "no sentence"),
    ],
)
def test_lines_that_do_not_fit_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.conll").write_text(text)
    with pytest.raises(UserError, match=rf"a\.conll: {message}"):
        read_sentences(tmp_path / "a.conll")
    (tmp_path / "b.conll").write_bytes(b"EU O\n\xff O\n")
    with pytest.raises(UserError, match=r"b\.conll: line 2: byte 0xff"):
        read_sentences(tmp_path / "b.conll")


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"words": words, "tags": tags}) + "\n" for words, tags in SENTENCES))
    assert known(read_sentences(path)) == SENTENCES
    assert known(read_sentences(path, with_tags=False)) == [(words, ()) for words, _ in SENTENCES]
    for row in ({"words": ["a"], "tags": []}, {"words": [], "tags": []}, {"words": "a", "tags": ["O"]}, {"tags": 5}):
        path.write_text(json.dumps({"words": ["a"], "tags": ["O"]}) + "\n" + json.dumps(row) + "\n")
        with pytest.raises(UserError, match=r"line 2: \d tags for \d words"):
            read_sentences(path)


def test_words_without_tokens_are_not_trained_on_but_keep_their_place(tmp_path: Path, tokenizer: Tokenizer) -> None:
    sentences = [Sentence(words, tags, f"f: line {number}") for number, (words, tags) in enumerate(SENTENCES)]
    sentences.append(Sentence(("\ufe0f", "\u200b", ""), ("O", "B-ORG", "O"), "f: line 9"))
    names = sorted({tag for sentence in sentences for tag in sentence.tags})
    encoded, cut = encode_sentences(sentences, names, tokenizer, 8), 0
    labels, starts = encoded.features.token_columns["labels"], encoded.features.starts
    for number, sentence in enumerate(sentences):
        ids = [tokenizer.encode([word])[0].tolist() for word in sentence.words]
        wanted = [IGNORED]
        for word, tag in zip(ids, sentence.tags, strict=True):
            wanted += [names.index(tag), *[IGNORED] * (len(word) - 1)] if word else []
        cut += sum(label != IGNORED for label in wanted[7:])
        wanted = [*wanted[:7], IGNORED]
        assert labels[starts[number] : starts[number + 1]].tolist() == wanted
        tokens = [tokenizer.cls_id, *[token for word in ids for token in word][:6], tokenizer.sep_id]
        assert encoded.features.tokens[starts[number] : starts[number + 1]].tolist() == tokens
    assert cut > 0 and encoded.features.notes == (
        f"f: 4 words give no tokens and {cut} words are cut off; they are not trained on",
    )
    whole = encode_sentences(sentences, names, tokenizer, 64)
    labels, starts = whole.features.token_columns["labels"], whole.features.starts
    logits = [np.eye(len(names))[np.maximum(labels[a:b], 0)] for a, b in pairwise(starts)]
    found = list(whole.tags(logits, names))
    assert [len(tags) for tags in found] == [len(sentence.words) for sentence in sentences]
    assert found[:3] == [list(sentence.tags) for sentence in sentences[:3]] and found[3] == ["O", "O", "O"]
    write_sentences(tmp_path / "out.conll", sentences, found)
    assert known(read_conll(tmp_path / "out.conll", tag_column=1)) == known(sentences)
    assert [list(each.tags) for each in read_conll(tmp_path / "out.conll")] == found
    with pytest.raises(UserError, match=r"f: line 0: the tag 'B-ORG' in this sentence; needs one of O"):
        encode_sentences(sentences, ["O"], tokenizer, 16)
    assert not encode_sentences([Sentence(("EU",), (), "f: line 1")], [], tokenizer, 16).features.token_columns
