import os

import torch

from tests.support.processes import run_on_ranks
from tests.support.toy import toy_map


def _joined() -> tuple[bool, int, int, str]:
    from deepspeed.comm import comm

    from ds_bert.engine.process_group import start_process_group

    grid = start_process_group(toy_map(2, 2, [[3, 1], [0, 2]]), timeout_seconds=30)
    return comm.cdb.shm_comm_op is None, grid.stage, grid.replica, str(grid)


def test_launcher_ranks_are_renumbered_and_nothing_is_compiled():
    outcomes = run_on_ranks(_joined, 4)
    assert all(nothing_compiled for nothing_compiled, *_ in outcomes)
    assert [(stage, replica) for _, stage, replica, _ in outcomes] == [(1, 0), (0, 1), (1, 1), (0, 0)]
    # People read the launcher's ranks, as in the stage map.
    places = ["stage 1, replica 0", "stage 0, replica 1", "stage 1, replica 1", "stage 0, replica 0"]
    assert [name for *_, name in outcomes] == [f"rank {rank} ({place})" for rank, place in enumerate(places)]


def _join_twice() -> str:
    from ds_bert.engine.process_group import process_group, start_process_group
    from ds_bert.errors import UserError

    start_process_group(toy_map(2, 1), timeout_seconds=30)
    try:
        with process_group(toy_map(2, 1), timeout_seconds=30):
            return "joined"
    except UserError as refusal:
        return str(refusal) if torch.distributed.is_initialized() else "the first group is gone"


def test_a_group_is_joined_once():
    for said in run_on_ranks(_join_twice, 2):
        assert said.startswith("torch.distributed is in use in this process") and "a new Python process" in said


def _join_again_and_again() -> tuple[int, list[tuple[int, int]]]:
    """Join and leave, also as the world of one that a launcher may have made, whose address stays."""
    from ds_bert.engine.process_group import process_group

    before, after = dict(os.environ), []
    for _ in range(6):
        with process_group(toy_map(1, 1), timeout_seconds=30) as grid:
            groups = [grid.new_group() for _ in range(3)]
            for group in groups:
                torch.distributed.all_reduce(torch.ones(3), group=group)
        del groups, group
        after.append(tuple(len(os.listdir(f"/proc/self/{what}")) for what in ("task", "fd")))
    assert {name: os.environ.get(name) for name in before} == before
    return int(os.environ["WORLD_SIZE"]), after


def test_groups_are_left_without_a_trace():
    ((size, after),) = run_on_ranks(_join_again_and_again, 1)
    assert size == 1 and after[1] == after[-1]
