"""The command's own flags, and what contributors are told of it."""

import re
from pathlib import Path

import pytest

from ds_bert import __version__
from ds_bert.cli import main

ROOT = Path(__file__).resolve().parent.parent


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0 and capsys.readouterr().out == f"ds-bert {__version__}\n"


def test_changes_begin_with_this_version() -> None:
    assert re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[0] == __version__


@pytest.mark.parametrize("file", ["CONTRIBUTING.md", ".github/workflows/ci.yml"])
def test_make_has_what_is_named(file: str) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    text = (ROOT / file).read_text()
    named = set(re.findall(r"(?:`|run: |^)make ([\w-]+)", text, flags=re.MULTILINE))
    named |= {tier for tiers in re.findall(r"tier: \[(.*)\]", text) for tier in tiers.split(", ")}
    assert named and named <= targets, named - targets
