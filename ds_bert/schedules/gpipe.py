"""GPipe (Huang et al. 2019): all forwards of a global batch, then all backwards."""

from collections.abc import Iterator

from ds_bert.schedules.instructions import Backward, Forward


def gpipe(stage: int, num_stages: int, micro_batches: int) -> Iterator[Forward | Backward]:
    """Order one global batch on ``stage``; every stage does the same.

    All m micro-batches are in flight at once. The pipeline idles for the same share as under 1F1B. Any m works.
    """
    for micro_batch in range(micro_batches):
        yield Forward(micro_batch)
    for micro_batch in range(micro_batches):
        yield Backward(micro_batch)
