"""ds_bert's own engine, two stages; its MLM logits are at the masked positions always."""

import argparse

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

from ds_bert.engine.engine import Engine, MicroBatch
from ds_bert.engine.settings import EngineSettings
from ds_bert.modeling.families.bert import bert_config
from ds_bert.stage_map import StageMap
from ds_bert.tasks.pretraining import split_batch
from ds_bert.training.build import build_pretraining_engine


def build_engine(arguments: argparse.Namespace) -> Engine:
    """Join the processes and build this one's stage: embeddings and ``cut`` encoder layers, or the others and head."""
    stage_map = StageMap((0,) * (1 + arguments.cut) + (1,) * (LAYERS - arguments.cut + 1), ((0,), (1,)))
    settings = EngineSettings(
        weight_decay=WEIGHT_DECAY, max_grad_norm=CLIP, precision=arguments.precision, seed=SEED, trace=False
    )
    return build_pretraining_engine(bert_config(MODEL), stage_map, settings, MICRO_BATCH, MICRO_BATCHES)


def micro_batches(batch: Batch, engine: Engine) -> list[MicroBatch]:
    """Give the first stage its inputs and the last stage its labels."""
    result = []
    for number, part in enumerate(batch.micro_batches()):
        inputs, labels = split_batch({name: tensor.numpy() for name, tensor in vars(part).items()})
        result.append(
            MicroBatch(
                number,
                (MICRO_BATCH, LENGTH, 0),  # 0: nothing is padded
                inputs=inputs if engine.place.is_first else None,
                labels=labels if engine.place.is_last else None,
            )
        )
    return result


def main() -> None:
    arguments = take_core("ds_bert")
    engine = build_engine(arguments)

    def train_step(batch: Batch) -> float:
        _, sums = engine.train_batch(micro_batches(batch, engine), LEARNING_RATE)  # the same on every rank
        return engine.objective.report(sums)["loss"] / dist.get_world_size()

    measure(arguments, train_step, cut=f"{arguments.cut} | {LAYERS - arguments.cut}")


if __name__ == "__main__":
    main()
