"""1F1B with flush (Narayanan et al. 2019, PipeDream; Fan et al. 2021, DAPPLE)."""

from collections.abc import Iterator

from ds_bert.schedules.instructions import Backward, Forward


def one_f_one_b(stage: int, num_stages: int, micro_batches: int) -> Iterator[Forward | Backward]:
    """Order one global batch on ``stage``: fill, then alternate one forward and one backward, then drain.

    Stage s runs ``min(p - 1 - s, m)`` forwards ahead, so at most ``p - s`` micro-batches are in flight. With m
    micro-batches on p equal stages the pipeline idles for the share (p - 1) / (m + p - 1) of the time. Any m works.
    """
    warmup = min(num_stages - 1 - stage, micro_batches)
    for micro_batch in range(warmup):
        yield Forward(micro_batch)
    for micro_batch in range(warmup, micro_batches):
        yield Forward(micro_batch)
        yield Backward(micro_batch - warmup)
    for micro_batch in range(micro_batches - warmup, micro_batches):
        yield Backward(micro_batch)
