"""What a schedule alone gains: stages that sleep instead of computing, so that no core is shared and no layer differs.

    python -m torch.distributed.run --standalone --nproc_per_node 2 tests/benchmarks/schedules.py

A forward sleeps 20 ms, a backward 40. Prints, for 1F1B, GPipe and 2BW and several numbers of micro-batches, the seconds
of a step, the ratio of 1F1B's to it, and the ratio that theory gives.
"""

import argparse
import time
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import nn

from ds_bert.command_line import launcher_world
from ds_bert.engine.engine import Engine
from ds_bert.engine.execution import MicroBatch
from ds_bert.engine.module import StageModule
from ds_bert.engine.process_group import Grid, start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.modeling.model import Field
from ds_bert.stage_map import StageMap

FORWARD, BACKWARD = 0.020, 0.040


class _Sleep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        time.sleep(FORWARD)
        return hidden + weight

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        time.sleep(BACKWARD)
        return grads[0], grads[0].sum(0)


class SleepingLayer(nn.Module):
    """Sleeps as long as a layer would compute."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index
        self.weight = nn.Parameter(torch.zeros(64))

    def hugging_face_name(self, local_name: str) -> str:
        return f"layer.{self.index}.{local_name}"

    def forward(self, carry: dict[str, torch.Tensor], labels: Any = None) -> dict[str, torch.Tensor]:
        return {"hidden": _Sleep.apply(carry["hidden"], self.weight)}


class SumObjective:
    """The sum of the last layer's output."""

    sums = ("loss",)

    def counts(self, labels: Any) -> torch.Tensor:
        return torch.ones(1, dtype=torch.float64)

    def forward(self, outputs: Any, labels: Any, totals: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loss = outputs["hidden"].sum()
        return loss, loss.detach().double().reshape(1)

    def report(self, sums: torch.Tensor) -> dict[str, float]:
        return {"loss": sums[0].item()}


def seconds_per_step(grid: Grid, schedule: Any, micro_batches: int, steps: int) -> float:
    """Median time of a step after two to warm up."""
    layers = [partial(SleepingLayer, index) for index in range(grid.num_stages)]
    module = StageModule(layers, range(grid.num_stages + 1), grid, seed=0, recompute=False)
    settings = EngineSettings("sgd", schedule=schedule)

    def carry(rows: int) -> list[Field]:
        return [Field("hidden", (rows, 64), torch.float32, True)]

    engine = Engine(module, carry, SumObjective(), settings, grid, micro_batches)
    labels = {"none": torch.zeros(1)} if grid.is_last else None
    inputs = {"hidden": torch.ones(8, 64)} if grid.is_first else None
    batch = [MicroBatch(number, (8,), inputs, labels) for number in range(micro_batches)]
    times = []
    for _ in range(steps + 2):
        begin = time.perf_counter()
        engine.train_batch(batch, 0.0)
        times.append(time.perf_counter() - begin)
    engine.drain()
    return median(times[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--micro_batches", type=int, nargs="+", default=[2, 4, 8])
    arguments = parser.parse_args()
    _, stages = launcher_world()
    grid = start_process_group(StageMap(tuple(range(stages)), tuple((rank,) for rank in range(stages))), 60)
    work = FORWARD + BACKWARD
    for micro_batches in [count for count in arguments.micro_batches if count >= stages]:
        schedules = ("1f1b", "gpipe", "2bw")
        times = [seconds_per_step(grid, schedule, micro_batches, arguments.steps) for schedule in schedules]
        for schedule, seconds in zip(schedules, times, strict=True):
            theory = (micro_batches + stages - 1) / micro_batches if schedule == "2bw" else 1.0
            if grid.rank == 0:
                print(
                    f"p {stages}  m {micro_batches}  {schedule:5}  {seconds * 1e3:6.1f} ms a step, "
                    f"{micro_batches * work / seconds:.1%} busy, {times[0] / seconds:.3f} x 1F1B (theory {theory:.3f})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
