"""`ds-bert cache`: what it shows of a cache that several tasks have filled, and what it removes."""

import os
import re
import time
from pathlib import Path

import pytest

from ds_bert.cli import main
from ds_bert.data import cache_space
from ds_bert.data.cache_space import entries
from tests.data.test_cache_space import fill, get


def cache(capsys: pytest.CaptureFixture[str], *words: object, status: int = 0) -> list[str]:
    """Run the command; return the lines of what it printed."""
    assert main(["cache", *map(str, words)]) == status
    out, err = capsys.readouterr()
    return (err if status else out).splitlines()


def test_it_lists_what_there_is_the_last_used_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = fill(tmp_path, range(3), age=3 * 86400)
    (tmp_path / names[1] / "features.json").write_text("{")
    get(tmp_path, 2)
    (tmp_path / f".{'a' * 32}.{'b' * 16}").mkdir()
    os.utime(tmp_path / f".{'a' * 32}.{'b' * 16}", (0, 0))
    lines = cache(capsys, "--cache_dir", tmp_path)
    total = sum(entry.size for entry in entries(tmp_path))
    assert lines[0] == f"{tmp_path}: 4 folders, {cache_space.spell_size(total)}"
    assert re.fullmatch(r" +size  last used         what", lines[1])
    today, then = (time.strftime("%Y-%m-%d", time.localtime(time.time() - days * 86400)) for days in (0, 3))
    wanted = [
        (today, "file 2, 200 examples (in use)"),
        (then, "damaged"),
        (then, "file 0, 200 examples"),
        (time.strftime("%Y-%m-%d", time.localtime(0)), "damaged (unfinished)"),
    ]
    for line, (day, what) in zip(lines[2:6], wanted, strict=True):
        assert re.fullmatch(rf" *[\d.]+ (kB|bytes)  {day} \d\d:\d\d  {re.escape(what)}", line), line
    assert re.fullmatch(r"limit: 10.0 GB \(DS_BERT_CACHE_LIMIT\), kept by .*; the disk has [\d.]+ .B free", lines[6])
    assert len(lines) == 7 and len(entries(tmp_path)) == 4  # looking removes nothing


@pytest.mark.parametrize(("words", "left"), [(["--clear"], []), (["--limit", "0"], []), (["--limit", "40kB"], [2, 1])])
def test_it_removes(tmp_path: Path, words: list[str], left: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, [0, 1, 2])
    size = entries(tmp_path)[0].size
    lines = cache(capsys, "--cache_dir", tmp_path, *words)
    gone = 3 - len(left)
    assert lines[0] == f"removed {gone} folder{'s' * (gone > 1)}, {cache_space.spell_size(gone * size)}"
    assert [line.rpartition("file ")[2] for line in lines[3:-1]] == [f"{number}, 200 examples" for number in left]
    assert len(entries(tmp_path)) == len(left)


def test_an_empty_one(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for words in ([], ["--clear"]):
        lines = cache(capsys, *words)
        assert f"{tmp_path}/home/.cache/ds_bert/features: 0 folders, 0 bytes" in lines and "limit: " in lines[-1]
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("words", "environment", "said"),
    [
        (["--cache_dir", "nowhere"], "", "error: nowhere: no such folder; needed is what a job was given"),
        (["--limit", "ten"], "", "error: --limit is 'ten', needed is a size, as 500MB or 10GB"),
        (
            ["--clear", "--limit", "1GB"],
            "",
            "error: ds-bert cache: argument --limit: not allowed with argument --clear",
        ),
        (["--clear"], "lots", "error: DS_BERT_CACHE_LIMIT is 'lots', needed is a size"),
    ],
)
def test_mistakes(
    tmp_path: Path, words: list[str], environment: str, said: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    fill(tmp_path, [0])
    monkeypatch.setenv(cache_space.LIMIT, environment)
    (line,) = cache(capsys, *(words if "nowhere" in words else ["--cache_dir", tmp_path, *words]), status=2)
    assert line.startswith(said) and len(entries(tmp_path)) == 1
