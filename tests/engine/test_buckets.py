import numpy as np
import pytest
import torch

from ds_bert.engine.buckets import Bucket
from ds_bert.engine.process_group import Grid, start_process_group
from ds_bert.engine.transport import Group
from tests.support.processes import run_on_ranks
from tests.support.state import whole
from tests.support.toy import toy_map

SHAPES = {"matrix": (5, 7), "vector": (3,), "large": (1000, 40)}
GRIDS = {"whole": False, "sharded": True}


def _parameters(seed: int = 0) -> dict[str, torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in SHAPES.items()}


def _bucket(dtype: torch.dtype = torch.float32) -> Bucket:
    return Bucket(_parameters(), None, [0], 0, dtype, torch.float32, sharded=False)


def test_values_stay_and_gradients_are_views_of_one_buffer() -> None:
    bucket, expected = _bucket(), _parameters()
    for name, parameter in bucket.parameters.items():
        assert torch.equal(parameter, expected[name])
        (parameter * 2).sum().backward()
        (parameter * 3).sum().backward()
    assert bucket.gradients[0].sum().item() == 5 * sum(np.prod(shape) for shape in SHAPES.values())
    assert all((parameter.main_grad == 5).all() for parameter in bucket.parameters.values())


def test_many_small_bf16_gradients_are_not_lost() -> None:
    """A bfloat16 sum of ones stops at 256."""
    bucket = _bucket(torch.bfloat16)
    vector = bucket.parameters["vector"]
    for _ in range(300):
        vector.sum().backward()
    assert vector.main_grad.tolist() == [300.0] * 3
    assert torch.equal(whole(bucket, bucket.master)["vector"], _parameters()["vector"])


def test_squared_norm_keeps_digits_that_one_fp32_sum_loses() -> None:
    bucket = _bucket()
    bucket.gradients[0].copy_(torch.rand(bucket.gradients[0].shape, generator=torch.Generator().manual_seed(3)) + 1.0)
    exact = bucket.gradients[0].double().square().sum().item()
    assert bucket.squared_norm(0).item() == pytest.approx(exact, rel=1e-7)


def _sharing(sharded: bool) -> dict[str, np.ndarray | float]:
    grid: Grid = start_process_group(toy_map(1, 3), timeout_seconds=30)
    bucket = Bucket(
        _parameters(), Group(grid, [0, 1, 2], False), [0, 1, 2], grid.rank, torch.float32, torch.float32, sharded
    )
    for parameter in bucket.parameters.values():
        (parameter * (grid.rank + 1)).sum().backward()
    if work := bucket.begin_reduction(0):
        work.wait()
    norm = bucket.squared_norm(0).item()
    bucket.master.sub_(bucket.own(bucket.gradients[0]))
    if work := bucket.publish(0):
        work.wait()
    updated = whole(bucket, bucket.master)
    moments = torch.zeros_like(bucket.master)
    for share in bucket.shares("exp_avg", moments):
        share.part.copy_(updated[share.name].reshape(-1)[share.begin : share.begin + len(share.part)] * 2)
    again = whole(bucket, moments)
    assert all(torch.equal(again[name], value * 2) for name, value in updated.items())
    assert all(torch.equal(updated[name], parameter) for name, parameter in bucket.parameters.items())
    return {"norm": norm, **{name: value.numpy() for name, value in updated.items()}}


@pytest.mark.parametrize("sharded", [False, True])
def test_replicas_sum_update_and_publish(sharded: bool) -> None:
    by_rank = run_on_ranks(_sharing, 3, sharded)
    elements = sum(np.prod(shape) for shape in SHAPES.values())
    assert sum(found["norm"] for found in by_rank) == pytest.approx(36 * elements, rel=1e-6)
    for found in by_rank:
        for name, initial in _parameters().items():
            np.testing.assert_array_equal(found[name], (initial.detach() - 6).numpy())


def _part_norms() -> tuple[np.ndarray, list[list[int]]]:
    """Squared norms of the weights and of their doubles, added up over all shards; sizes of this process's parts."""
    grid: Grid = start_process_group(toy_map(1, 3), timeout_seconds=30)
    ranks = [0, 1, 2]
    bucket = Bucket(_parameters(), Group(grid, ranks, False), ranks, grid.rank, torch.float32, torch.float32, True)
    squares = bucket.squared_norms(bucket.master, bucket.master * 2)
    work = bucket.begin_sum(squares)
    assert work is not None
    work.wait()
    return squares.numpy(), [part.tolist() for part in bucket.parts(bucket.master)]


def test_norms_of_tensors_that_lie_on_several_processes() -> None:
    by_rank = run_on_ranks(_part_norms, 3)
    exact = [(value.double() ** 2).sum().item() for value in _parameters().values()]
    for squares, _ in by_rank:
        np.testing.assert_allclose(squares, [exact, 4 * np.array(exact)], rtol=1e-6)
    for index, value in enumerate(_parameters().values()):
        assert [element for _, parts in by_rank for element in parts[index]] == value.flatten().tolist()
    assert [bool(parts[0]) for _, parts in by_rank] == [True, False, False]
    assert all(parts[2] for _, parts in by_rank), "a shard's boundary is to fall inside a tensor"


def test_a_bucket_that_is_not_shared_has_nothing_to_add_up() -> None:
    bucket = _bucket()
    assert bucket.begin_sum(bucket.squared_norms(bucket.master)) is None
    assert [len(part) for part in bucket.parts(bucket.master)] == [np.prod(shape) for shape in SHAPES.values()]


SIZES = [[(7,)], [(1024,)], [(16, 64), (3,)], [(97, 32), (97,), (32,)], [(50, 100), (1,), (2000,), (31, 33), (5,)]]


def _shards(shapes: list[tuple[int, ...]], size: int) -> list[Bucket]:
    """A bucket as each of ``size`` processes has it; one that shares nothing for none."""
    ranks = list(range(10, 10 + size)) or [10]
    found = []
    for rank in ranks:
        generator = torch.Generator().manual_seed(1)
        values = {str(number): torch.randn(shape, generator=generator) for number, shape in enumerate(shapes)}
        parameters = {name: torch.nn.Parameter(value) for name, value in values.items()}
        found.append(Bucket(parameters, None, ranks, rank, torch.float32, torch.float32, sharded=size > 0))
        for name, value in values.items():
            parameters[name].main_grad.copy_(value * 3)
    return found


@pytest.mark.parametrize("size", range(2, 8))
@pytest.mark.parametrize("shapes", SIZES, ids=str)
def test_shards_begin_at_whole_rows_and_leave_the_norm_as_it_is(shapes: list[tuple[int, ...]], size: int) -> None:
    (whole_bucket,), shards = _shards(shapes, 0), _shards(shapes, size)
    rows = [bucket.own(bucket.gradients[0]).storage_offset() for bucket in shards]
    assert all(offset % 1024 == 0 for offset in rows)
    together = sum(bucket.squared_norm(0).item() for bucket in shards)
    assert together == pytest.approx(whole_bucket.squared_norm(0).item(), rel=1e-15, abs=0)  # only the order of float64


@pytest.mark.parametrize("size", [0, *range(2, 8)])
@pytest.mark.parametrize("shapes", SIZES, ids=str)
def test_the_shares_of_all_processes_are_the_whole(shapes: list[tuple[int, ...]], size: int) -> None:
    buckets = _shards(shapes, size)
    of_ranks = {bucket.ranks[bucket.index]: list(bucket.shares("weights", bucket.master)) for bucket in buckets}
    for number, shape in enumerate(shapes):
        shares = {rank: found[number] for rank, found in of_ranks.items()}
        for reader, share in shares.items():
            assert (share.kind, share.name, share.shape) == ("weights", str(number), shape)
            pieces = []
            for holder, begin, end in share.sources(reader):
                held = shares[holder]
                assert begin == held.begin and end == begin + len(held.part) and begin < end
                pieces.append(held.part)
            expected = buckets[0].parameters[str(number)].detach().reshape(-1)
            assert torch.equal(torch.cat(pieces), expected)
