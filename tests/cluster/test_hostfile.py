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


def test_deepspeed_reads_the_same(tmp_path: Path) -> None:
    runner = pytest.importorskip("deepspeed.launcher.runner")
    path = hosts(tmp_path, "# x\nb slots=1\na slots=3\n\n")
    read = load_hostfile(path)
    assert dict(zip(read.names, read.slots, strict=True)) == dict(runner.fetch_hostfile(str(path)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a slots=2\nb\n", "line 2: found 'b', needed is a node as in `node0 slots=8`"),
        ("a slots=0\n", "line 1: found 'a slots=0'"),
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
