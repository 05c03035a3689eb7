"""Tokenizers have the ids that transformers gives, or are refused, whatever their files say; so again when saved."""

import json
import pickle
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import AlbertTokenizer, AutoTokenizer, BertTokenizer

from ds_bert.data.shards import tokenizer_of
from ds_bert.data.vocabulary import Tokenizer, load_tokenizer
from ds_bert.errors import UserError
from tests.support.tokenizer_folders import (
    TEXTS,
    albert_folders,
    albert_pieces,
    assert_same,
    bert_folders,
    ids_of,
    odd_folders,
    wordpiece_tokens,
)

FOLDERS = {"bert": bert_folders, "albert": albert_folders, "odd": odd_folders}
# Names of odd folders that are refused: whatever lies beside, or a "slow" one without a tokenizer.json, which some of
# transformers' classes need, or beside a model that needs another class.
REFUSED = ("broken", "japanese", "legacy", "roberta", "versions")
REFUSED_SLOW = ("backend-class", "fast-class", "unknown-class")
GRID = [
    pytest.param("bert", 1, marks=pytest.mark.slow),
    ("bert", 7),
    pytest.param("albert", 1, marks=pytest.mark.slow),
    ("albert", 3),
    ("odd", 1),
]


def auto(folder: Path) -> Any:
    """What transformers reads; of a vocabulary by itself, which it takes for none, what its BertTokenizer does."""
    alone = {path.name for path in folder.iterdir()} == {"vocab.txt"}
    kind: dict[str, Any] = {"tokenizer_type": "bert", "do_lower_case": False} if alone else {}
    return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, **kind)


def is_refused(name: str) -> bool:
    kind, _, rest = name.removeprefix("odd-").rpartition("-")[0].rpartition("-")
    if not name.startswith("odd-") or name == "odd-truncating":
        return False
    if kind == "versions":
        return name.endswith("-fast")
    other_class = kind == "bare-json" and rest == "albert"
    return other_class or kind in REFUSED or (kind in REFUSED_SLOW and name.endswith("-slow"))


@pytest.mark.parametrize("kind, every", GRID)
def test_ids_are_those_of_transformers_before_and_after_saving(kind: str, every: int, tmp_path: Path) -> None:
    ids_by_fingerprint = defaultdict(set)
    for folder in list(FOLDERS[kind](tmp_path / "theirs"))[::every]:
        if is_refused(folder.name):
            with pytest.raises(UserError, match=str(folder)):
                load_tokenizer(folder)
            continue
        tokenizer = load_tokenizer(folder)
        ids = assert_same(tokenizer, auto(folder))
        ids_by_fingerprint[tokenizer.fingerprint].add(json.dumps([ids, tokenizer.special_tokens]))
        saved = tmp_path / "saved" / folder.name
        tokenizer.save(saved, model_max_length=500)
        if (folder / "config.json").is_file():
            shutil.copyfile(folder / "config.json", saved / "config.json")
        theirs, again = auto(saved), load_tokenizer(saved)
        assert (theirs.model_max_length, theirs.padding_side) == (500, "right")
        assert theirs("the", "cat")["token_type_ids"][-1] == 1  # without being asked for
        assert again.fingerprint == tokenizer.fingerprint
        assert assert_same(again, theirs) == ids
    assert all(len(ids) == 1 for ids in ids_by_fingerprint.values())
    assert len(ids_by_fingerprint) > 10


@pytest.mark.parametrize("kind, every", GRID)
def test_in_a_corpus_special_tokens_are_text(kind: str, every: int, tmp_path: Path) -> None:
    for folder in list(FOLDERS[kind](tmp_path))[::every]:
        if is_refused(folder.name):
            continue
        tokenizer = load_tokenizer(folder)
        special = {tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id}
        sent = pickle.loads(pickle.dumps(tokenizer.for_corpora))  # as a worker process gets it
        in_corpus = ids_of(sent, TEXTS)
        assert in_corpus == ids_of(tokenizer.for_corpora, TEXTS)
        splits = tokenizer.backend.encode_special_tokens  # "split_special_tokens"
        for text, found, usual in zip(TEXTS, in_corpus, ids_of(tokenizer, TEXTS), strict=True):
            assert not special & set(found)
            if not special & set(usual) and tokenizer.unk_id not in usual and not splits:
                assert found == usual, (folder, text)  # what a user added stays whole


def test_files_that_are_named_are_read_by_themselves(tmp_path: Path) -> None:
    """Beside another model, or none, a file's own settings count."""
    folder = next(folder for folder in odd_folders(tmp_path) if folder.name == "odd-bare-json-albert-slow")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true, "strip_accents": false}')
    with pytest.raises(UserError, match=r"finds no vocabulary for its AlbertTokenizer.*vocab\.txt"):
        load_tokenizer(folder)
    tokenizer = load_tokenizer(folder / "vocab.txt")
    assert [tokenizer.tokens[token] for token in tokenizer.encode(["Möchte [MASK]"])[0]] == ["möchte", "[MASK]"]


def test_the_remedy_for_a_tokenizer_without_a_template(tmp_path: Path) -> None:
    folder = next(folder for folder in odd_folders(tmp_path) if folder.name == "odd-bare-json-none-fast")
    state = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(state | {"post_processor": None}))
    with pytest.raises(UserError, match=r"makes 'a b' of the texts.*\[CLS\] a \[SEP\] b \[SEP\]"):
        load_tokenizer(folder)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": false}')
    assert_same(load_tokenizer(folder), auto(folder))


@pytest.mark.parametrize(
    ("family", "former"),
    [
        ("bert", "a4e5bf205fff238f5c2c7556e87126bed0d975338dc4ec20e1c4b490e529ffd5"),
        ("albert", "bcd1e836ad4132f80e4bd41bf0a39f677c7aa96a90e94de3f7f9b94a1a381a8c"),
    ],
)
def test_data_that_were_prepared_before_know_their_tokenizer(family: str, former: str, tmp_path: Path) -> None:
    """By what stood for it then, computed when it still did."""
    kind: Any = BertTokenizer if family == "bert" else AlbertTokenizer
    vocabulary = {token: place for place, token in enumerate(dict.fromkeys(wordpiece_tokens()))}
    settings = {"strip_accents": False} if family == "bert" else {"do_lower_case": False}
    theirs = kind(vocab=vocabulary if family == "bert" else albert_pieces(), **settings)
    theirs.add_tokens([AddedToken("[E1]", special=True)] if family == "bert" else [])
    theirs.add_tokens(["covid19"])
    tokenizer = Tokenizer(theirs, "test")
    tokenizer.save(tmp_path / "tokenizer")
    for fingerprint in (former, tokenizer.fingerprint):
        assert tokenizer_of(tmp_path, fingerprint, "dataset.json").tokens == tokenizer.tokens
    theirs.add_tokens(["another"])
    Tokenizer(theirs, "test").save(tmp_path / "tokenizer")
    for fingerprint in (former, tokenizer.fingerprint):
        with pytest.raises(UserError, match="not the tokenizer of these shards"):
            tokenizer_of(tmp_path, fingerprint, "dataset.json")
