"""Messages and sums that go through the host's memory, as where several ranks share a GPU, change nothing."""

from typing import Any
from unittest import mock

import numpy as np
import pytest

from ds_bert.engine.process_group import start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.engine.transport import Group, Transport
from ds_bert.stage_map import StageMap
from tests.support.processes import run_on_ranks
from tests.support.toy import toy_map
from tests.support.training import Case, Result, build_engine, merge, train


def _staged(constructor: Any) -> Any:
    def make(self: Any, *arguments: Any, **options: Any) -> None:
        constructor(self, *arguments, **options)
        for part in self.channels if isinstance(self, Transport) else [self]:
            part.is_staged = True

    return make


def _train(stage_map: StageMap, case: Case, staged: bool) -> Result:
    grid = start_process_group(stage_map, timeout_seconds=30)
    if not staged:
        return train(grid, build_engine(grid, stage_map.cuts, case), case)
    with (
        mock.patch.object(Transport, "__init__", _staged(Transport.__init__)),
        mock.patch.object(Group, "__init__", _staged(Group.__init__)),
    ):
        return train(grid, build_engine(grid, stage_map.cuts, case), case)


@pytest.mark.parametrize("schedule", [pytest.param("1f1b", marks=pytest.mark.slow), "2bw"])
def test_the_way_through_the_host_gives_the_same_bits(schedule: Any) -> None:
    settings = EngineSettings("adamw", schedule=schedule, zero_stage=1, precision="bf16", seed=1)
    case = Case(settings, micro_batch_size=1, steps=4, learning_rate=1e-3, evaluate_every=2)
    straight, staged = (merge(run_on_ranks(_train, 4, toy_map(2, 2), case, way, timeout=60)) for way in (False, True))
    assert (straight.losses == staged.losses).all() and (straight.norms == staged.norms).all()
    for name, weights in straight.weights.items():
        np.testing.assert_array_equal(staged.weights[name], weights, err_msg=name)
