import gzip
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ds_bert.cli import main
from ds_bert.data.prepare import _held_out
from ds_bert.data.shards import ShardedCorpus
from ds_bert.data.vocabulary import Tokenizer, load_tokenizer

WORDS = ["bad", "cab", "dad", "fab", "gag", "hag", "jab", "lab", "mad", "nab", "zzz"]


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    letters = [chr(code) for code in range(ord("a"), ord("z"))]  # no z: words with it are unknown
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *letters, *("##" + letter for letter in letters)]
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*tokens, *(f"[unused{number}]" for number in range(60))]))
    return path


def write_text(path: Path, documents: int, seed: int = 0) -> Path:
    rng = random.Random(seed)
    lines = []
    for _ in range(documents):
        for _ in range(rng.randint(1, 12)):
            lines.append(" ".join(rng.choices(WORDS, k=rng.randint(2, 20))) + " .")
        lines.append("")
    path.write_text("\n".join(lines))
    return path


def prepare(*flags: object) -> int:
    return main(["prepare", *map(str, flags)])


def contents(folder: Path, hidden: tuple[str, ...] = ()) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name not in hidden}


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


def test_a_killed_run_resumes_to_the_same_bytes(tmp_path: Path, vocabulary: Path) -> None:
    text = write_text(tmp_path / "text.txt", documents=2000)
    flags = ["--input", text, "--tokenizer_name", vocabulary, "--shard_tokens", 3000, "--validation_share", 0.05]
    slow = (
        "import sys, time, ds_bert.data.encoding as encoding\n"
        "encoding._CHUNK_BYTES = 2000\n"
        "encode = encoding.encode_chunk\n"
        "encoding.encode_chunk = lambda *chunk: (time.sleep(0.02), encode(*chunk))[1]\n"
        "from ds_bert.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    out = tmp_path / "killed"
    command = [sys.executable, "-c", slow, "prepare", *map(str, flags), "--output_dir", str(out), "--num_workers", "1"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (out / "shard-00002").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert (out / "shard-00002").exists() and not (out / "dataset.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in (out / "shard-00000").iterdir()}
    assert prepare(*flags, "--output_dir", out, "--num_workers", 1) == 0
    assert {path: path.stat().st_mtime_ns for path in finished} == finished  # kept, not redone
    assert prepare(*flags, "--output_dir", tmp_path / "whole", "--num_workers", 1) == 0
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("written", [0, 1])
def test_a_run_killed_between_its_tokenizers_resumes(
    tmp_path: Path, vocabulary: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    text = write_text(tmp_path / "text.txt", documents=50)
    flags = ["--input", text, "--tokenizer_name", vocabulary, "--validation_share", 0.2, "--num_workers", 1]
    save, saves = Tokenizer.save, iter(range(2))

    def die(tokenizer: Tokenizer, folder: Path) -> None:
        if next(saves) == written:
            raise KeyboardInterrupt
        save(tokenizer, folder)

    monkeypatch.setattr(Tokenizer, "save", die)
    assert prepare(*flags, "--output_dir", tmp_path / "out") == 130
    monkeypatch.undo()
    for name in ("out", "whole"):
        assert prepare(*flags, "--output_dir", tmp_path / name) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert ShardedCorpus.open(tmp_path / "out" / "validation").tokenizer.size == load_tokenizer(vocabulary).size


def test_ctrl_c_ends_with_a_sentence(tmp_path: Path, vocabulary: Path) -> None:
    text = write_text(tmp_path / "text.txt", documents=300)
    out = tmp_path / "out"
    interrupted = (
        "import sys, ds_bert.data.prepare_state as state\n"
        "def interrupt(*arguments): raise KeyboardInterrupt\n"
        "state.PartWriter.finish = interrupt\n"
        "from ds_bert.cli import main\n"
        "if __name__ == '__main__': sys.exit(main(sys.argv[1:]))\n"
    )
    script = tmp_path / "script.py"
    script.write_text(interrupted)
    flags = ["prepare", "--input", text, "--tokenizer_name", vocabulary, "--output_dir", out, "--num_workers", 2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    result = subprocess.run([sys.executable, script, *map(str, flags)], capture_output=True, text=True, env=environment)
    assert result.returncode == 130
    assert "goes on" in result.stderr and str(out) in result.stderr and "Traceback" not in result.stderr


def test_a_finished_folder_is_left_as_it_is(tmp_path: Path, vocabulary: Path, capsys: pytest.CaptureFixture) -> None:
    flags = ["--input", write_text(tmp_path / "text.txt", 20), "--tokenizer_name", vocabulary]
    assert prepare(*flags, "--output_dir", tmp_path / "out") == 0
    first, before = capsys.readouterr().out, contents(tmp_path / "out")
    assert prepare(*flags, "--output_dir", tmp_path / "out") == 0
    assert contents(tmp_path / "out") == before and capsys.readouterr().out == first


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


def refusal(capsys: pytest.CaptureFixture, *flags: object) -> str:
    capsys.readouterr()
    assert prepare(*flags) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("error: ") and "\n" not in message
    return message


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


def test_changed_settings_and_damage_are_refused(
    tmp_path: Path, vocabulary: Path, capsys: pytest.CaptureFixture
) -> None:
    text = write_text(tmp_path / "text.txt", 20)
    out = tmp_path / "out"
    flags = ["--input", text, "--tokenizer_name", vocabulary, "--output_dir", out]
    assert prepare(*flags) == 0
    before = contents(out)
    assert "shard_tokens (was 16000000, now 500)" in refusal(capsys, *flags, "--shard_tokens", 500)
    write_text(text, 21)
    assert "is finished, and of another text" in refusal(capsys, *flags)
    assert contents(out) == before
    write_text(text, 20)
    state = json.loads((out / "prepare.json").read_text())
    state["shards"] = 5
    (out / "prepare.json").write_text(json.dumps(state))
    assert "damaged" in refusal(capsys, *flags)


def write_json_lines(path: Path, texts: list[str | None]) -> Path:
    content = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def some_texts(count: int) -> list[str | None]:
    rng = random.Random(3)
    return [" ".join(rng.choices(WORDS[:-1], k=rng.randint(20, 60))) + " ." for _ in range(count)]


def times(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("tokens.npy")}


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


@pytest.mark.parametrize("name", ["text.jsonl", "text.jsonl.gz", "text.txt"])
def test_a_mended_record_loses_no_finished_shard(
    tmp_path: Path, vocabulary: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("ds_bert.data.encoding._CHUNK_BYTES", 1000)
    texts = some_texts(120)
    path, out = tmp_path / name, tmp_path / "out"
    flags = ["--input", path, "--tokenizer_name", vocabulary, "--shard_tokens", 400, "--validation_share", 0.1]
    flags += ["--num_workers", 1]
    write_json_lines(path, [*texts[:100], None, *texts[100:110], None, *texts[110:]])
    for mended in ([*texts[:100], *texts[100:110], None, *texts[110:]], [*texts[:110], "", *texts[110:]]):
        message = refusal(capsys, *flags, "--output_dir", out)
        assert f"{path}: line 1" in message and "finished shards are kept" in message
        before = times(out)
        assert len(before) > 5 and "shard-00002/tokens.npy" in before
        write_json_lines(path, mended)
    assert prepare(*flags, "--output_dir", out) == 0
    after = times(out)
    assert before.items() <= after.items() and len(after) > len(before)
    assert prepare(*flags, "--output_dir", tmp_path / "whole") == 0
    assert contents(out) == contents(tmp_path / "whole")


CHANGES = {
    "touched": lambda texts, place: texts,
    "edited": lambda texts, place: [*texts[:place], "bad cab dad .", *texts[place + 1 :]],
    "edited at the same length": lambda texts, place: [*texts[:place], texts[place][::-1], *texts[place + 1 :]],
    "one more": lambda texts, place: [*texts[:place], "bad cab dad .", *texts[place:]],
    "one less": lambda texts, place: [*texts[:place], *texts[place + 1 :]],
    "shorter": lambda texts, place: texts[: max(place, 20)],
    "swapped": lambda texts, place: [*texts[place:], *texts[:place]],
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("place", [0, 37, 110])
def test_a_resumed_run_keeps_the_shards_whose_text_is_the_same(
    tmp_path: Path, vocabulary: Path, monkeypatch: pytest.MonkeyPatch, change: str, place: int
) -> None:
    monkeypatch.setattr("ds_bert.data.encoding._CHUNK_BYTES", 1000)
    texts, path, out = some_texts(120), tmp_path / "text.jsonl", tmp_path / "out"
    flags = ["--input", path, "--tokenizer_name", vocabulary, "--shard_tokens", 400, "--validation_share", 0.1]
    flags += ["--num_workers", 1]
    stamp = os.stat(write_json_lines(path, [*texts[:100], None])).st_mtime_ns
    assert prepare(*flags, "--output_dir", out) == 2
    before, entries = times(out), json.loads((out / "prepare.json").read_text())["shards"]
    write_json_lines(path, CHANGES[change](texts, place))
    if change == "edited at the same length":
        os.utime(path, ns=(stamp, stamp))  # the content tells, not the time
    assert prepare(*flags, "--output_dir", out) == 0
    held_out = list(itertools.islice(_held_out(0.1), 200))
    now, kept = CHANGES[change](texts, place), 0
    for part, shards in entries.items():
        for entry in shards:
            numbers = [n for n in range(entry["next_document"]) if held_out[n] == (part == "validation")]
            kept += all(n < len(now) and now[n] == texts[n] for n in numbers)
    assert len(before.items() & times(out).items()) == kept
    assert kept == len(before) if change == "touched" else place < 100 or change == "swapped" or kept > 5
    assert prepare(*flags, "--output_dir", tmp_path / "whole") == 0
    assert contents(out) == contents(tmp_path / "whole")


def test_a_vocabulary_of_another_text_is_trained_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, path, out = random.Random(5), tmp_path / "text.jsonl", tmp_path / "out"
    texts = [" ".join("".join(rng.choices("abcdefghij", k=4)) for _ in range(40)) for _ in range(120)]
    flags = ["--input", write_json_lines(path, texts), "--train_vocab", 110, "--shard_tokens", 400, "--num_workers", 1]

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    for changed in (False, True):
        monkeypatch.setattr("ds_bert.data.prepare_state.PartWriter.finish", die)
        monkeypatch.setattr("ds_bert.data.encoding._CHUNK_BYTES", 1000)
        assert prepare(*flags, "--output_dir", out) == 130
        monkeypatch.undo()
        before = times(out)
        write_json_lines(path, [*texts, "zzz xyz " * 50] if changed else texts)
        assert prepare(*flags, "--output_dir", out) == 0
        assert bool(before) and (before.items() <= times(out).items()) != changed
        assert prepare(*flags, "--output_dir", tmp_path / f"whole{changed}") == 0
        assert contents(out) == contents(tmp_path / f"whole{changed}")
        shutil.rmtree(out)


def test_a_finished_folder_is_known_by_the_content_of_its_text(
    tmp_path: Path, vocabulary: Path, capsys: pytest.CaptureFixture
) -> None:
    path, out = write_json_lines(tmp_path / "text.jsonl", some_texts(30)), tmp_path / "out"
    assert prepare("--input", path, "--tokenizer_name", vocabulary, "--output_dir", out) == 0
    before = contents(out)
    os.utime(path, (1, 1))
    moved = path.rename(tmp_path / "moved.jsonl")
    assert prepare("--input", moved, "--tokenizer_name", vocabulary, "--output_dir", out) == 0
    write_json_lines(moved, [*some_texts(30), ""])
    message = refusal(capsys, "--input", moved, "--tokenizer_name", vocabulary, "--output_dir", out)
    assert "is finished, and of another text" in message
    assert contents(out) == before


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
