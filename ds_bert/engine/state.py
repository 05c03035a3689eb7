"""A run's state as one process sees it: which elements of which tensors lie here, and where the others do."""

from dataclasses import dataclass
from math import prod

import torch

WEIGHTS = "weights"
PREVIOUS = "previous_weights"


@dataclass(frozen=True)
class Share:
    """What lies on this process of one tensor of the state.

    A tensor of 12 elements that ranks 0 and 1 share has the holders (0, 0, 8) and (1, 8, 12); on rank 1 ``part`` has
    its last four elements, and ``begin`` is 8.

    Args:
        kind: `WEIGHTS`, `PREVIOUS`, or a moment of the optimizer's, such as "exp_avg".
        name: the parameter's.
        shape: of the whole tensor.
        part: the elements that lie here, in one dimension, maybe none: a view of the memory that the engine computes
            with, so what is copied into it is loaded.
        begin: elements of the whole tensor before them.
        holders: (rank, first element, end) of each process's part that is not empty; nothing where every process that
            has the parameter holds all of it.
    """

    kind: str
    name: str
    shape: tuple[int, ...]
    part: torch.Tensor
    begin: int = 0
    holders: tuple[tuple[int, int, int], ...] = ()

    def sources(self, rank: int) -> tuple[tuple[int, int, int], ...]:
        """(rank, first element, end) of the parts that together are the whole tensor, for a process that wants it.

        Args:
            rank: of that process, which is one of those that have the parameter.
        """
        return self.holders or ((rank, 0, prod(self.shape)),)
