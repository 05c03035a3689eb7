"""Bytes that an optimizer step moves, between which nodes, and the order of ranks that moves the fewest.

A boundary carries the activations of every micro-batch forth and their gradients back. A reduction sums the gradients
of parameters that several ranks hold, and hands the sum, or under ZeRO 1 the updated weights, back to all of them:
as a ring of n ranks, in which every rank sends the next one (n − 1)/n of the payload.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

from ds_bert.modeling.costs import LayerCost

_GRADIENT_BYTES = 4  # gradients are summed in fp32, whatever the weights are
_MASK_BYTES = 1


@dataclass(frozen=True)
class Reduction:
    """Gradients summed over all replicas of some stages."""

    stages: tuple[int, ...]
    """One stage, or, for tied parameters, all that hold them."""
    payload: int
    """Bytes that the ring moves forth and back for these parameters."""


@dataclass(frozen=True)
class Volumes:
    """What one optimizer step moves, wherever the ranks are."""

    boundary: int
    """Bytes across each stage boundary of one replica, both directions together."""
    reductions: tuple[Reduction, ...]


@dataclass(frozen=True)
class Link:
    """Bytes between two nodes in one optimizer step, both directions together."""

    boundaries: int
    reductions: int

    @property
    def total(self) -> int:
        """All bytes."""
        return self.boundaries + self.reductions


def volumes_of_step(
    layers: Sequence[LayerCost],
    cuts: Sequence[int],
    *,
    hidden_size: int,
    tokens: int,
    micro_batch_size: int,
    micro_batches: int,
    bytes_per_value: int = 4,
    zero_stage: int = 0,
) -> Volumes:
    """Count an optimizer step's bytes; with shorter sequences than ``tokens`` it moves fewer.

    Args:
        layers: of the whole model, from `ds_bert.modeling.costs.layer_costs`.
        cuts: layer bounds of the stages, one more than stages.
        hidden_size: width of the activations, H.
        tokens: of a sequence, T.
        micro_batch_size: sequences of a micro-batch, B.
        micro_batches: of an optimizer step and replica, m.
        bytes_per_value: 4 for fp32, 2 for bf16 and fp16.
        zero_stage: 0 or 1.
    """
    positions = tokens * micro_batch_size * micro_batches
    payload = _GRADIENT_BYTES + (bytes_per_value if zero_stage == 1 else _GRADIENT_BYTES)
    parameters = _parameters_by_holders(layers, cuts)
    return Volumes(
        boundary=positions * (2 * hidden_size * bytes_per_value + _MASK_BYTES),
        reductions=tuple(Reduction(stages, payload * count) for stages, count in sorted(parameters.items()) if count),
    )


def _parameters_by_holders(layers: Sequence[LayerCost], cuts: Sequence[int]) -> Mapping[tuple[int, ...], int]:
    """Count the parameters that exactly these stages hold."""
    stage_of = [stage for stage, (begin, end) in enumerate(pairwise(cuts)) for _ in range(begin, end)]
    holders = {layer.name: {stage} for layer, stage in zip(layers, stage_of, strict=True)}
    tied: dict[str, int] = defaultdict(int)
    for layer, stage in zip(layers, stage_of, strict=True):
        if layer.tied_to:
            holders[layer.tied_to].add(stage)
            tied[layer.tied_to] = layer.tied_parameters
    counts: dict[tuple[int, ...], int] = defaultdict(int)
    for layer, stage in zip(layers, stage_of, strict=True):
        counts[tuple(sorted(holders[layer.name]))] += tied[layer.name]
        counts[(stage,)] += layer.parameters - tied[layer.name]
    return counts


def traffic_between(
    stage_to_ranks: Sequence[Sequence[int]], node_of_rank: Sequence[int], volumes: Volumes
) -> dict[tuple[int, int], Link]:
    """Return what travels between each two nodes (the lower number first) that exchange anything.

    Args:
        stage_to_ranks: replica r of stage s runs on rank ``stage_to_ranks[s][r]``.
        node_of_rank: the node of every rank.
        volumes: what a step moves.
    """
    boundaries: dict[tuple[int, int], int] = defaultdict(int)
    reductions: dict[tuple[int, int], float] = defaultdict(float)
    for before, after in pairwise(stage_to_ranks):
        for pair in _crossings(zip(before, after, strict=True), node_of_rank):
            boundaries[pair] += volumes.boundary
    for reduction in volumes.reductions:
        ring = [rank for stage in reduction.stages for rank in stage_to_ranks[stage]]
        share = reduction.payload * (len(ring) - 1) / len(ring)
        for pair in _crossings(zip(ring, [*ring[1:], ring[0]], strict=True), node_of_rank):
            reductions[pair] += share
    pairs = sorted(boundaries.keys() | reductions.keys())
    return {pair: Link(boundaries[pair], round(reductions[pair])) for pair in pairs}


def _crossings(pairs: Iterable[tuple[int, int]], node_of_rank: Sequence[int]) -> list[tuple[int, int]]:
    """The two nodes of each pair of ranks that do not share one."""
    nodes = [sorted((node_of_rank[a], node_of_rank[b])) for a, b in pairs]
    return [(low, high) for low, high in nodes if low != high]


def describe_links(names: Sequence[str], links: Mapping[tuple[int, int], Link]) -> list[str]:
    """Return a line for each two nodes that exchange anything, by their ``names``."""
    if not links:
        return ["links: nothing crosses nodes"]
    return [
        f"link {names[low]} – {names[high]}: {spell_bytes(link.total)} a step (activations and their gradients "
        f"{spell_bytes(link.boundaries)}, sums of weight gradients {spell_bytes(link.reductions)})"
        for (low, high), link in links.items()
    ]


def spell_bytes(count: float) -> str:
    """Return a number of bytes for people."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def place_ranks(
    stages: int, replicas: int, node_of_rank: Sequence[int], volumes: Volumes
) -> tuple[tuple[int, ...], ...]:
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
