"""Jobs that must be refused: with exit status 2, one sentence, and nothing changed on disk."""

import json
import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from ds_bert import cli
from ds_bert.errors import exit_on_user_error
from pipelines import pretrain

LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "LOCAL_WORLD_SIZE")


def contents(folder: Path, without: Collection[str] = ()) -> dict[str, bytes | str | None]:
    """Everything in a folder but what is called as said: files with their bytes, links with their target."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in folder.rglob("*")
        if path.name not in without
    }


def the_sentence(status: int, err: str) -> str:
    """Check that a command refused as it should; return its sentence."""
    assert status == 2, (status, err)
    assert "Traceback" not in err
    said = [line for line in err.splitlines() if not line.endswith("reading model and data ...")]
    lines = [line for line in said if line.startswith("error: ")]
    assert len(lines) == 1 and said[-1] == lines[0], err
    return lines[0]


class Job:
    """Arguments of a pre-training run, to be changed by a test, and the folder they name."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
        self.folder, self.monkeypatch, self.capfd = folder, monkeypatch, capfd
        self.arguments: dict[str, Any] = {
            "config_name": str(folder / "bert.json"),
            "train_path": str(folder / "data"),
            "output_dir": str(folder / "out"),
            "max_steps": 2,
            "max_seq_length": 32,
            "max_predictions_per_seq": 5,
            "disable_tqdm": True,
        }
        monkeypatch.chdir(folder)

    def write(self, name: str, value: Any) -> str:
        """Write a file into the job's folder, as JSON unless it is text or bytes; return its path."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(value, bytes):
            path.write_bytes(value)
        else:
            path.write_text(value if isinstance(value, str) else json.dumps(value))
        return str(path)

    def refuse(self, *flags: object, world: int = 1) -> str:
        """Start the job with these flags after its arguments; return the sentence that it is refused with."""
        run_json = self.write("run.json", self.arguments)
        return self.refuse_command(run_json, *flags, world=world)

    def refuse_command(self, *words: object, world: int = 1) -> str:
        """The same with nothing but these words on the command line."""
        for name in LAUNCHER:
            self.monkeypatch.delenv(name, raising=False)
        if world > 1:
            self.monkeypatch.setenv("RANK", "0")
            self.monkeypatch.setenv("WORLD_SIZE", str(world))
        self.monkeypatch.setattr(sys, "argv", ["pretrain.py", *map(str, words)])
        self.monkeypatch.setattr("ds_bert.engine.process_group.start_process_group", _began)
        return self._refused(lambda: exit_on_user_error(pretrain.main))

    def refuse_ds_bert(self, *words: object) -> str:
        """Run `ds-bert` with these words; return the sentence that it refuses with."""
        return self._refused(lambda: cli.main(list(map(str, words))))

    def _refused(self, command: Any) -> str:
        before = contents(self.folder)
        self.capfd.readouterr()
        status = command()
        captured = self.capfd.readouterr()
        after = contents(self.folder)
        assert after == before, (
            f"changed: {sorted(k for k in after.keys() | before.keys() if after.get(k, 0) != before.get(k, 0))}"
        )
        return the_sentence(status, captured.err)


def _began(*_: object) -> None:
    raise AssertionError("the job was not refused: training would begin")
