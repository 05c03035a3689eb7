"""ds_bert's own engine, two stages; its MLM logits are at the masked positions always."""

import argparse
import math
from typing import Literal

import torch.distributed as dist
from workload import (
    CLIP,
    LAYERS,
    LEARNING_RATE,
    LENGTH,
    MICRO_BATCH,
    MICRO_BATCHES,
    MODEL,
    SEED,
    WEIGHT_DECAY,
    Batch,
    measure,
    take_core,
)

from ds_bert.engine.engine import Engine
from ds_bert.engine.execution import MicroBatch
from ds_bert.engine.optimizer import StepResult
from ds_bert.engine.process_group import start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.modeling.model import build_config
from ds_bert.stage_map import StageMap
from ds_bert.training.pretraining import PretrainingObjective, split_batch
from ds_bert.training.starting_model import build_engine


def stage_engine(arguments: argparse.Namespace, schedule: Literal["1f1b", "2bw"]) -> Engine:
    """Join the processes and build this one's stage: embeddings and ``cut`` encoder layers, or the others and head."""
    stage_map = StageMap((0,) * (1 + arguments.cut) + (1,) * (LAYERS - arguments.cut + 1), ((0,), (1,)))
    settings = EngineSettings(
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=CLIP,
        precision=arguments.precision,
        seed=SEED,
        schedule=schedule,
    )
    grid = start_process_group(stage_map, timeout_seconds=1800)
    config, objective = build_config(MODEL), PretrainingObjective()
    return build_engine(config, "pretraining", objective, grid, settings, MICRO_BATCHES)


def micro_batches(batch: Batch, engine: Engine) -> list[MicroBatch]:
    """Give the first stage its inputs and the last stage its labels."""
    result = []
    for number, part in enumerate(batch.micro_batches()):
        inputs, labels = split_batch({name: tensor.numpy() for name, tensor in vars(part).items()})
        result.append(
            MicroBatch(
                number,
                (MICRO_BATCH, LENGTH, 0),  # 0: nothing is padded
                inputs=inputs if engine.grid.is_first else None,
                labels=labels if engine.grid.is_last else None,
            )
        )
    return result


def main(system: str = "ds_bert", schedule: Literal["1f1b", "2bw"] = "1f1b") -> None:
    arguments = take_core(system)
    engine = stage_engine(arguments, schedule)

    def losses(results: list[StepResult]) -> list[float]:
        """This rank's share of the losses, which are the same on every rank."""
        return [engine.objective.report(result.sums)["loss"] / dist.get_world_size() for result in results]

    def train_step(batch: Batch) -> float:
        return next(iter(losses(engine.train_batch(micro_batches(batch, engine), LEARNING_RATE))), math.nan)

    cut = f"{arguments.cut} | {LAYERS - arguments.cut}"
    measure(arguments, train_step, cut, last_losses=lambda: losses(engine.drain()))


if __name__ == "__main__":
    main()
