import gzip
from itertools import product
from pathlib import Path

import pytest

from ds_bert.cluster.hostfile import check_slots, load_hostfile
from ds_bert.errors import UserError
from ds_bert.stage_map import StageMap


def hosts(folder: Path, text: str) -> Path:
    path = folder / "hosts"
    path.write_text(text)
    return path


def test_ranks_go_to_nodes_in_the_order_of_the_lines(tmp_path: Path) -> None:
    read = load_hostfile(hosts(tmp_path, "# cluster\n\nb.example slots=1\n  a slots=3  # big\n"))
    assert read.names == ("b.example", "a") and read.slots == (1, 3) and read.num_slots == 4
    assert read.node_of_rank == (0, 1, 1, 1)
    assert [list(read.ranks(node)) for node in (0, 1)] == [[0], [1, 2, 3]]


NAMES = ("a", "alice@node-1.example", "10.0.0.1", "slots=3", "max_slots=2", "b#c", "ä")
SLOTS = (
    "slots=2", "slots=0", "slots=007", "slots=\u0663", "slots=2 max_slots=4", "slots=2\tmax_slots=4 # big", "slots=2#x",
    "slots=2 slots=3", "slots=2.5", "slots=2x", "slots= 2", "slots =2", "slots=", "slots=-1", "slots=two", "Slots=2",
    "max_slots=4 slots=2", "# slots=2", "", f"slots={'9' * 5000}",
)  # fmt: skip
SPACES = (("", " ", "\n"), ("  \t", "\t  ", " \r\n"), ("\x0c", "\xa0", "\u2028\n"), ("", "\x0b", "\r"))
AROUND = (
    ("", ""),
    ("# a comment\n\n  \n   # another\n", "\n#z slots=1\n"),
    ("z slots=1\n", "y slots=3 max_slots=8\n"),
    ("", "a slots=1\n"),
    ("\ufeff", ""),
)


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("name", NAMES)
def test_it_is_read_as_deepspeed_reads_it(tmp_path: Path, name: str, around: tuple[str, str]) -> None:
    runner = pytest.importorskip("deepspeed.launcher.runner")
    path = tmp_path / "hosts"
    for slots, (before, between, after) in product(SLOTS, SPACES):
        path.write_bytes(f"{around[0]}{before}{name}{between}{slots}{after}{around[1]}".encode())
        try:
            theirs = list(runner.fetch_hostfile(str(path)).items())
        except ValueError:
            theirs = None
        if theirs and theirs[0][0].startswith("\ufeff"):
            theirs = None  # no host has such a name
        try:
            read = load_hostfile(path)
            ours = list(zip(read.names, read.slots, strict=True))
        except UserError as refused:
            assert str(refused).startswith(f"{path}: ")
            ours = None
        assert ours == theirs, path.read_bytes()


@pytest.mark.parametrize("rest", ["", " max_slots=4", "\tmax-slots=4 # big", "#x", " slots=3"])
def test_what_follows_the_slots_is_not_read(tmp_path: Path, rest: str) -> None:
    read = load_hostfile(hosts(tmp_path, f"host slots=2{rest}\nb slots=1\n"))
    assert read.names == ("host", "b") and read.slots == (2, 1)


def test_a_node_without_slots_keeps_its_place(tmp_path: Path) -> None:
    read = load_hostfile(hosts(tmp_path, "a slots=1\nb slots=0\nc slots=2\n"))
    assert read.node_of_rank == (0, 2, 2) and list(read.ranks(1)) == [] and read.num_slots == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(b"a slots=1\n", mtime=0), "is compressed by gzip, which the launcher cannot read"),
        (b"\xef\xbb\xbfa slots=1\n", "begins with a byte order mark, which the launcher cannot read"),
        ("a slots=1\n".encode("utf-16"), "is UTF-16 text"),
        (b"\xe4 slots=1\n", "line 1: "),
    ],
)
def test_what_the_launcher_cannot_read_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "hosts").write_bytes(content)
    with pytest.raises(UserError) as refused:
        load_hostfile(tmp_path / "hosts")
    assert said in str(refused.value) and "needed is a hostfile with a line" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a slots=2\nb\n", "line 2: found 'b', needed is a node as in `node0 slots=8`"),
        ("a slots=" + "1" * 5000, "line 1: the number of slots has 5000 digits"),
        ("a slots=two\n", "line 1: found 'a slots=two'"),
        ("a slots=1\nb slots=1\na slots=1\n", "line 3: a stands there twice"),
        ("# nothing\n", "names no node"),
    ],
)
def test_other_lines_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        load_hostfile(hosts(tmp_path, text))
    assert str(refused.value).startswith(f"{tmp_path}/hosts: {said}")


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="hosts: no such file; needed is a hostfile"):
        load_hostfile(tmp_path / "hosts")


@pytest.mark.parametrize(
    ("slots", "said"),
    [(3, "hosts: 3 slots are fewer than the 4 ranks of map.json"), (5, "map.json: is for 4 ranks, but .*hosts has 5")],
)
def test_slots_must_be_as_many_as_ranks(tmp_path: Path, slots: int, said: str) -> None:
    stage_map = StageMap((0, 0, 1), ((0, 1), (2, 3)))
    check_slots(load_hostfile(hosts(tmp_path, "a slots=4")), stage_map, "map.json")
    with pytest.raises(UserError, match=said):
        check_slots(load_hostfile(hosts(tmp_path, f"a slots={slots}")), stage_map, "map.json")
