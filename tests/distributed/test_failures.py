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


@pytest.mark.parametrize(
    "how, victim",
    [
        (signal.SIGKILL, 0),
        (signal.SIGKILL, 3),
        (signal.SIGSTOP, 3),
        pytest.param(signal.SIGSTOP, 0, marks=pytest.mark.slow),
    ],
)
def test_all_ranks_end_when_one_dies_or_hangs(tmp_path: Path, how: signal.Signals, victim: int) -> None:
    with Ranks(_train_for_ever, 4, toy_map(2, 2), tmp_path) as ranks:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.iterdir())) < 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(ranks.processes[victim].pid, how)
        outcomes = ranks.wait(5 * TIMEOUT, stop_at_failure=False, among={0, 1, 2, 3} - {victim})
    for outcome in outcomes.values():
        assert isinstance(outcome, Failed)
        assert "RuntimeError" in outcome, outcome
