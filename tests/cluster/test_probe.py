import os
from pathlib import Path

import pytest

from ds_bert.cluster import probe


def test_folders_are_told_apart_by_names_and_contents(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "file").write_bytes(b"x" * 10)
    same = probe.fingerprint(str(tmp_path / "a"))
    assert same and same == probe.fingerprint(str(tmp_path / "b"))
    (tmp_path / "b" / "deep" / "file").rename(tmp_path / "b" / "deep" / "other")
    assert same != probe.fingerprint(str(tmp_path / "b"))
    assert probe.fingerprint(str(tmp_path / "c")) is None


@pytest.mark.parametrize("place", [0, 4999, 9999])
def test_a_large_file_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    monkeypatch.setattr(probe, "WHOLE", 6400)
    content = bytearray(10_000)
    path = tmp_path / "file"
    path.write_bytes(content)
    before = probe.digest_of_file(str(path))
    content[place] = 1
    path.write_bytes(content)
    changed = probe.digest_of_file(str(path)) != before
    assert changed == any(begin <= place < begin + 100 for begin in range(0, 10_000, (10_000 - 100) // 63))
    path.write_bytes(content + b"1")
    assert probe.digest_of_file(str(path)) != before


def test_the_interface_is_the_one_that_ssh_came_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "SSH_CONNECTION", "127.0.0.1 5555 127.0.0.1 22")
    assert probe.network() == ("lo", "127.0.0.1")
    monkeypatch.setitem(os.environ, "SSH_CONNECTION", "10.0.0.1 5555 203.0.113.9 22")
    assert probe.network() == ("", "203.0.113.9")
