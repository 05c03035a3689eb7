"""transformers' model on one process with logits at the masked positions only: what one core can do without waste."""

from peers import WholeModel, build_model
from torch.nn.utils import clip_grad_norm_
from workload import CLIP, MICRO_BATCHES, Batch, adamw, autocast, measure, start


def main() -> None:
    arguments = start("one_core")
    model = WholeModel(build_model(arguments.attention), head="masked")
    optimizer = adamw(list(model.parameters()))

    def train_step(batch: Batch) -> float:
        loss_sum = 0.0
        for micro_batch in batch.micro_batches():
            with autocast(arguments):
                loss = model(micro_batch) / MICRO_BATCHES
            loss.backward()
            loss_sum += loss.item()
        clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        return loss_sum

    measure(arguments, train_step)


if __name__ == "__main__":
    main()
