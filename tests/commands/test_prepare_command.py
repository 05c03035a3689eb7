"""`ds-bert prepare`: what it writes, says and refuses."""

import json
from pathlib import Path

import pytest

from ds_bert.cli import main
from ds_bert.data.shards import ShardedCorpus
from ds_bert.data.vocabulary import load_tokenizer
from tests.support.preparing import prepare, refusal, some_texts, write_text
from tests.support.refusal import contents


def test_shards_hold_the_tokenised_text(tmp_path: Path, vocabulary: Path, capsys: pytest.CaptureFixture) -> None:
    text = write_text(tmp_path / "text.txt", documents=50)
    out = tmp_path / "data"
    assert prepare("--input", text, "--tokenizer_name", vocabulary, "--output_dir", out, "--shard_tokens", "2k") == 0
    corpus = ShardedCorpus.open(out)
    corpus.verify()
    assert len(corpus.shards) > 2
    tokenizer = load_tokenizer(vocabulary)
    expected = [
        [tokenizer.encode([sentence])[0].tolist() for sentence in document.split("\n")]
        for document in text.read_text().strip().split("\n\n")
    ]
    found = []
    for shard in corpus.shards:
        sentences = [shard.tokens[a:b].tolist() for a, b in zip(shard.sentences, shard.sentences[1:], strict=False)]
        found += [sentences[a:b] for a, b in zip(shard.documents, shard.documents[1:], strict=False)]
    assert found == expected
    printed, warned = capsys.readouterr()
    unknown = sum(token == 1 for document in found for sentence in document for token in sentence)
    assert f"{corpus.num_documents} documents" in printed and f"[UNK] {unknown / corpus.num_tokens:.2%}" in printed
    assert f"warning: {out}: more than 1% of the tokens are [UNK]" in warned and "next: " in printed
    assert printed.startswith(f"{text}: taken for a sentence a line (--format lines)\n")


def test_workers_do_not_change_a_byte(tmp_path: Path, vocabulary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ds_bert.data.encoding._CHUNK_BYTES", 1000)
    text = write_text(tmp_path / "text.txt", documents=200)
    flags = ["--input", text, "--tokenizer_name", vocabulary, "--shard_tokens", 4000, "--validation_share", 0.1]
    for workers in (1, 2):
        assert prepare(*flags, "--output_dir", tmp_path / f"out{workers}", "--num_workers", workers) == 0
    assert contents(tmp_path / "out1") == contents(tmp_path / "out2")
    training, validation = ShardedCorpus.open(tmp_path / "out1"), ShardedCorpus.open(tmp_path / "out1" / "validation")
    assert training.num_documents + validation.num_documents == 200 and 8 <= validation.num_documents <= 35
    assert validation.tokenizer.fingerprint == training.tokenizer.fingerprint


def test_trained_vocabulary_from_python_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ds_bert.data import python_docs

    few = list(python_docs._modules())[:60]
    monkeypatch.setattr(python_docs, "_modules", lambda: few)
    flags = ["--python_docs", "--train_vocab", 600, "--num_workers", 1, "--validation_share", 0.1]
    for name in ("one", "two"):
        assert prepare(*flags, "--output_dir", tmp_path / name) == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert ShardedCorpus.open(tmp_path / "one").tokenizer.size == 600


def test_a_sentencepiece_model_tokenises_and_goes_along(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    package = pytest.importorskip("sentencepiece")
    text = write_text(tmp_path / "text.txt", documents=60)
    package.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(tmp_path / "30k"),
        vocab_size=120,
        hard_vocab_limit=False,
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        control_symbols=["[CLS]", "[SEP]", "[MASK]"],
        user_defined_symbols=[f"[unused{number}]" for number in range(80)],
        minloglevel=2,
    )
    model, out = tmp_path / "30k.model", tmp_path / "out"
    flags = ["--input", text, "--tokenizer_name", model, "--output_dir", out, "--validation_share", 0.2]
    assert prepare(*flags, "--num_workers", 1) == 0
    assert "<unk> 0.00%" in capsys.readouterr().out
    for folder in (out, out / "validation"):
        assert (folder / "tokenizer" / "spiece.model").read_bytes() == model.read_bytes()
        assert ShardedCorpus.open(folder).tokenizer.fingerprint == load_tokenizer(model).fingerprint
    corpus = ShardedCorpus.open(out)
    first = corpus.shards[0].tokens[: corpus.shards[0].sentences[1]]
    assert corpus.tokenizer.backend.decode(first.tolist()) in text.read_text()
    assert prepare(*flags, "--num_workers", 2) == 0  # finished already, under the same tokenizer


def test_verify_names_the_shard_that_changed(tmp_path: Path, vocabulary: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    flags = ["--tokenizer_name", vocabulary, "--shard_tokens", "2k", "--validation_share", 0.1, "--num_workers", 1]
    assert prepare("--input", write_text(tmp_path / "text.txt", 100), *flags, "--output_dir", out) == 0
    capsys.readouterr()
    assert main(["verify", str(out)]) == 0
    training, validation = capsys.readouterr().out.splitlines()
    tokens = ShardedCorpus.open(out).num_tokens
    assert training.startswith(f"{out}: ") and training.endswith(f" shards are whole, {tokens:,} tokens")
    assert validation.startswith(f"{out / 'validation'}: ")
    for folder in (out, out / "validation"):
        path = sorted(folder.glob("shard-*"))[-1] / "tokens.npy"
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert main(["verify", str(out)]) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith(f"error: {path}: its checksum is not that of dataset.json")
        assert printed.err.count("\n") == printed.out.count("\n") == 1
        path.write_bytes(content)
    (out / "validation" / "tokenizer" / "tokenizer.json").unlink()
    (out / "validation" / "tokenizer" / "vocab.txt").unlink()
    assert main(["verify", str(out)]) == 2
    assert f"error: {out / 'validation' / 'tokenizer'}: " in capsys.readouterr().err


def test_unusable_inputs_exit_with_2(tmp_path: Path, vocabulary: Path, capsys: pytest.CaptureFixture) -> None:
    cases = {
        "binary.txt": b"text\0more",
        "empty.txt": b"",
        "latin.txt": b"good\ncaf\xe9\n",
        "bad.jsonl": b'{"text": "good"}\nnone\n',
        "blank.jsonl": b'{"text": " "}\n',
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        out = tmp_path / ("out_" + name)
        message = refusal(capsys, "--input", tmp_path / name, "--tokenizer_name", vocabulary, "--output_dir", out)
        assert name in message
        assert not (out / "dataset.json").exists()


def test_unusable_settings_exit_with_2(tmp_path: Path, vocabulary: Path, capsys: pytest.CaptureFixture) -> None:
    text = write_text(tmp_path / "text.txt", 20)
    five = tmp_path / "five.txt"
    five.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    out, given = ("--output_dir", tmp_path / "out"), ("--input", text)
    named = ("--tokenizer_name", vocabulary)
    assert "tokenizer of 5 tokens" in refusal(capsys, *given, *out, "--tokenizer_name", five)
    assert "either --tokenizer_name or --train_vocab" in refusal(capsys, *given, *out)
    assert "either --input or --python_docs" in refusal(capsys, *named, *out)
    assert "--train_vocab 5" in refusal(capsys, *given, "--output_dir", tmp_path / "small", "--train_vocab", 5)
    assert "--validation_share 1.0" in refusal(capsys, *given, *named, *out, "--validation_share", 1)
    assert not (tmp_path / "out").exists()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("precious")
    assert "not empty" in refusal(capsys, *given, *named, "--output_dir", foreign)
    assert contents(foreign) == {"thesis.tex": b"precious"}


BAD_LINES = {
    "not JSON": b"none",
    "cut off": b'{"text": "a b',
    "a JSON list": b'["a"]',
    "no key 'text'": b'{"body": "a"}',
    "value of type NoneType": b'{"text": null}',
    "value of type int": b'{"text": 3}',
    "byte 0xe9 is not UTF-8": b'{"text": "caf\xe9"}',
    "binary data": b'{"text": "a\0b"}',
    "Exceeds the limit": b'{"text": "a", "id": ' + b"7" * 5000 + b"}",
}


@pytest.mark.parametrize("name", ["text.jsonl", "text.txt"])
def test_bad_records_are_passed_over_counted_and_listed(
    tmp_path: Path, vocabulary: Path, capsys: pytest.CaptureFixture, name: str
) -> None:
    lines = [json.dumps({"text": text}).encode() for text in some_texts(60)]
    (tmp_path / "good").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "good" / name).write_bytes(b"\n".join(lines))
    for place, bad in enumerate(BAD_LINES.values()):
        lines.insert(10 + 5 * place, bad)
    path = tmp_path / "bad" / name
    path.write_bytes(b"\n".join(lines))
    flags = ["--tokenizer_name", vocabulary, "--shard_tokens", 400, "--num_workers", 1, "--validation_share", 0.1]
    many = len(BAD_LINES)
    assert prepare("--input", tmp_path / "good", *flags, "--output_dir", tmp_path / "whole") == 0
    out = ["--input", path, *flags, "--output_dir", tmp_path / "out"]
    assert f"{path}: line 11: not JSON" in refusal(capsys, *out)
    message = refusal(capsys, *out, "--skip_bad_records", many - 1)
    assert f"{path}: line {11 + 5 * (many - 1)}: " in message and f"bad record {many}" in message
    assert "--skip_bad_records -1" in refusal(capsys, *out, "--skip_bad_records", -1)
    for _ in range(2):  # a finished folder says it again
        assert prepare(*out, "--skip_bad_records", many) == 0
        printed = capsys.readouterr().out
        assert f"{many} bad records were passed over; {tmp_path / 'out' / 'bad_records.json'} lists them" in printed
        listed = json.loads((tmp_path / "out" / "bad_records.json").read_text())
        assert [(record["file"], record["line"]) for record in listed] == [
            (str(path), 11 + 5 * place) for place in range(many)
        ]
        for record, reason in zip(listed, BAD_LINES, strict=True):
            assert reason in record["reason"] or reason == "cut off"
            assert f"  {path}: line {record['line']}: {record['reason']}" in printed
    hidden = ("prepare.json", "bad_records.json")
    assert contents(tmp_path / "out", hidden) == contents(tmp_path / "whole", hidden)
    assert not (tmp_path / "whole" / "bad_records.json").exists()


def test_bad_lines_of_plain_text_are_passed_over(tmp_path: Path, vocabulary: Path) -> None:
    lines = [b"bad cab .", b"caf\xe9 .", b"dad\0fab", b"gag hag .", b"", b"jab lab ."] * 5
    (tmp_path / "text.txt").write_bytes(b"\n".join(lines))
    (tmp_path / "good.txt").write_bytes(b"\n".join(lines[:1] + lines[3:6]) + b"\n" + b"\n".join(
        line for line in lines[6:] if b"caf" not in line and b"\0" not in line))  # fmt: skip
    flags = ["--tokenizer_name", vocabulary, "--num_workers", 1, "--format", "lines"]
    skip = ["--skip_bad_records", 10]
    assert prepare("--input", tmp_path / "text.txt", *flags, *skip, "--output_dir", tmp_path / "out") == 0
    assert prepare("--input", tmp_path / "good.txt", *flags, "--output_dir", tmp_path / "whole") == 0
    hidden = ("prepare.json", "bad_records.json")
    assert contents(tmp_path / "out", hidden) == contents(tmp_path / "whole", hidden)
    listed = json.loads((tmp_path / "out" / "bad_records.json").read_text())
    assert [record["line"] for record in listed] == [6 * block + place for block in range(5) for place in (2, 3)]
