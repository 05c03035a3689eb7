"""A checkpoint exists whole or not at all; an output folder is claimed without loss."""

import json
import os
import shutil
from pathlib import Path

import pytest

from ds_bert.checkpoint import folders
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
    manifest = json.loads((tmp_path / "checkpoint-9" / "manifest.json").read_text())
    assert manifest == {"step": 9, "files": {"model.safetensors": 17, "tokenizer/vocab.txt": 5}}


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-x").mkdir()
    (tmp_path / "checkpoint-7.old").mkdir()
    assert folders.newest_checkpoint(tmp_path) is None
    assert folders.newest_checkpoint(tmp_path / "nowhere") is None


class Killed(BaseException):
    pass


@pytest.mark.parametrize("call", ["fsync", "replace", "rename"])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_killed_between_begin_and_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, after: int
) -> None:
    write(tmp_path, 1)
    calls, real = iter(range(100)), getattr(os, call)

    def die(*arguments: object) -> None:
        if next(calls) == after:
            raise Killed
        real(*arguments)

    monkeypatch.setattr(os, call, die)
    try:
        write(tmp_path, 2)
    except Killed:
        assert folders.newest_checkpoint(tmp_path) == tmp_path / "checkpoint-1"
    else:
        assert call != "fsync" and after > 0  # there are not so many calls of it
    monkeypatch.undo()
    write(tmp_path, 3)
    assert folders.newest_checkpoint(tmp_path) == tmp_path / "checkpoint-3"
    assert not list(tmp_path.glob(".*"))


def test_a_step_written_again_replaces_the_first(tmp_path: Path) -> None:
    write(tmp_path, 5, "old weights")
    assert (write(tmp_path, 5, "new weights") / "model.safetensors").read_text() == "new weights of step 5"
    folders.check_files(tmp_path / "checkpoint-5")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]


def test_the_oldest_are_removed(tmp_path: Path) -> None:
    for step in (2, 10, 30):
        write(tmp_path, step)
    folders.remove_oldest(tmp_path, 0)
    assert len(folders.checkpoints(tmp_path)) == 3
    folders.remove_oldest(tmp_path, 2)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["checkpoint-10", "checkpoint-30"]
    folders.remove_oldest(tmp_path, 5)
    assert len(folders.checkpoints(tmp_path)) == 2


def test_a_removal_that_is_interrupted_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1)
    write(tmp_path, 2)

    def die(path: Path) -> None:
        (path / "model.safetensors").unlink()
        raise Killed

    monkeypatch.setattr(shutil, "rmtree", die)
    with pytest.raises(Killed):
        folders.remove_oldest(tmp_path, 1)
    assert folders.checkpoints(tmp_path) == [tmp_path / "checkpoint-2"]


@pytest.mark.parametrize("damage", ["longer", "shorter", "missing", "manifest", "not a list"])
def test_check_files(tmp_path: Path, damage: str) -> None:
    checkpoint = write(tmp_path, 4)
    path = checkpoint / "model.safetensors"
    if damage == "missing":
        path.unlink()
    elif damage == "manifest":
        path = checkpoint
        (checkpoint / "manifest.json").unlink()
    elif damage == "not a list":
        path = checkpoint / "manifest.json"
        path.write_text("[]")
    else:
        path.write_text(path.read_text() + "!" if damage == "longer" else "")
    with pytest.raises(UserError, match=str(path)):
        folders.check_files(checkpoint)
    with pytest.raises(UserError, match=str(path)):
        folders.newest_checkpoint(tmp_path)


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
