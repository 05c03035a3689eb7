import json
import os
import random
import re
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from ds_bert.data.vocabulary import load_tokenizer
from ds_bert.errors import UserError
from tests.support.tokenizer_folders import assert_same

package = pytest.importorskip("sentencepiece")

SPECIAL = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
TEXT = ["In 2010, the running runner ran on (not off) in 2010, and 1999, too.", "Café owners' happiness was of use."]
UNSEEN = [
    "  ``Unseen''  wörds — in 2010,000 places,\tor 3,14?  ",
    "THE Café's e\u0301 ﬁne ½ 漢字 1999,",
    "[MASK] and <pad> or [CLS]",
    "",
]


def train(folder: Path, name: str = "spiece", **changes: Any) -> Path:
    """Train a small SentencePiece model of ALBERT's kind."""
    rng = random.Random(0)
    syllables = ["ba", "ker", "in", "lo", "m", "est", "ful", "y", "dra", "sing"]
    words = [*" ".join(TEXT * 9).split(), *("".join(rng.choices(syllables, k=rng.randint(1, 3))) for _ in range(300))]
    text = [*TEXT, *(" ".join(rng.choices(words, k=12)) for _ in range(200))]
    settings = {
        "vocab_size": 130,
        "pad_id": 0,
        "unk_id": 1,
        "bos_id": -1,
        "eos_id": -1,
        "control_symbols": SPECIAL[2:],
        "user_defined_symbols": ["(", ")", "-"],
        "model_type": "unigram",
        "hard_vocab_limit": False,
        "minloglevel": 2,
    }
    package.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_prefix=str(folder / name), **{**settings, **changes}
    )
    return folder / f"{name}.model"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("albert"))


def albert_pieces(processor: Any, text: str, lower_case: bool = True, keep_accents: bool = False) -> list[str]:
    """ALBERT's own steps with the sentencepiece package: clean, cut, and cut pieces such as "9," once more."""
    text = " ".join(text.split()).replace("``", '"').replace("''", '"')
    if not keep_accents:
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    pieces = []
    for piece in processor.encode(text.lower() if lower_case else text, out_type=str):
        if len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit():
            number = processor.encode(piece[:-1].replace("▁", ""), out_type=str)
            if not piece.startswith("▁"):
                number = [number[0].removeprefix("▁"), *number[1:]] if number[0] != "▁" else number[1:]
            pieces += [*number, ","]
        else:
            pieces.append(piece)
    return pieces


def albert_ids(path: Path, **choices: bool) -> Callable[[str], list[int]]:
    processor = package.SentencePieceProcessor(model_file=str(path))
    return lambda text: [processor.piece_to_id(piece) for piece in albert_pieces(processor, text, **choices)]


def ids_of(tokenizer: Any, sentences: list[str]) -> list[list[int]]:
    return [tokenizer.encode([sentence])[0].tolist() for sentence in sentences]


def test_ids_are_those_of_the_package_with_alberts_rule(model: Path) -> None:
    tokenizer = load_tokenizer(model)
    sentences, expected = [*TEXT, *UNSEEN[:2], ""], albert_ids(model)
    assert ids_of(tokenizer, sentences) == [expected(sentence) for sentence in sentences]
    cut = package.SentencePieceProcessor(model_file=str(model)).encode(TEXT[0].lower(), out_type=str)
    assert any(re.search(r"\d,$", piece) for piece in cut)  # so that the rule was needed
    assert [tokenizer.tokens[tokenizer.pad_id], tokenizer.tokens[tokenizer.mask_id]] == ["<pad>", "[MASK]"]
    assert [tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id] == [
        0,
        1,
        2,
        3,
        4,
    ]


@pytest.mark.parametrize("lower_case, keep_accents", [(True, False), (False, False), (True, True), (False, True)])
def test_case_and_accents_are_kept_as_the_config_says(tmp_path: Path, lower_case: bool, keep_accents: bool) -> None:
    path = train(tmp_path)
    choices = {"lower_case": lower_case, "keep_accents": keep_accents}
    config = {"do_lower_case": lower_case, "keep_accents": keep_accents}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    sentences, expected = [*TEXT, *UNSEEN[:2]], albert_ids(path, **choices)
    tokenizer = load_tokenizer(tmp_path)
    assert ids_of(tokenizer, sentences) == [expected(sentence) for sentence in sentences]
    tokenizer.save(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert {key: saved[key] for key in config} == config


def test_saved_tokenizer_is_that_of_transformers(model: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(model)
    tokenizer.save(tmp_path)
    assert (tmp_path / "spiece.model").read_bytes() == model.read_bytes()
    sentences = [*TEXT, *UNSEEN[:2]]
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    assert type(theirs).__name__ == "AlbertTokenizer" and len(theirs) == tokenizer.size > 100
    assert theirs(sentences, add_special_tokens=False)["input_ids"] == ids_of(tokenizer, sentences)
    pair = theirs("the", "runner", return_token_type_ids=True)
    assert pair["input_ids"][0] == tokenizer.cls_id and pair["input_ids"][-1] == tokenizer.sep_id
    assert pair["token_type_ids"][-1] == 1 and theirs.mask_token_id == tokenizer.mask_id
    assert theirs.pad_token_id == tokenizer.pad_id and theirs.unk_token_id == tokenizer.unk_id


def test_a_folder_that_transformers_wrote_gives_their_ids(model: Path, tmp_path: Path) -> None:
    theirs = transformers.AlbertTokenizer.from_pretrained(str(model.parent))
    theirs.save_pretrained(tmp_path / "theirs")
    tokenizer = load_tokenizer(tmp_path / "theirs")
    tokenizer.save(tmp_path / "ours")
    sentences = [*TEXT, *UNSEEN[:2]]
    again = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "ours"))
    for kind in (theirs, again):
        assert kind(sentences, add_special_tokens=False)["input_ids"] == ids_of(tokenizer, sentences)
    assert tokenizer.fingerprint != load_tokenizer(model).fingerprint  # they cut at ( and ) in another way


@pytest.mark.parametrize("beside", ["config", "class", "both"])
@pytest.mark.parametrize("choice", [{}, {"do_lower_case": False}, {"keep_accents": True}, {"add_prefix_space": False}])
def test_a_folder_with_a_model_has_the_ids_of_transformers(
    model: Path, tmp_path: Path, beside: str, choice: dict[str, bool]
) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    shutil.copyfile(model, folder / "spiece.model")
    kind = {"tokenizer_class": "AlbertTokenizer"} if beside != "config" else {}
    if beside != "class":
        (folder / "config.json").write_text('{"model_type": "albert"}')
    (folder / "tokenizer_config.json").write_text(json.dumps(kind | choice))
    tokenizer = load_tokenizer(folder)
    ids = assert_same(tokenizer, transformers.AutoTokenizer.from_pretrained(folder))
    tokenizer.save(tmp_path / "ours")
    again = load_tokenizer(tmp_path / "ours")
    assert again.fingerprint == tokenizer.fingerprint
    assert assert_same(again, transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")) == ids


def test_saving_and_loading_changes_nothing(model: Path, tmp_path: Path) -> None:
    first = load_tokenizer(model)
    first.save(tmp_path / "once")
    once = load_tokenizer(tmp_path / "once")
    once.save(tmp_path / "twice")
    (tmp_path / "twice" / "spiece.model").rename(tmp_path / "30k.model")
    twice = load_tokenizer(tmp_path / "twice")
    assert first.fingerprint == once.fingerprint == twice.fingerprint == load_tokenizer(tmp_path).fingerprint
    assert ids_of(first, TEXT + UNSEEN) == ids_of(twice, TEXT + UNSEEN)


def test_other_scores_have_another_fingerprint(model: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(model)
    tokenizer.save(tmp_path)
    state = json.loads((tmp_path / "tokenizer.json").read_text())
    state["model"]["vocab"][20][1] -= 1.0
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    assert load_tokenizer(tmp_path).fingerprint != tokenizer.fingerprint


def test_special_tokens_written_in_a_text_are_text_in_a_corpus_alone(tmp_path: Path) -> None:
    brackets = "[]CLSEPMAK<>pad"
    path = train(tmp_path, user_defined_symbols=list(dict.fromkeys(brackets)))
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    tokenizer = load_tokenizer(path)
    special = {tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id}
    text = ["the [MASK] [SEP][CLS] <pad> the"]
    assert special <= set(tokenizer.encode(text)[0].tolist())
    assert not special & set(tokenizer.for_corpora.encode(text)[0].tolist())


def test_tables(model: Path) -> None:
    tokenizer = load_tokenizer(model)
    assert tokenizer.is_special.nonzero()[0].tolist() == [0, 1, 2, 3, 4]
    continuing = {
        token for token, continues in zip(tokenizer.tokens, tokenizer.is_continuation, strict=True) if continues
    }
    assert "n" in continuing and all(re.fullmatch("[A-Za-z]+", token) for token in continuing)
    others = set(tokenizer.tokens) - continuing - set(SPECIAL)
    assert {"▁", "(", ",", "-"} <= others and any(token.startswith("▁r") for token in others)


def test_what_is_no_albert_model_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.model").write_bytes(b"")
    (tmp_path / "text.model").write_text("no model at all\n")
    train(tmp_path, "pairs", model_type="bpe")
    train(tmp_path, "without", control_symbols=["[CLS]", "[SEP]"])
    for name, words in {
        "empty.model": "is empty, but needed is a unigram",
        "text.model": "no SentencePiece model",
        "pairs.model": "is bpe, but needed is a unigram",
        "without.model": r"lacks \[MASK\], but a SentencePiece tokenizer",
        "": "holds several models: empty.model, pairs.model",
    }.items():
        with pytest.raises(UserError, match=words) as error:
            load_tokenizer(tmp_path / name)
        assert name in str(error.value)


@pytest.mark.skipif("DS_BERT_DATA" not in os.environ, reason="DS_BERT_DATA names no folder of real data")
def test_real_sentences() -> None:
    data = Path(os.environ["DS_BERT_DATA"])
    path = data / "vocab" / "albert" / "30k-clean.model"
    sentences: list[str] = []
    with open(data / "text" / "wikipedia_en.jsonl", encoding="utf-8") as file:
        while len(sentences) < 2000:
            sentences += re.split(r"(?<=[.!?])\s+", json.loads(next(file))["text"])[:4]
    tokenizer, expected = load_tokenizer(path), albert_ids(path)
    assert tokenizer.size == 30_000
    assert ids_of(tokenizer, sentences) == [expected(sentence) for sentence in sentences]
