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
