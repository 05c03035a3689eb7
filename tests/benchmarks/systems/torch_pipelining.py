"""torch.distributed.pipelining's Schedule1F1B over transformers' layers, two stages, tied embeddings kept tied."""

import torch
import torch.distributed as dist
from peers import Stage, build_model, pretraining_loss
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from workload import CLIP, LAYERS, MICRO_BATCHES, Batch, adamw, measure, start


def clip_across_stages(stage: Stage) -> None:
    """Clip the gradients of all stages by their common norm, counting the tied weight once."""
    counted = [
        parameter.grad
        for parameter in stage.parameters()
        if parameter is not stage.tied_weight or stage.embeddings is not None
    ]
    squared_norm = torch.nn.utils.get_total_norm(counted) ** 2
    dist.all_reduce(squared_norm)
    torch.nn.utils.clip_grads_with_norm_(stage.parameters(), CLIP, squared_norm.sqrt())


def main() -> None:
    arguments = start("torch_pipelining")
    rank = dist.get_rank()
    module = Stage(build_model(arguments.attention), arguments.cut, is_first=rank == 0, precision=arguments.precision)
    stage = PipelineStage(module, rank, dist.get_world_size(), torch.device("cpu"))
    schedule = Schedule1F1B(stage, MICRO_BATCHES, loss_fn=pretraining_loss)
    optimizer = adamw(list(module.parameters()))

    def train_step(batch: Batch) -> float:
        losses: list[torch.Tensor] = []
        if rank == 0:
            schedule.step(batch.input_ids, batch.token_type_ids, return_outputs=False)
        else:
            positions = {"positions": batch.masked_positions} if arguments.head == "masked" else {}
            schedule.step(target=batch.target(arguments.head), losses=losses, return_outputs=False, **positions)
        dist.all_reduce(module.tied_weight.grad)
        clip_across_stages(module)
        optimizer.step()
        optimizer.zero_grad()
        return sum(loss.item() for loss in losses) / MICRO_BATCHES

    measure(arguments, train_step, cut=f"{arguments.cut} | {LAYERS - arguments.cut}")


if __name__ == "__main__":
    main()
