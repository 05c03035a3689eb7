import os
import subprocess
import sys
from pathlib import Path

import pytest

from ds_bert.data.encoding import train_vocabulary
from ds_bert.data.vocabulary import SPECIAL_TOKENS, Tokenizer, check_fits, load_tokenizer
from ds_bert.errors import UserError

TEXT = [
    ["The running runner runs; the walking walker walks.", "Naïve café owners – über-happy – jumped."],
    ["Unhappiness, happiness and happily are words.", "Numbers: 1 22 333 and 5°!", "漢字 too."],
]


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train_vocabulary(lambda: iter(TEXT * 3), 150)


def test_training_is_deterministic_across_processes(trained: Tokenizer) -> None:
    call = f"train_vocabulary(lambda: iter({TEXT * 3!r}), 150)"
    code = f"from ds_bert.data.prepare import *\nprint({call}.fingerprint)"
    # Hash maps of the trainer are seeded anew in every process.
    prints = {subprocess.check_output([sys.executable, "-c", code], text=True).strip() for _ in range(3)}
    assert prints == {trained.fingerprint}


def test_trained_vocabulary_covers_its_text(trained: Tokenizer) -> None:
    assert trained.tokens[:5] == list(SPECIAL_TOKENS)
    ids, _ = trained.encode([sentence for document in TEXT for sentence in document])
    assert trained.unk_id not in ids


def test_saved_tokenizer_is_that_of_transformers(trained: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    trained.save(tmp_path)
    assert load_tokenizer(tmp_path).fingerprint == trained.fingerprint
    assert load_tokenizer(tmp_path / "vocab.txt").fingerprint == trained.fingerprint
    sentences = [*TEXT[0], *TEXT[1], "unseen wörds?"]
    expected = [trained.encode([sentence])[0].tolist() for sentence in sentences]
    for kind in (transformers.AutoTokenizer, transformers.BertTokenizerFast):
        theirs = kind.from_pretrained(str(tmp_path))
        assert len(theirs) == trained.size and theirs.mask_token_id == trained.mask_id
        assert theirs(sentences, add_special_tokens=False)["input_ids"] == expected
        pair = theirs("the", "walker")
        assert pair["input_ids"][0] == trained.cls_id and pair["token_type_ids"][-1] == 1


def test_tables(vocabulary_file: Path) -> None:
    tokenizer = load_tokenizer(vocabulary_file)
    assert tokenizer.is_special.nonzero()[0].tolist() == [0, 1, 2, 3, 4]
    assert [tokenizer.tokens[i] for i in tokenizer.is_continuation.nonzero()[0][:2]] == ["##ba", "##be"]
    assert len(tokenizer.ordinary_ids) == tokenizer.size - 5


def test_special_tokens_written_in_a_text_are_text_in_a_corpus_alone(vocabulary_file: Path) -> None:
    tokenizer, text = load_tokenizer(vocabulary_file), ["ba [MASK] [SEP] ba"]
    assert tokenizer.encode(text)[0].tolist()[1:-1] == [4, 3]
    assert not {2, 3, 4} & set(tokenizer.for_corpora.encode(text)[0].tolist())


@pytest.mark.parametrize("config, lowered", [(None, False), ('{"do_lower_case": true}', True)])
def test_case_of_a_bare_vocabulary(vocabulary_file: Path, config: str | None, lowered: bool) -> None:
    with open(vocabulary_file, "a") as file:
        file.write("Ba\n")
    if config:
        (vocabulary_file.parent / "tokenizer_config.json").write_text(config)
    tokenizer = load_tokenizer(vocabulary_file.parent)
    assert tokenizer.encode(["Ba"])[0].tolist() == [tokenizer.tokens.index("ba" if lowered else "Ba")]


@pytest.mark.parametrize("config, kind", [("[]", "list"), ("3", "int"), ("null", "NoneType")])
def test_a_tokenizers_configuration_that_is_no_object_is_refused(vocabulary_file: Path, config: str, kind: str) -> None:
    (vocabulary_file.parent / "tokenizer_config.json").write_text(config)
    with pytest.raises(UserError, match=rf"tokenizer_config\.json: holds a {kind}, a tokenizer's configuration"):
        load_tokenizer(vocabulary_file.parent)


def test_what_is_no_tokenizer_is_refused(tmp_path: Path, vocabulary_file: Path) -> None:
    tokens = vocabulary_file.read_text().splitlines()
    (tmp_path / "empty").mkdir()
    (tmp_path / "five.txt").write_text("\n".join(tokens[:5]))
    (tmp_path / "no_mask.txt").write_text("\n".join(token for token in tokens if token != "[MASK]"))
    (tmp_path / "no_unk.txt").write_text("\n".join(token for token in tokens if token != "[UNK]"))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\0")
    for name, words in {
        "absent": "no such folder or file",
        "empty": "needs a tokenizer.json or a vocab.txt",
        "five.txt": "a tokenizer of 5 tokens",
        "no_mask.txt": r"lacks \[MASK\]",
        "no_unk.txt": r"lacks \[UNK\]",
        "config.json": "transformers can make no tokenizer of it",
        "binary.txt": "UTF-8",
    }.items():
        with pytest.raises(UserError, match=words) as error:
            load_tokenizer(tmp_path / name)
        assert name in str(error.value)


@pytest.mark.parametrize("surplus, fits", [(0, True), (6, True), (999, True), (1000, False), (-1, False)])
def test_check_fits(vocabulary_file: Path, surplus: int, fits: bool) -> None:
    tokenizer = load_tokenizer(vocabulary_file)
    if fits:
        check_fits(tokenizer, tokenizer.size + surplus)
        return
    with pytest.raises(UserError) as error:
        check_fits(tokenizer, tokenizer.size + surplus)
    assert str(tokenizer.size) in str(error.value) and str(tokenizer.size + surplus) in str(error.value)


@pytest.mark.skipif("DS_BERT_DATA" not in os.environ, reason="DS_BERT_DATA names no folder of real data")
@pytest.mark.parametrize("name", ["bert-base-uncased", "bert-base-cased"])
def test_real_vocabulary_alone_equals_its_tokenizer_json(name: str, tmp_path: Path) -> None:
    folder = Path(os.environ["DS_BERT_DATA"]) / "vocab" / name
    (tmp_path / "vocab.txt").write_bytes((folder / "vocab.txt").read_bytes())
    sentences = ["The Ünited States' playing-field, 漢字!", "don't (ever) 1234.5 \u200b x"]
    whole, bare = load_tokenizer(folder), load_tokenizer(tmp_path)
    assert whole.encode(sentences)[0].tolist() == bare.encode(sentences)[0].tolist()
    assert whole.tokens == bare.tokens
