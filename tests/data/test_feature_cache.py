"""The cache of encoded examples: the same as built, once, whatever is there before and whoever is there besides."""

import errno
import multiprocessing
import threading
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest

from ds_bert.data.feature_cache import cache_folder, cached_features, key_fingerprint
from ds_bert.data.features import Features, make_features
from ds_bert.errors import UserError
from ds_bert.files import file_fingerprint

KEY = {"data": "abc", "max_seq_length": 16}


def build(seed: int = 0, examples: int = 5) -> Features:
    rng = np.random.default_rng(seed)
    sequences = [rng.integers(0, 50, size=rng.integers(1, 9)).tolist() for _ in range(examples * 2)]
    columns = {"labels": rng.integers(0, 3, examples), "score": rng.normal(size=(examples, 2)).astype(np.float32)}
    return make_features(sequences, [1] * len(sequences), 7, columns, per_example=2)


def assert_same(found: Features, expected: Features) -> None:
    assert (found.pad_id, found.per_example, len(found)) == (expected.pad_id, expected.per_example, len(expected))
    numbers = np.arange(len(expected))
    for name, array in expected.batch(0, numbers).items():
        other = found.batch(0, numbers)[name]
        assert other.dtype == array.dtype
        np.testing.assert_array_equal(other, array)


def refuse() -> Features:
    raise AssertionError("built although it is cached")


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".users")


def place(folder: Path) -> Path:
    (path,) = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return path


def test_what_was_built_comes_back_memory_mapped(tmp_path: Path) -> None:
    assert_same(cached_features(tmp_path / "cache", KEY, build), build())
    found = cached_features(tmp_path / "cache", dict(reversed(KEY.items())), refuse)
    assert_same(found, build())
    assert not found.tokens.flags.owndata and not found.tokens.flags.writeable
    assert len(entries(tmp_path / "cache")) == 1


def test_no_folder_keeps_nothing_and_no_examples_are_kept_too(tmp_path: Path) -> None:
    assert_same(cached_features(None, KEY, build), build())
    empty = make_features([], [], 0, {"labels": np.zeros(0, dtype=np.int64)})
    for make in (lambda: empty, refuse):
        assert len(cached_features(tmp_path, KEY, make)) == 0


def test_notes_are_kept(tmp_path: Path) -> None:
    noted = replace(build(), notes=("a: 1 line is left out", "b: so are 2"))
    for folder, make in ((tmp_path, lambda: noted), (tmp_path, refuse), (None, lambda: noted)):
        assert cached_features(folder, KEY, make).notes == noted.notes


@pytest.mark.parametrize("change", [{"data": "abd"}, {"max_seq_length": 17}, {"more": None}])
def test_another_key_is_another_cache(tmp_path: Path, change: dict[str, object]) -> None:
    cached_features(tmp_path, KEY, build)
    assert_same(cached_features(tmp_path, KEY | change, lambda: build(1)), build(1))
    assert_same(cached_features(tmp_path, KEY, refuse), build())


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["features.json", "tokens.npy", "starts.npy", "column-labels.npy"])
@pytest.mark.parametrize("damage", [_truncate, _flip, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_damaged_cache_is_built_anew_and_moved_aside(tmp_path: Path, name: str, damage) -> None:
    cached_features(tmp_path, KEY, build)
    damage(place(tmp_path) / name)
    assert_same(cached_features(tmp_path, KEY, build), build())
    assert_same(cached_features(tmp_path, KEY, refuse), build())
    assert [entry.endswith(".replaced") for entry in entries(tmp_path)] == [True, False]


def test_a_pickle_in_the_cache_is_not_opened(tmp_path: Path) -> None:
    cached_features(tmp_path, KEY, build)
    path = place(tmp_path) / "tokens.npy"
    np.save(path, np.array([print], dtype=object), allow_pickle=True)
    description = place(tmp_path) / "features.json"
    checksum = file_fingerprint(path)
    old = next(line for line in description.read_text().splitlines() if '"tokens"' in line)
    description.write_text(description.read_text().replace(old, f'"tokens": "{checksum}",'))
    assert_same(cached_features(tmp_path, KEY, build), build())


def test_overwriting_builds_and_replaces_only_what_differs(tmp_path: Path) -> None:
    cached_features(tmp_path, KEY, build)
    built: list[int] = []
    cached_features(tmp_path, KEY, lambda: built.append(1) or build(), overwrite=True)
    assert (len(built), len(entries(tmp_path))) == (1, 1)
    assert_same(cached_features(tmp_path, KEY, lambda: build(1), overwrite=True), build(1))
    assert len(entries(tmp_path)) == 2


@pytest.fixture
def no_space(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", fail)


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, no_space: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (tmp_path / "full", tmp_path / "file"):
        (tmp_path / "file").write_text("")
        assert_same(cached_features(folder, KEY, build), build())
        said = capsys.readouterr().err
        assert said.startswith(f"warning: {folder}: the cache cannot be written") and "--cache_dir" in said
    assert entries(tmp_path / "full") == []


def test_a_home_that_cannot_be_written_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder(None) == tmp_path / ".cache" / "ds_bert" / "features"
    assert capsys.readouterr().err == ""
    (tmp_path / "file").write_text("")
    for home in (str(tmp_path / "file"), "/dev/null", "/proc/nowhere"):
        monkeypatch.setenv("HOME", home)
        assert cache_folder(None) is None
        assert "encoded data is not kept" in capsys.readouterr().err

    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)
    assert cache_folder(None) is None
    assert "warning: home folder: Could not determine home directory.; enc" in capsys.readouterr().err


def test_a_given_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    assert cache_folder(str(tmp_path / "new")) == tmp_path / "new"
    (tmp_path / "file").write_text("")
    for given in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        with pytest.raises(UserError, match=rf"{given}: --cache_dir cannot be written .*; name another"):
            cache_folder(str(given))


def test_a_failing_build_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        cached_features(tmp_path / "cache", KEY, refuse)
    assert not (tmp_path / "cache").exists()


def _use(folder: Path, overwrite: bool, barrier: Barrier, results) -> None:
    def build_together() -> Features:
        barrier.wait(30)  # nobody is done before all have begun
        return build()

    found = cached_features(folder, KEY, build_together, overwrite)
    results.put(found.batch(0, np.arange(len(found)))["input_ids"].tolist())


@pytest.mark.parametrize("before", ["nothing", "damaged", "overwrite"])
def test_processes_that_start_at_once_end_with_one_cache(tmp_path: Path, before: str) -> None:
    if before != "nothing":
        cached_features(tmp_path, KEY, build)
    if before == "damaged":
        _flip(place(tmp_path) / "tokens.npy")
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()
    arguments = (tmp_path, before == "overwrite", barrier, results)
    processes = [context.Process(target=_use, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    found = [results.get(timeout=30) for _ in processes]
    for process in processes:
        process.join(30)
    assert found == [build().batch(0, np.arange(5))["input_ids"].tolist()] * 4
    assert_same(cached_features(tmp_path, KEY, refuse), build())
    # Nothing half-written stays; more than the damaged one may have been moved aside.
    left = [entry for entry in entries(tmp_path) if not entry.endswith(".replaced")]
    assert len(left) == 1
    assert (len(entries(tmp_path)) > 1) == (before == "damaged")


def test_one_that_reads_while_others_replace_gets_what_it_asked_for(tmp_path: Path) -> None:
    cached_features(tmp_path, KEY, build)
    stop = threading.Event()

    def replace() -> None:
        for seed in range(1, 30):
            cached_features(tmp_path, KEY, lambda seed=seed: build(seed % 2), overwrite=True)
        stop.set()

    thread = threading.Thread(target=replace)
    thread.start()
    allowed = [build(seed).batch(0, np.arange(5))["input_ids"].tolist() for seed in (0, 1)]
    while not stop.is_set():
        assert cached_features(tmp_path, KEY, build).batch(0, np.arange(5))["input_ids"].tolist() in allowed
    thread.join()


def test_fingerprints_follow_the_content(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"text")
    second.write_bytes(b"text")
    assert file_fingerprint(first) == file_fingerprint(second)
    second.write_bytes(b"Text")
    assert file_fingerprint(first) != file_fingerprint(second)
    assert key_fingerprint({"a": 1, "b": [2]}) == key_fingerprint({"b": [2], "a": 1}) != key_fingerprint({"a": 1})
    with pytest.raises(UserError, match="no such file"):
        file_fingerprint(tmp_path / "c")
