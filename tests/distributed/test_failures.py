"""A process that dies or hangs ends all the others, soon."""

import os
import signal
import time
from itertools import count
from pathlib import Path

import pytest

from ds_bert.engine.process_group import start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.stage_map import StageMap
from tests.support.processes import Failed, Ranks
from tests.support.toy import toy_map
from tests.support.training import Case, build_engine, micro_batches

TIMEOUT = 4.0
CASE = Case(EngineSettings(), micro_batch_size=1)


def _train_for_ever(stage_map: StageMap, folder: Path) -> None:
    grid = start_process_group(stage_map, TIMEOUT)
    engine = build_engine(grid, stage_map.cuts, CASE)
    for step in count():
        engine.train_batch(micro_batches(grid, CASE.batch(step), 1), 1e-3)
        if step == 2:
            (folder / os.environ["RANK"]).touch()


@pytest.mark.parametrize("victim", [0, 3])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_all_ranks_end_when_one_dies_or_hangs(tmp_path: Path, victim: int, how: signal.Signals) -> None:
    with Ranks(_train_for_ever, 4, toy_map(2, 2), tmp_path) as ranks:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.iterdir())) < 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(ranks.processes[victim].pid, how)
        outcomes = ranks.wait(5 * TIMEOUT, stop_at_failure=False)
    for rank in set(range(4)) - {victim}:
        assert isinstance(outcomes[rank], Failed)
        assert "RuntimeError" in outcomes[rank], outcomes[rank]
