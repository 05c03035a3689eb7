"""Meters without a job around them."""

from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import torch

from ds_bert.engine.process_group import Grid
from ds_bert.engine.settings import EngineSettings
from ds_bert.engine.timeline import Timeline
from ds_bert.stage_map import StageMap
from ds_bert.training.meter import Meter, Workload

ONE = StageMap((0, 0, 0), ((0,),))


def fake_engine(stage_map: StageMap = ONE, rank: int = 0, device: str = "cpu", **settings: Any) -> SimpleNamespace:
    """What a meter asks of an engine; nothing computes."""
    return SimpleNamespace(
        grid=Grid(stage_map, rank, torch.device(device), 30.0),
        timeline=Timeline(torch.device("cpu")),
        settings=EngineSettings(**settings),
        optimizer=SimpleNamespace(frozen={}),
        control=None,
    )


def meter_of(engine: Any, work: Workload | None = None, peak_tflops: float = 0.0) -> Meter:
    """The meter of one process, which believes all others to be like it, on machines node0, node1, …"""
    ranks = range(engine.grid.world_size)

    def gather(group: Any, mine: Any, world_size: int) -> list[Any]:
        return [type(mine)(f"node{rank}", mine.peak, mine.is_whole) for rank in ranks]

    with patch("ds_bert.training.meter.gather", gather):
        return Meter(cast(Any, engine), work or Workload(10.0), peak_tflops)
