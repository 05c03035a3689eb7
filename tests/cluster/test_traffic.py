"""Traffic against messages counted one by one."""

from collections import Counter
from itertools import permutations

import pytest

from ds_bert.cluster.traffic import (
    Link,
    Reduction,
    Volumes,
    describe_links,
    place_ranks,
    spell_bytes,
    traffic_between,
    volumes_of_step,
)
from ds_bert.modeling.costs import LayerCost

LAYERS = [
    LayerCost("embeddings", 1000, 0, 0),
    LayerCost("encoder layer 0", 300, 0, 0),
    LayerCost("encoder layer 1", 400, 0, 0),
    LayerCost("head", 50, 0, 0, tied_parameters=800, tied_to="embeddings"),
]
SIZES = {"hidden_size": 8, "tokens": 16, "micro_batch_size": 2, "micro_batches": 3}


def ring_all_reduce(ring: list[int], payload: int) -> Counter:
    """Pass a chunk on from every rank in each of 2 (n - 1) rounds; bytes by (sender, receiver)."""
    sent: Counter = Counter()
    n = len(ring)
    for _ in range(2 * (n - 1)):
        for place_ in range(n):
            sent[ring[place_], ring[(place_ + 1) % n]] += payload // n
    return sent


def test_a_step_is_counted() -> None:
    fp32 = volumes_of_step(LAYERS, (0, 2, 4), **SIZES)
    one_message = 2 * 16 * 8 * 4  # (B, T, H) in fp32
    assert fp32.boundary == 3 * (2 * one_message + 2 * 16)
    assert fp32.reductions == (Reduction((0,), 8 * 500), Reduction((0, 1), 8 * 800), Reduction((1,), 8 * 450))
    bf16 = volumes_of_step(LAYERS, (0, 2, 4), **SIZES, bytes_per_value=2, zero_stage=1)
    assert bf16.boundary == 3 * (one_message + 2 * 16)
    assert bf16.reductions[0] == Reduction((0,), 6 * 500)


def test_tied_within_a_stage_is_no_traffic_of_its_own() -> None:
    assert volumes_of_step(LAYERS, (0, 4), **SIZES).reductions == (Reduction((0,), 8 * 1750),)


@pytest.mark.parametrize("nodes", [(0, 0, 0, 0, 1, 1, 1, 1), (0, 1, 0, 1, 0, 1, 0, 1), (0, 0, 1, 1, 2, 2, 3, 3)])
def test_links_carry_what_messages_add_up_to(nodes: tuple[int, ...]) -> None:
    ranks = ((0, 1, 2, 3), (7, 4, 6, 5))
    volumes = Volumes(96, (Reduction((0,), 640), Reduction((0, 1), 320), Reduction((1,), 64)))
    sent: Counter = Counter()
    for replica in range(4):
        sent[ranks[0][replica], ranks[1][replica]] += 96
    for reduction in volumes.reductions:
        ring = [rank for stage in reduction.stages for rank in ranks[stage]]
        sent += ring_all_reduce(ring, reduction.payload // 2)  # the payload counts both halves
    expected: Counter = Counter()
    for (sender, receiver), count in sent.items():
        if nodes[sender] != nodes[receiver]:
            low, high = sorted((nodes[sender], nodes[receiver]))
            expected[low, high] += count
    links = traffic_between(ranks, nodes, volumes)
    assert {pair: link.total for pair, link in links.items()} == dict(expected)


def total(ranks: tuple[tuple[int, ...], ...], nodes: tuple[int, ...], volumes: Volumes) -> int:
    return sum(link.total for link in traffic_between(ranks, nodes, volumes).values())


@pytest.mark.parametrize(("boundary", "gradients"), [(10, 1000), (1000, 10), (100, 100)])
@pytest.mark.parametrize("nodes", [(0, 0, 1, 1), (0, 1, 1, 1)])
def test_no_order_of_four_ranks_moves_fewer_bytes(boundary: int, gradients: int, nodes: tuple[int, ...]) -> None:
    volumes = Volumes(boundary, (Reduction((0,), gradients), Reduction((1,), gradients)))
    best = min(total((order[:2], order[2:]), nodes, volumes) for order in permutations(range(4)))
    assert total(place_ranks(2, 2, nodes, volumes), nodes, volumes) == best


def test_replicas_share_a_node_where_gradients_are_more() -> None:
    volumes = Volumes(1, (Reduction((0,), 1000), Reduction((1,), 1000)))
    assert place_ranks(2, 4, (0,) * 4 + (1,) * 4, volumes) == ((0, 1, 2, 3), (4, 5, 6, 7))


def test_stages_share_a_node_where_activations_are_more() -> None:
    volumes = Volumes(1000, (Reduction((0,), 1), Reduction((1,), 1)))
    ranks = place_ranks(2, 4, (0,) * 4 + (1,) * 4, volumes)
    assert sorted(rank for stage in ranks for rank in stage) == list(range(8))
    links = traffic_between(ranks, (0,) * 4 + (1,) * 4, volumes)
    assert links[0, 1].boundaries == 0


def test_large_pipelines_are_placed_in_blocks() -> None:
    volumes = Volumes(100, tuple(Reduction((stage,), 100) for stage in range(4)))
    nodes = tuple(rank // 4 for rank in range(16))
    pure = [
        tuple(tuple(stage * 4 + replica for replica in range(4)) for stage in range(4)),
        tuple(tuple(stage + replica * 4 for replica in range(4)) for stage in range(4)),
    ]
    placed = place_ranks(4, 4, nodes, volumes)
    assert total(placed, nodes, volumes) <= min(total(ranks, nodes, volumes) for ranks in pure)


def test_lines_for_people() -> None:
    (line,) = describe_links(("a", "b"), {(0, 1): Link(1_500_000, 2_000)})
    assert line.startswith("link a – b: 1.5 MB a step") and "1.5 MB, sums of weight gradients 2.0 kB" in line
    assert describe_links(("a",), {}) == ["links: nothing crosses nodes"]
    assert [spell_bytes(count) for count in (0, 999, 1000, 2.5e9)] == ["0 B", "999 B", "1.0 kB", "2.5 GB"]
