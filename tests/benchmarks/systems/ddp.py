"""transformers' BertForPreTraining under torch DistributedDataParallel: what Trainer runs on two processes."""

from contextlib import nullcontext

import torch.distributed as dist
from peers import WholeModel, build_model
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from workload import CLIP, Batch, adamw, autocast, measure, start


def main() -> None:
    arguments = start("ddp")
    model = DistributedDataParallel(WholeModel(build_model(arguments.attention), arguments.head))
    optimizer = adamw(list(model.parameters()))

    def train_step(batch: Batch) -> float:
        loss_sum = 0.0
        mine = batch.micro_batches()[dist.get_rank() :: dist.get_world_size()]
        for index, micro_batch in enumerate(mine):
            is_last = index == len(mine) - 1
            with nullcontext() if is_last else model.no_sync():
                with autocast(arguments):
                    loss = model(micro_batch) / len(mine)
                loss.backward()
            loss_sum += loss.item()
        clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        return loss_sum / dist.get_world_size()

    measure(arguments, train_step)


if __name__ == "__main__":
    main()
