"""A checkpoint exists whole or not at all; an output folder is claimed without loss."""

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from ds_bert.checkpoint import folders
from ds_bert.checkpoint.manifest import Entry, faults
from ds_bert.errors import UserError


def write(output_dir: Path, step: int, content: str = "weights") -> Path:
    partial = folders.begin(output_dir, step)
    (partial / "model.safetensors").write_text(f"{content} of step {step}")
    (partial / "tokenizer").mkdir()
    (partial / "tokenizer" / "vocab.txt").write_text("[PAD]")
    return folders.commit(output_dir, step)


def test_a_committed_checkpoint_is_listed_and_whole(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        write(tmp_path, step)
    assert [path.name for path in folders.checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10", "checkpoint-100"]
    assert folders.newest_checkpoint(tmp_path) == tmp_path / "checkpoint-100"
    assert (tmp_path / "latest").read_text() == "checkpoint-100\n"
    manifest = json.loads((tmp_path / "checkpoint-9" / "manifest.json").read_text())
    digests = [hashlib.sha256(content).hexdigest() for content in (b"weights of step 9", b"[PAD]")]
    assert (manifest["format_version"], manifest["step"]) == (1, 9)
    assert manifest["files"] == {
        "model.safetensors": {"size": 17, "sha256": digests[0]},
        "tokenizer/vocab.txt": {"size": 5, "sha256": digests[1]},
    }


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-x").mkdir()
    (tmp_path / "checkpoint-7.old").mkdir()
    assert folders.newest_checkpoint(tmp_path) is None
    assert folders.newest_checkpoint(tmp_path / "nowhere") is None


class Killed(BaseException):
    pass


CALLS = {"fsync": 8, "replace": 2, "rename": 1, "open": 6, "mkdir": 2}


def kill_writing_step_2(folder: Path, monkeypatch: pytest.MonkeyPatch, call: str, after: int) -> None:
    """Write a checkpoint up to the ``after``-th call of a function of `os`."""
    calls, real = iter(range(100)), getattr(os, call)

    def die(*arguments: Any, **options: Any) -> Any:
        if next(calls) == after:
            raise Killed
        return real(*arguments, **options)

    monkeypatch.setattr(os, call, die)
    with pytest.raises(Killed):
        write(folder, 2)
    monkeypatch.undo()


@pytest.mark.parametrize(("call", "after"), [(call, after) for call, times in CALLS.items() for after in range(times)])
def test_killed_between_begin_and_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, after: int
) -> None:
    write(tmp_path, 1)
    kill_writing_step_2(tmp_path, monkeypatch, call, after)
    renamed = (tmp_path / "checkpoint-2").exists()
    assert folders.newest_checkpoint(tmp_path) == tmp_path / f"checkpoint-{2 if renamed else 1}"
    assert not [fault for checkpoint in folders.checkpoints(tmp_path) for fault in faults(checkpoint)]
    assert folders.latest(tmp_path) in folders.checkpoints(tmp_path)
    write(tmp_path, 3)
    assert folders.newest_checkpoint(tmp_path) == tmp_path / "checkpoint-3"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("call", "after"), [(call, after) for call, times in {**CALLS, "rename": 2}.items() for after in range(times)]
)
def test_killed_while_a_step_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, after: int
) -> None:
    """Between its two renames the step has no checkpoint, and the one before counts; what was there is kept aside."""
    write(tmp_path, 1)
    write(tmp_path, 2, "first")
    kill_writing_step_2(tmp_path, monkeypatch, call, after)
    whole, aside = tmp_path / "checkpoint-2", tmp_path / "checkpoint-2.old-1"
    assert whole.exists() == ((call, after) != ("rename", 1))
    assert folders.newest_checkpoint(tmp_path) == (whole if whole.exists() else tmp_path / "checkpoint-1")
    first = aside if aside.exists() else whole
    assert (first / "model.safetensors").read_text() == "first of step 2"
    assert not [fault for folder in (first, *folders.checkpoints(tmp_path)) for fault in faults(folder)]
    assert (write(tmp_path, 2, "last") / "model.safetensors").read_text() == "last of step 2"
    assert folders.newest_checkpoint(tmp_path) == whole and not list(tmp_path.glob(".*"))


def test_a_folder_of_whole_names_is_renamed_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on the disk before what: files, manifest, folders, the new name, the pointer."""
    events = []
    real = {name: getattr(os, name) for name in ("open", "fsync", "rename", "replace")}
    monkeypatch.setattr(os, "fsync", lambda number: events.append(os.readlink(f"/proc/self/fd/{number}")))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append(f"-> {Path(b).name}"), real["replace"](a, b)))
    monkeypatch.setattr(os, "rename", lambda a, b: (events.append(f"-> {Path(b).name}"), real["rename"](a, b)))
    write(tmp_path, 2)
    names = [event if event.startswith("->") else Path(event).name.split(".json")[0].strip(".") for event in events]
    assert sorted(names[:2]) == ["model.safetensors", "vocab.txt"]
    assert names[2:4] == ["manifest", "-> manifest.json"]
    assert sorted(names[4:6]) == ["checkpoint-2.partial", "tokenizer"]
    assert names[6:8] == ["-> checkpoint-2", tmp_path.name] and names[-2:] == ["-> latest", tmp_path.name]


def test_a_step_written_again_moves_the_first_aside(tmp_path: Path) -> None:
    for content in ("first", "second", "third"):
        written = write(tmp_path, 5, content)
        assert (written / "model.safetensors").read_text() == f"{content} of step 5"
    folders.check_files(tmp_path / "checkpoint-5")
    assert folders.checkpoints(tmp_path) == [tmp_path / "checkpoint-5"]
    for number, content in ((1, "first"), (2, "second")):
        aside = tmp_path / f"checkpoint-5.old-{number}"
        assert (aside / "model.safetensors").read_text() == f"{content} of step 5"


def test_a_file_that_another_process_did_not_write_here(tmp_path: Path) -> None:
    folders.begin(tmp_path, 1)
    with pytest.raises(FileNotFoundError, match=r"not all processes .* model-2 is not there"):
        folders.commit(tmp_path, 1, {"model-2": Entry(3, "0" * 64)})
    assert not folders.checkpoints(tmp_path)


def test_the_oldest_are_removed(tmp_path: Path) -> None:
    for step in (2, 10, 30):
        write(tmp_path, step)
    folders.remove_oldest(tmp_path, 0)
    assert len(folders.checkpoints(tmp_path)) == 3
    folders.remove_oldest(tmp_path, 2)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["checkpoint-10", "checkpoint-30", "latest"]
    folders.remove_oldest(tmp_path, 5)
    assert len(folders.checkpoints(tmp_path)) == 2


def test_the_best_and_the_newest_stay(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8):
        write(tmp_path, step)
    folders.remove_oldest(tmp_path, 1, best=4)
    assert [path.name for path in folders.checkpoints(tmp_path)] == ["checkpoint-4", "checkpoint-8"]


def test_the_one_written_last_is_the_newest(tmp_path: Path) -> None:
    """A run that went on from step 4, because 8 was damaged, must not remove its own checkpoint in favour of 8."""
    for step in (2, 4, 8, 6):
        write(tmp_path, step)
    folders.remove_oldest(tmp_path, 1)
    assert [path.name for path in folders.checkpoints(tmp_path)] == ["checkpoint-6", "checkpoint-8"]
    write(tmp_path, 8)
    folders.remove_oldest(tmp_path, 1)
    assert [path.name for path in folders.checkpoints(tmp_path)] == ["checkpoint-8"]


def test_a_linked_checkpoint_is_removed_here_only(tmp_path: Path) -> None:
    write(tmp_path / "a", 1)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "checkpoint-1").symlink_to(tmp_path / "a" / "checkpoint-1")
    write(tmp_path / "b", 2)
    folders.remove_oldest(tmp_path / "b", 1)
    assert folders.checkpoints(tmp_path / "b") == [tmp_path / "b" / "checkpoint-2"]
    folders.check_files(tmp_path / "a" / "checkpoint-1")


def test_a_removal_that_is_interrupted_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1)
    write(tmp_path, 2)

    def die(path: Path, **options: Any) -> None:
        (path / "model.safetensors").unlink()
        raise Killed

    monkeypatch.setattr(shutil, "rmtree", die)
    with pytest.raises(Killed):
        folders.remove_oldest(tmp_path, 1)
    assert folders.checkpoints(tmp_path) == [tmp_path / "checkpoint-2"]


@pytest.mark.parametrize("call", ["rename", "unlink", "rmdir"])
def test_a_checkpoint_that_cannot_be_removed_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    for step in (1, 2):
        write(tmp_path, step)

    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(os, call, refuse)
    folders.remove_oldest(tmp_path, 1)
    monkeypatch.undo()
    assert not [fault for checkpoint in folders.checkpoints(tmp_path) for fault in faults(checkpoint)]
    write(tmp_path, 3)
    folders.remove_oldest(tmp_path, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-3", "latest"]


def test_the_newest_whole_one_is_found(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for step in (1, 2, 3):
        write(tmp_path, step)
    shutil.rmtree(tmp_path / "checkpoint-3")
    (tmp_path / "checkpoint-2" / "tokenizer" / "vocab.txt").write_text("[PAD")
    assert folders.newest_checkpoint(tmp_path) == tmp_path / "checkpoint-1"
    said: list[str] = []
    assert folders.first_whole(folders.candidates(tmp_path), faults, said.append) == tmp_path / "checkpoint-1"
    assert len(said) == 2
    assert said[0].startswith("checkpoint-3 is skipped: ") and "no such folder" in said[0]
    assert said[1].startswith("checkpoint-2 is skipped: ") and "vocab.txt: has 4 bytes" in said[1]


def test_none_is_whole(tmp_path: Path) -> None:
    for step in (1, 2):
        (write(tmp_path, step) / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no whole checkpoint .*checkpoint-2/model.safetensors: missing.*1 before it"):
        folders.newest_checkpoint(tmp_path)


def test_a_pointer_to_nothing(tmp_path: Path) -> None:
    """Better to ask than to begin anew as if there had been nothing."""
    shutil.rmtree(write(tmp_path, 4))
    with pytest.raises(UserError, match="checkpoint-4: no such folder"):
        folders.newest_checkpoint(tmp_path)
    for text in (b"", b"checkpoint-", b"../elsewhere", b"\xff\xfe"):
        (tmp_path / "latest").write_bytes(text)
        assert folders.newest_checkpoint(tmp_path) is None


def test_a_new_or_empty_output_folder_is_claimed(tmp_path: Path) -> None:
    folders.claim_output_dir(tmp_path / "a" / "b", resume=False, overwrite=False)
    folders.claim_output_dir(tmp_path / "a" / "b", resume=False, overwrite=True)
    folders.claim_empty(tmp_path / "a" / "b")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["a", "a/b"]


def test_an_occupied_output_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "file").write_text("mine")
    for claim in (lambda: folders.claim_output_dir(out, False, False), lambda: folders.claim_empty(out)):
        with pytest.raises(UserError, match="out: --output_dir is not empty"):
            claim()
    folders.claim_output_dir(out, resume=True, overwrite=False)
    folders.claim_output_dir(out, resume=True, overwrite=True)
    assert (out / "file").read_text() == "mine"
    folders.claim_output_dir(out, resume=False, overwrite=True)
    assert not list(out.iterdir()) and (tmp_path / "out.old-1" / "file").read_text() == "mine"


@pytest.mark.parametrize("claim", [lambda folder: folders.claim_output_dir(folder, True, False), folders.claim_empty])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_folder_that_is_there_but_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claim: Any, number: int
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("tempfile.TemporaryFile", fail)
    with pytest.raises(UserError, match=rf"{tmp_path}: --output_dir cannot be written: {os.strerror(number)}"):
        claim(tmp_path)


def test_folders_where_nothing_can_be_written(tmp_path: Path) -> None:
    """Not even by root."""
    (tmp_path / "file").write_text("")
    for folder in (Path("/proc/sys"), Path("/proc/nowhere"), tmp_path / "file" / "below", tmp_path / ("long" * 100)):
        for resume, overwrite in ((True, False), (False, True), (False, False)):
            with pytest.raises(UserError, match=f"{folder}: "):
                folders.claim_output_dir(folder, resume, overwrite)


def test_a_claimed_folder_is_empty(tmp_path: Path) -> None:
    folders.claim_output_dir(tmp_path / "out", False, False)
    assert list((tmp_path / "out").iterdir()) == []
