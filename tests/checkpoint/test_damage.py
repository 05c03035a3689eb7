"""Truncated, bit-flipped, missing and foreign files are refused by name, before any weight changes."""

import os
import pickle
import random
import re
import shutil
import sys
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import pytest
import torch.distributed as dist

from ds_bert import cli
from ds_bert.checkpoint import folders
from ds_bert.checkpoint.manifest import check_files, faults, hash_file, read_manifest, write_manifest
from ds_bert.checkpoint.pretrained import PretrainedWeights
from ds_bert.checkpoint.saving import CheckpointSaver
from ds_bert.checkpoint.training_state import load_checkpoint, load_newest
from ds_bert.engine.process_group import start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.errors import UserError
from tests.support.checkpoints import describe, same, state_of, toy_engine, train, write_checkpoint
from tests.support.processes import run_on_ranks
from tests.support.toy import toy_map

NAMES = [
    "manifest.json",
    "config.json",
    "trainer_state.json",
    "vocab.txt",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "optimizer.safetensors",
]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path, 3)


def flip_last_bit(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def refused(checkpoint: Path, name: str) -> str:
    """Check that exactly this file is found wrong; return what is said of it."""
    (fault,) = faults(checkpoint)
    assert fault.startswith(f"{checkpoint / name}: "), fault
    with pytest.raises(UserError, match=re.escape(fault)):
        check_files(checkpoint)
    return fault


def test_a_whole_checkpoint_has_no_faults(checkpoint: Path) -> None:
    assert sorted([*read_manifest(checkpoint), "manifest.json"]) == sorted(NAMES)
    assert faults(checkpoint) == []


FOREIGN = [
    "README.md",
    "eval_results.txt",
    ".gitattributes",
    ".DS_Store",
    "._model-00001-of-00002.safetensors",
    ".nfs0001",
    "Thumbs.db",
    "desktop.ini",
    "config.json~",
    "config.json.bak",
    "#config.json#",
    ".config.json.swp",
    "model.safetensors.bak",
    "model-00001-of-00002.safetensors.lock",
    "model copy.safetensors",
    "adapter_model.safetensors",
    "pytorch_model.bin",
    "training_args.bin",
    "tokenizer/vocab.txt",
    "runs/events.out.tfevents.1",
    ".ipynb_checkpoints/config-checkpoint.json",
]


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_files_do_no_harm(checkpoint: Path, capsys: pytest.CaptureFixture, name: str) -> None:
    """Neither alone, nor do they hide damage; they are named where a checkpoint is looked at."""
    (checkpoint / name).parent.mkdir(exist_ok=True)
    (checkpoint / name).write_text("left by others")
    assert faults(checkpoint) == []
    assert folders.newest_checkpoint(checkpoint.parent) == checkpoint
    PretrainedWeights(checkpoint, "bert")
    assert cli.main(["verify", str(checkpoint)]) == 0
    printed = capsys.readouterr().out
    assert printed.rstrip().endswith(f"not of it: {name}".encode(errors="backslashreplace").decode())
    flip_last_bit(checkpoint / "model-00001-of-00002.safetensors")
    refused(checkpoint, "model-00001-of-00002.safetensors")


def test_links_and_folders_that_lead_nowhere_do_no_harm(checkpoint: Path) -> None:
    (checkpoint / "notes").symlink_to(checkpoint / "nowhere")
    (checkpoint / "loop").symlink_to(checkpoint)
    (checkpoint / "model.safetensors.d").mkdir()
    (checkpoint / "not\udcffutf8").write_text("")
    assert faults(checkpoint) == []


@pytest.mark.parametrize("name", NAMES)
def test_bit_flips(checkpoint: Path, name: str) -> None:
    path = checkpoint / name
    whole, chance = path.read_bytes(), random.Random(name)
    bits = {0, len(whole) * 8 - 1, *(chance.randrange(len(whole) * 8) for _ in range(60))}
    for bit in sorted(bits):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        refused(checkpoint, name)
    path.write_bytes(whole)
    assert faults(checkpoint) == []


@pytest.mark.parametrize("name", NAMES)
def test_truncated_and_longer(checkpoint: Path, name: str) -> None:
    path = checkpoint / name
    whole = path.read_bytes()
    for damaged in (b"", whole[:1], whole[: len(whole) // 2], whole[:-1], whole + b"\0", whole + b"\n"):
        path.write_bytes(damaged)
        refused(checkpoint, name)


@pytest.mark.parametrize("name", NAMES[1:])
def test_missing(checkpoint: Path, name: str) -> None:
    (checkpoint / name).unlink()
    assert "missing" in refused(checkpoint, name)
    (checkpoint / name).symlink_to(checkpoint / "nowhere")
    refused(checkpoint, name)


def test_without_a_manifest(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").unlink()
    (fault,) = faults(checkpoint)
    assert fault == f"{checkpoint}: not a checkpoint: it has no manifest.json"


@pytest.mark.parametrize("name", NAMES[1:])
def test_of_another_checkpoint(checkpoint: Path, name: str) -> None:
    other = write_checkpoint(checkpoint.parent / "other", 4)
    (other / "vocab.txt").write_text("[PAD]\n[UNX]\n")
    (other / "config.json").write_text('{\n  "model_type": "bart"\n}\n')
    assert (other / name).stat().st_size == (checkpoint / name).stat().st_size
    shutil.copy(other / name, checkpoint / name)
    assert "checksum" in refused(checkpoint, name)


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "model-00003-of-00003.safetensors",
        "ds_bert.safetensors",
        "optimizer-00001-of-00002.safetensors",
        "model.safetensors.index.json",
    ],
)
def test_weights_that_are_not_listed(checkpoint: Path, name: str) -> None:
    """They would be read beside the listed ones, or in their place: `model.safetensors` comes before an index."""
    (checkpoint / name).write_text("text")
    assert "does not list it" in refused(checkpoint, name)


def test_another_manifest(checkpoint: Path) -> None:
    path = checkpoint / "manifest.json"
    other = write_checkpoint(checkpoint.parent / "other", 4)
    shutil.copy(other / "manifest.json", path)
    assert len(faults(checkpoint)) == 4  # tensors and the step
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 2'))
    assert "format 2" in refused(checkpoint, "manifest.json")
    for text in ("[]", "{}", "null", '{"files": {}}', '{"format_version": "1", "files": [], "sha256": 3}'):
        path.write_text(text)
        refused(checkpoint, "manifest.json")


def test_a_manifest_that_leads_elsewhere(checkpoint: Path) -> None:
    (checkpoint.parent / "secret").write_text("secret")
    for name in ("../secret", str(checkpoint.parent / "secret")):
        entries = {key: entry for key, entry in read_manifest(checkpoint).items() if "secret" not in key}
        write_manifest(checkpoint, 3, entries | {name: hash_file(checkpoint.parent / "secret")})
        assert "missing" in refused(checkpoint, name)


def test_a_disk_that_does_not_read(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("ds_bert.checkpoint.manifest.hash_file", fail)
    assert all("cannot be read: Input/output error" in fault for fault in faults(checkpoint))


def test_without_tensors_only_their_sizes_are_compared(checkpoint: Path) -> None:
    path = checkpoint / "optimizer.safetensors"
    flip_last_bit(path)
    assert faults(checkpoint, tensors=False) == [] and len(faults(checkpoint)) == 1
    path.write_bytes(path.read_bytes()[:-1])
    assert len(faults(checkpoint, tensors=False)) == 1


def test_shares_cover_every_file_once(checkpoint: Path) -> None:
    for name in NAMES[1:]:
        flip_last_bit(checkpoint / name)
    parts = [faults(checkpoint, share=(number, 4)) for number in range(4)]
    assert sorted(fault for part in parts for fault in part) == faults(checkpoint) and all(parts)


class _Malice:
    def __reduce__(self) -> tuple:
        return os.system, ("touch owned",)


@pytest.mark.parametrize("name", [*NAMES, "pytorch_model.bin", "optimizer.pt", "training_args.bin"])
def test_a_pickle_never_runs(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(checkpoint.parent)
    path = checkpoint / name
    path.write_bytes(pickle.dumps(_Malice()).ljust(path.stat().st_size if path.exists() else 0, b" "))
    unpickled = []
    sys.addaudithook(lambda event, _: unpickled.append(event) if event == "pickle.find_class" else None)
    status = cli.main(["verify", str(checkpoint)])
    if name in NAMES:
        refused(checkpoint, name)
        assert status == 2
    else:
        assert status == 0 and faults(checkpoint) == []
    assert not unpickled and not (checkpoint.parent / "owned").exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_model_to_start_from_is_compared_but_for_what_is_the_runs(checkpoint: Path, name: str) -> None:
    PretrainedWeights(checkpoint, "bert")
    if name != "manifest.json":  # without it, or without the run's state, a folder is any model's
        content = (checkpoint / name).read_bytes()
        (checkpoint / name).unlink()
        if name.startswith("model"):
            with pytest.raises(UserError, match=name):
                PretrainedWeights(checkpoint, "bert")
        else:
            PretrainedWeights(checkpoint, "bert")
        (checkpoint / name).write_bytes(content)
    flip_last_bit(checkpoint / name)
    if name in ("optimizer.safetensors", "trainer_state.json"):
        PretrainedWeights(checkpoint, "bert")
    else:
        with pytest.raises(UserError, match=f"{name}: .*(checksum|not JSON)"):
            PretrainedWeights(checkpoint, "bert")


def test_weights_that_would_be_read_in_place_of_the_listed_ones(checkpoint: Path) -> None:
    (checkpoint / "README.md").write_text("about it")
    PretrainedWeights(checkpoint, "bert")
    shutil.copy(checkpoint / NAMES[-2], checkpoint / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors: not of this checkpoint"):
        PretrainedWeights(checkpoint, "bert")


def test_verify(checkpoint: Path, capsys: pytest.CaptureFixture) -> None:
    run = checkpoint.parent
    write_checkpoint(run, 7)
    assert cli.main(["verify", str(run)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in printed] == [f"{run}/checkpoint-3", f"{run}/checkpoint-7"]
    assert all("6 files are whole" in line for line in printed)
    for name in ("vocab.txt", "optimizer.safetensors"):
        flip_last_bit(checkpoint / name)
    assert cli.main(["verify", str(run)]) == 2
    output = capsys.readouterr()
    assert output.out.count("\n") == 1 and "checkpoint-7" in output.out
    first, second = output.err.splitlines()
    assert first.startswith(f"error: {checkpoint}/optimizer.safetensors: ") and "checksum" in first
    assert second.startswith(f"error: {checkpoint}/vocab.txt: ")
    assert cli.main(["verify", str(run / "checkpoint-7")]) == 0


def test_verify_finds_what_is_gone(checkpoint: Path, capsys: pytest.CaptureFixture) -> None:
    write_checkpoint(checkpoint.parent, 7)
    shutil.rmtree(checkpoint.parent / "checkpoint-7")
    assert cli.main(["verify", str(checkpoint.parent)]) == 2
    assert "checkpoint-7: no such folder" in capsys.readouterr().err


@pytest.mark.parametrize("made", [False, True])
def test_verify_where_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture, made: bool) -> None:
    if made:
        (tmp_path / "run").mkdir()
    assert cli.main(["verify", str(tmp_path / "run")]) == 2
    assert f"error: {tmp_path / 'run'}: " in capsys.readouterr().err


def _resume_with_damage(output_dir: Path) -> tuple[list[str], list[bool], str]:
    """Break one checkpoint after another; return what each attempt said, whether weights stayed, what was printed."""
    with redirect_stderr(StringIO()) as printed:
        said, untouched = _attempts_with_damage(output_dir)
    return said, untouched, printed.getvalue()


def _attempts_with_damage(output_dir: Path) -> tuple[list[str], list[bool]]:
    grid = start_process_group(toy_map(2, 1), timeout_seconds=30)
    engine = toy_engine(grid, EngineSettings())
    train(engine, 0, 1)
    before, said, untouched = state_of(engine), [], []
    for name in ("checkpoint-4", "checkpoint-2"):
        for load, path in ((load_checkpoint, output_dir / name), (load_newest, output_dir)):
            try:
                load(path, engine)
            except UserError as error:
                said.append(str(error))
            else:
                said.append(f"loaded step {engine.steps_done}")
            untouched.append(same(before, state_of(engine)))
            engine.resume_at(1)
        before = state_of(engine)
        dist.barrier()
        if grid.rank == 0:
            flip_last_bit(output_dir / "checkpoint-2" / "model-00006-of-00006.safetensors")
        dist.barrier()
    return said, untouched


def _write(output_dir: Path) -> None:
    engine = toy_engine(start_process_group(toy_map(2, 1), timeout_seconds=30), EngineSettings())
    saver = CheckpointSaver(output_dir, engine, describe(engine), {})
    for step in (2, 4):
        train(engine, step - 2, step)
        saver.save()


def test_no_weight_changes_before_all_is_read(tmp_path: Path) -> None:
    run_on_ranks(_write, 2, tmp_path)
    (tmp_path / ".checkpoint-6.partial").mkdir()
    path = tmp_path / "checkpoint-4" / "optimizer-00003-of-00006.safetensors"
    flip_last_bit(path)
    by_rank = run_on_ranks(_resume_with_damage, 2, tmp_path)
    for said, untouched, _ in by_rank:
        assert str(path) in said[0] and "checksum" in said[0]
        assert said[1] == "loaded step 2"
        assert "checkpoint-2/model-00006-of-00006.safetensors" in said[2]
        assert str(path) in said[3] and "nor is any of the 1 before it" in said[3]
        assert untouched == [True, False, True, True]
    printed = "".join(part for *_, part in by_rank)
    assert printed.count(f"checkpoint-4 is skipped: {path}: does not have the checksum") == 2  # once per attempt
    assert not folders.partial_folder(tmp_path, 6).exists()
