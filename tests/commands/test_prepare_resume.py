"""`ds-bert prepare` again: after an end before its time, on a finished folder, on text that has changed."""

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

from ds_bert.data.prepare import _held_out
from ds_bert.data.shards import ShardedCorpus
from ds_bert.data.vocabulary import Tokenizer, load_tokenizer
from tests.support.preparing import prepare, refusal, some_texts, write_json_lines, write_text
from tests.support.refusal import contents


def times(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("tokens.npy")}


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
