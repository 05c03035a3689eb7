"""Stock DeepSpeed's PipelineEngine over transformers' layers, two stages, embeddings tied by TiedLayerSpec."""

import argparse
from collections.abc import Iterator
from typing import Any

import deepspeed
import torch.distributed as dist
from deepspeed.pipe import LayerSpec, PipelineModule, TiedLayerSpec
from peers import EncoderLayer, HeadTransform, OtherEmbeddings, WordEmbeddings, build_model, pretraining_loss
from workload import CLIP, LAYERS, LEARNING_RATE, MICRO_BATCH, MICRO_BATCHES, WEIGHT_DECAY, Batch, measure, start


class CutModule(PipelineModule):
    """A PipelineModule cut after the embeddings and ``cut`` encoder layers."""

    def __init__(self, cut: int, **arguments: Any):
        self.cut = cut
        super().__init__(**arguments)

    def _partition_layers(self, method: str) -> None:
        self.parts = [0, 2 + self.cut, len(self._layer_specs)]
        self._set_bounds(start=self.parts[self.stage_id], stop=self.parts[self.stage_id + 1])


def layers(attention: str) -> list[LayerSpec]:
    """Return embeddings (2), encoder layers (6) and head (2); every spec takes its weights from the same model."""
    model = build_model(attention)
    return [
        TiedLayerSpec("word", WordEmbeddings, model),
        LayerSpec(OtherEmbeddings, model),
        *(LayerSpec(EncoderLayer, model, index) for index in range(LAYERS)),
        LayerSpec(HeadTransform, model),
        TiedLayerSpec("word", WordEmbeddings, model, forward_fn=WordEmbeddings.decode),
    ]


def configuration(precision: str) -> dict:
    """Return DeepSpeed's configuration: fp32 without ZeRO, bf16 with ZeRO 1 and fp32 gradient accumulation."""
    adamw = {"lr": LEARNING_RATE, "weight_decay": WEIGHT_DECAY, "torch_adam": True, "fused": True}
    configuration = {
        "train_micro_batch_size_per_gpu": MICRO_BATCH,
        "gradient_accumulation_steps": MICRO_BATCHES,
        "gradient_clipping": CLIP,
        "optimizer": {"type": "AdamW", "params": adamw},
        "steps_per_print": 1_000_000,
    }
    if precision == "bf16":
        configuration["bf16"] = {"enabled": True}
        configuration["data_types"] = {"grad_accum_dtype": "fp32"}
        configuration["zero_optimization"] = {"stage": 1}
    return configuration


def micro_batches(batch: Batch, arguments: argparse.Namespace) -> Iterator[tuple]:
    """Yield (inputs, target) as PipelineEngine reads them, on the first stage and on the last."""
    for part in batch.micro_batches():
        positions = (part.masked_positions,) if arguments.head == "masked" else ()
        yield (part.input_ids, part.token_type_ids, *positions), part.target(arguments.head)


def main() -> None:
    arguments = start("deepspeed")
    deepspeed.init_distributed("gloo")
    module = CutModule(
        arguments.cut, layers=layers(arguments.attention), num_stages=dist.get_world_size(), loss_fn=pretraining_loss
    )
    engine, *_ = deepspeed.initialize(model=module, config=configuration(arguments.precision))
    engine.train()

    def train_step(batch: Batch) -> float:
        loss = engine.train_batch(micro_batches(batch, arguments))  # the same on every rank
        return loss.item() / dist.get_world_size()

    measure(
        arguments, train_step, cut=f"{arguments.cut} | {LAYERS - arguments.cut}", zero=engine.zero_optimization_stage()
    )


if __name__ == "__main__":
    main()
