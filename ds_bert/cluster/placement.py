"""Which ranks run what, so that the network between nodes carries as little as can be."""

from collections.abc import Iterator, Sequence
from itertools import product

from ds_bert.cluster.traffic import Volumes, traffic_between


def place(stages: int, replicas: int, node_of_rank: Sequence[int], volumes: Volumes) -> tuple[tuple[int, ...], ...]:
    """Return the ranks of each stage, one for each replica, that move the fewest bytes between nodes.

    The grid of stages and replicas is handed out in rectangular blocks, of all shapes that divide it, along either
    direction. A block of one stage puts the stage's replicas beside each other; a block of one replica its stages.

    Args:
        stages, replicas: of the pipeline; together as many as there are ranks.
        node_of_rank: the node of every rank.
        volumes: what a step moves.
    """

    def bytes_between_nodes(candidate: tuple[tuple[int, ...], ...]) -> int:
        return sum(link.total for link in traffic_between(candidate, node_of_rank, volumes).values())

    return min(_candidates(stages, replicas), key=bytes_between_nodes)


def _candidates(stages: int, replicas: int) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Yield placements, PipeDream's own first: it wins where others are no better."""
    for height, width in product(_divisors(stages), reversed(_divisors(replicas))):
        for across, inner_across in product((False, True), repeat=2):
            ranks = _numbered(stages, replicas, (height, width), across, inner_across)
            yield tuple(tuple(ranks[stage, replica] for replica in range(replicas)) for stage in range(stages))


def _numbered(
    stages: int, replicas: int, block: tuple[int, int], across: bool, inner_across: bool
) -> dict[tuple[int, int], int]:
    """Number the cells block by block; ``across``: down the stages before the next replica."""

    def turn(cell: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        (down, inner_down), (right, inner_right) = divmod(cell[0], block[0]), divmod(cell[1], block[1])
        outer, inner = (down, right), (inner_down, inner_right)
        return (outer[::-1] if across else outer), (inner[::-1] if inner_across else inner)

    cells = sorted(product(range(stages), range(replicas)), key=turn)
    return {cell: rank for rank, cell in enumerate(cells)}


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
