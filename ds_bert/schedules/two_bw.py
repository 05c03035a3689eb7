"""PipeDream-2BW (Narayanan et al. 2021, section 3.1): 1F1B that never drains, on two weight versions.

Micro-batches are numbered through the whole run; micro-batch i belongs to global batch t = i // m. Its forward, its
recompute and its backward use weight version max(t - 1, 0), so the rule is W(t+1) = W(t) - v * grad f(W(max(t-1, 0))).
"""

from collections.abc import Iterator

from ds_bert.schedules.instructions import Backward, Forward


def warmup(stage: int, num_stages: int) -> int:
    """Micro-batches that ``stage`` keeps in flight: forwards it is ahead of its backwards, p - 1 - s."""
    return num_stages - 1 - stage


def weight_version(global_batch: int) -> int:
    """Version of the weights that a global batch computes with; batches 0 and 1 both use the first."""
    return max(global_batch - 1, 0)


def two_bw(
    stage: int, num_stages: int, micro_batches: int, global_batch: int, drained: int = 0
) -> Iterator[Forward | Backward]:
    """Order what ``stage`` does from the first to the last forward of a global batch.

    Each forward is followed by the backward that brings the stage back to its `warmup`; the last backwards of a global
    batch thus happen during the next one, or in `drain`. Micro-batches below ``drained`` have had theirs.
    """
    ahead = warmup(stage, num_stages)
    for micro_batch in range(global_batch * micro_batches, (global_batch + 1) * micro_batches):
        yield Forward(micro_batch)
        if micro_batch - ahead >= drained:
            yield Backward(micro_batch - ahead)


def drain(stage: int, num_stages: int, done: int, drained: int = 0) -> Iterator[Backward]:
    """Order the backwards that are open on ``stage`` after ``done`` forwards, all of them from ``drained`` on."""
    for micro_batch in range(max(drained, done - warmup(stage, num_stages)), done):
        yield Backward(micro_batch)
