"""PipeDream-2BW (Narayanan et al. 2021, section 3.1): 1F1B that never drains, on two weight versions.

Micro-batches are numbered through the whole run; micro-batch i belongs to global batch t = i // m. Its forward, its
recompute and its backward use weight version max(t - 1, 0), so the rule is W(t+1) = W(t) - v * grad f(W(max(t-1, 0))).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ds_bert.schedules.schedule import Backward, Forward, Order, Schedule, one_f_one_b


@dataclass(frozen=True)
class TwoBW(Schedule):
    """Global batches overlap: the last backwards of one happen during the next, or in `drain`."""

    order: Order = one_f_one_b

    @property
    def never_drains(self) -> bool:
        """It does not."""
        return True

    def weight_version(self, global_batch: int) -> int:
        """One update old; batches 0 and 1 both use the first version."""
        return max(global_batch - 1, 0)

    def step(
        self, stage: int, num_stages: int, micro_batches: int, global_batch: int, drained: int = 0
    ) -> Iterator[Forward | Backward]:
        """Order what ``stage`` does from the first to the last forward of a global batch.

        Each forward is followed by the backward that brings the stage back to `warmup` micro-batches in flight. With
        2 stages and 2 micro-batches, stage 0 does F0 F1 B0 in global batch 0 and F2 B1 F3 B2 in global batch 1.
        Micro-batches below ``drained`` have had their backward.
        """
        ahead = warmup(stage, num_stages)
        for micro_batch in range(global_batch * micro_batches, (global_batch + 1) * micro_batches):
            yield Forward(micro_batch)
            if micro_batch - ahead >= drained:
                yield Backward(micro_batch - ahead)

    def drain(self, stage: int, num_stages: int, done: int, drained: int = 0) -> Iterator[Backward]:
        """Order the backwards that are open on ``stage`` after ``done`` forwards, all of them from ``drained`` on."""
        for micro_batch in range(max(drained, done - warmup(stage, num_stages)), done):
            yield Backward(micro_batch)

    def refusal(self, num_stages: int, micro_batches: int, scales_loss: bool) -> str | None:
        """Refuse too few micro-batches for two versions, and losses that are scaled."""
        if micro_batches < num_stages:
            return (
                f"--gradient_accumulation_steps is {micro_batches}, but --schedule 2bw on {num_stages} stages needs at "
                f"least {num_stages}, or two weight versions would not be enough (PipeDream's "
                "gradient_accumulation_steps g at depth d is d x g here)"
            )
        if scales_loss:
            return (
                "--schedule 2bw cannot be combined with --fp16: the next global batch is under way before it is known "
                "whether this one overflowed, so it could not be computed again at a lower loss scale; use --bf16"
            )
        return None


def warmup(stage: int, num_stages: int) -> int:
    """Micro-batches that ``stage`` keeps in flight: forwards it is ahead of its backwards, p - 1 - s."""
    return num_stages - 1 - stage
