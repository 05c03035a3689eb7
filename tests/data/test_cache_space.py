"""The cache keeps to its limit: what was not used for longest goes, never what is in use, and nobody is harmed."""

import errno
import fcntl
import math
import multiprocessing
import os
import signal
import time
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ds_bert.data import cache_space
from ds_bert.data.cache_space import LIMIT, entries, parse_size, shrink, spell_size
from ds_bert.data.feature_cache import cache_folder, cached_features
from ds_bert.data.features import Features, make_features
from ds_bert.errors import UserError

FORK = multiprocessing.get_context("fork")
EXAMPLES = 200


def build(number: int) -> Features:
    """As large for each number."""
    rng = np.random.default_rng(number)
    sequences = rng.integers(0, 50, (EXAMPLES, 16)).tolist()
    return make_features(sequences, [1] * EXAMPLES, 0, {"labels": np.full(EXAMPLES, number)})


def get(folder: Path, number: int) -> Features:
    return cached_features(folder, {"number": number}, lambda: build(number), origin=f"file {number}")


def assert_right(features: Features, number: int) -> None:
    found, expected = (each.batch(0, np.arange(EXAMPLES)) for each in (features, build(number)))
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def in_another_process(function: Any, *arguments: Any) -> None:
    """Run to the end, so that what it used is free."""
    process = FORK.Process(target=function, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode == 0


def fill(folder: Path, numbers: Any, age: float = 1000.0) -> dict[int, str]:
    """Cache in a process that ends; the first is the least recently used. Return the names of the caches."""
    names = {}
    for place, number in enumerate(numbers):
        before = set(names.values())
        in_another_process(get, folder, number)
        (names[number],) = {path.name for path in folder.iterdir() if path.name[0] != "."} - before
        when = time.time() - age + place
        os.utime(folder / names[number], (when, when))
    return names


def held(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name != ".users"}


@pytest.fixture
def size(tmp_path: Path) -> int:
    """Bytes of one cache."""
    fill(tmp_path / "one", [0])
    (entry,) = entries(tmp_path / "one")
    return entry.size


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1000", 1000), ("0", 0), ("5B", 5), ("2kb", 2000), ("500 MB", 5e8), ("10GB", 1e10), ("1.5g", 1.5e9),
     ("3TB", 3e12), ("1KiB", 1024), ("2 GiB", 2**31), (" 7M ", 7e6), ("none", math.inf), ("None", math.inf)],
)  # fmt: skip
def test_sizes(text: str, expected: float) -> None:
    assert parse_size(text, "--limit") == expected


@pytest.mark.parametrize(
    "text", ["", "GB", "-1GB", "10 XB", "1,5GB", "1e9", "10iB", "ten", "5 5GB", "٣GB", "inf", "nan"]
)
def test_what_is_no_size(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--limit is .*, needed is a size, as 500MB or 10GB, or none"):
        parse_size(text, "--limit")
    if text:
        monkeypatch.setenv(LIMIT, text)
        with pytest.raises(UserError, match=f"{LIMIT} is .*, needed is a size"):  # before a job reads anything
            cache_folder(str(tmp_path / "new"))


@pytest.mark.parametrize("power", range(5))
@pytest.mark.parametrize("value", [1, 5.25, 999.9])
def test_sizes_in_words_are_read_again(value: float, power: int) -> None:
    size = round(value * 1000**power)
    assert parse_size(spell_size(size).replace("bytes", ""), "x") == pytest.approx(size, rel=0.05)
    assert spell_size(math.inf) == "no limit" and spell_size(999_960) == "1.0 MB"


@pytest.mark.parametrize(("keep", "extra"), product(range(5), (-1, 0, 1)))
def test_the_least_recently_used_go_until_the_rest_fits(tmp_path: Path, size: int, keep: int, extra: int) -> None:
    names = fill(tmp_path / "cache", [3, 0, 2, 1])
    removed = shrink(tmp_path / "cache", keep * size + extra)
    fitting = max(0, min(4, keep - (extra < 0)))
    order = [names[number] for number in (3, 0, 2, 1)]
    assert [entry.path.name for entry in removed] == order[: 4 - fitting]
    assert held(tmp_path / "cache") == set(order[4 - fitting :])


def test_using_one_makes_it_the_last_to_go(tmp_path: Path, size: int) -> None:
    names = fill(tmp_path / "cache", [0, 1, 2])
    in_another_process(get, tmp_path / "cache", 0)
    shrink(tmp_path / "cache", 2 * size)
    assert held(tmp_path / "cache") == {names[2], names[0]}


def test_a_job_that_adds_keeps_the_limit(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(LIMIT, str(2 * size))
    names = fill(tmp_path / "cache", range(5))
    assert held(tmp_path / "cache") == {names[3], names[4]}
    monkeypatch.setenv(LIMIT, str(size - 1))
    assert_right(get(tmp_path / "cache", 9), 9)  # too large by itself: this process has it until it ends
    assert len(held(tmp_path / "cache")) == 1
    assert "of encoded data that are in use, more than the limit" in capfd.readouterr().err
    monkeypatch.setenv(LIMIT, "none")
    for number in range(5):
        in_another_process(get, tmp_path / "cache", number)
    assert len(held(tmp_path / "cache")) == 6


def _hold(folder: Path, number: int, pipe: Connection) -> None:
    features = get(folder, number)
    pipe.send("ready")
    pipe.recv()
    assert_right(features, number)
    assert_right(get(folder, number), number)


@pytest.mark.parametrize("how", ["ends", "is killed"])
@pytest.mark.parametrize("is_new", [True, False])
def test_what_a_living_process_uses_stays(tmp_path: Path, how: str, is_new: bool) -> None:
    folder = tmp_path / "cache"
    names = fill(folder, range(3 if is_new else 4))
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=_hold, args=(folder, 3, theirs))
    process.start()
    assert ours.poll(60) and ours.recv() == "ready"
    others = set(names.values()) - {names.get(3)}
    assert {entry.path.name for entry in shrink(folder, 0)} == others
    (entry,) = entries(folder)
    assert entry.in_use and shrink(folder, 0) == []
    if how == "ends":
        ours.send("go on")
    else:
        os.kill(process.pid or 0, signal.SIGKILL)
    process.join(60)
    assert process.exitcode == (0 if how == "ends" else -signal.SIGKILL)
    (entry,) = entries(folder)
    assert not entry.in_use and len(shrink(folder, 0)) == 1 and held(folder) == set()


def _die_when_deleting(folder: Path, at: int) -> None:
    deleted: list[Path] = []

    def delete(path: Path, **_: Any) -> None:
        (path / "tokens.npy").unlink()
        deleted.append(path)
        if len(deleted) == at:
            os.kill(os.getpid(), signal.SIGKILL)

    cache_space.shutil.rmtree = delete  # type: ignore[assignment]
    shrink(folder, 0)


def _die_when_renaming(folder: Path, at: int) -> None:
    rename, renamed = Path.rename, []

    def die(path: Path, target: Path) -> Path:
        renamed.append(path)
        if len(renamed) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(path, target)

    Path.rename = die  # type: ignore[method-assign, assignment]
    shrink(folder, 0)


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("die", [_die_when_deleting, _die_when_renaming])
def test_one_that_is_killed_while_it_removes_leaves_no_half(tmp_path: Path, die: Any, at: int) -> None:
    folder = tmp_path / "cache"
    fill(folder, range(3))
    process = FORK.Process(target=die, args=(folder, at))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    kinds = [entry.kind for entry in entries(folder)]
    assert kinds.count("deleted") == (3 if die is _die_when_deleting else at - 1) and len(kinds) == 3
    for number in range(3):
        in_another_process(lambda number=number: assert_right(get(folder, number), number))
    shrink(folder, math.inf)  # the rests go in any case, and whole caches stay
    assert [entry.kind for entry in entries(folder)] == ["whole"] * 3


def _die_while_writing(folder: Path) -> None:
    def save(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    np.save = save
    get(folder, 7)


def test_what_one_has_left_that_was_killed_while_it_wrote_goes_what_one_writes_stays(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    fill(folder, [0])
    process = FORK.Process(target=_die_while_writing, args=(folder,))
    process.start()
    process.join(60)
    writing = folder / f".{'a' * 32}.{'b' * 16}"
    writing.mkdir()
    cache_space.use(folder, writing.name)
    assert sorted((entry.kind, entry.in_use) for entry in entries(folder)) == [
        ("part", False), ("part", True), ("whole", False),
    ]  # fmt: skip
    shrink(folder, math.inf)
    assert sorted((entry.kind, entry.in_use) for entry in entries(folder)) == [("part", True), ("whole", False)]


def test_what_was_moved_aside_goes_before_what_is_whole(tmp_path: Path, size: int) -> None:
    folder = tmp_path / "cache"
    names = fill(folder, range(3))
    (folder / names[2] / "features.json").write_text("{")
    in_another_process(get, folder, 2)
    assert sorted(entry.kind for entry in entries(folder)) == ["aside", "whole", "whole", "whole"]
    (removed,) = shrink(folder, 3.5 * size)
    assert removed.kind == "aside" and held(folder) == set(names.values())


def test_files_of_others_stay(tmp_path: Path) -> None:
    """A folder that is named as --cache_dir may hold anything."""
    folder = tmp_path / "cache"
    fill(folder, [0])
    foreign = [
        "data.csv",
        "a" * 31,
        "A" * 32,
        "0" * 32 + "/notes.txt",
        "1" * 32 + "/below/tokens.npy",
        "." + "2" * 32 + "/x.npy",
    ]
    for name in foreign:
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text("mine")
    (folder / ("3" * 32)).write_text("mine")
    (folder / ("4" * 32)).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.npy").write_text("mine")
    assert len(shrink(folder, 0)) == 1 and entries(folder) == []
    assert all((folder / name).read_text() == "mine" for name in (*foreign, "3" * 32, f"{'4' * 32}/x.npy"))


def _use_and_add(folder: Path, seed: int) -> None:
    for number in np.random.default_rng(seed).integers(0, 6, 25).tolist():
        assert_right(get(folder, number), number)
        for user in cache_space._users.values():  # as if it had ended, so that all may go at any time
            os.close(user._descriptor)
        cache_space._users.clear()


def test_jobs_at_once_with_room_for_two(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, str(2.5 * size))
    processes = [FORK.Process(target=_use_and_add, args=(tmp_path / "cache", seed)) for seed in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 4
    in_another_process(get, tmp_path / "cache", 10)
    assert [entry.kind for entry in entries(tmp_path / "cache")] == ["whole"] * 2
    assert [path.name for path in (tmp_path / "cache" / ".users").iterdir()] == ["lock"]  # the files of the dead go


@pytest.mark.parametrize("reason", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_files_cannot_be_locked_nothing_is_removed(
    tmp_path: Path, reason: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setenv(LIMIT, "0")
    monkeypatch.setattr(fcntl, "flock", refuse)
    for number in (0, 1, 0):
        assert_right(get(tmp_path / "cache", number), number)
    assert len(held(tmp_path / "cache")) == 2 and capsys.readouterr().err == ""
    with pytest.raises(OSError, match=os.strerror(reason)):
        shrink(tmp_path / "cache", 0)


def test_one_that_is_stopped_in_its_turn_keeps_the_others_waiting_for_a_while_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_space, "_PATIENCE", 0.1)
    with cache_space._turn(tmp_path):
        assert_right(get(tmp_path, 0), 0)
        assert_right(get(tmp_path, 0), 0)
    assert held(tmp_path) == {entry.path.name for entry in entries(tmp_path)}


def test_a_folder_that_was_emptied_meanwhile(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    get(folder, 0)
    cache_space.shutil.rmtree(folder)
    get(folder, 1)
    assert [entry.in_use for entry in entries(folder)] == [True]
