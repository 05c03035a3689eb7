import numpy as np

from ds_bert.data.sampler import below, permutation, random_bits, uniform

MASK = (1 << 64) - 1


def splitmix(state: int) -> int:
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


def reference(*counters: int) -> int:
    state = 0
    for counter in counters:
        state = splitmix(((state ^ (counter & MASK)) + 0x9E3779B97F4A7C15) & MASK)
    return state


def test_bits_equal_plain_integer_arithmetic() -> None:
    rows, columns = np.array([-1, 0, 7, 1 << 40]), np.arange(5)
    bits = random_bits(-3, rows[:, None], columns[None, :])
    assert bits.shape == (4, 5)
    assert [[int(bit) for bit in row] for row in bits] == [
        [reference(-3, int(r), int(c)) for c in columns] for r in rows
    ]


def test_order_of_counters_matters() -> None:
    assert random_bits(1, 2) != random_bits(2, 1)


def test_uniform_and_below_are_even() -> None:
    bits = random_bits(5, np.arange(200_000))
    values = uniform(bits)
    assert values.min() >= 0.0 and values.max() < 1.0
    assert abs(values.mean() - 0.5) < 0.003 and abs(values.var() - 1 / 12) < 0.001
    counts = np.bincount(below(bits, 7), minlength=7)
    assert len(counts) == 7 and np.all(np.abs(counts / len(bits) - 1 / 7) < 0.003)


def test_neighbouring_counters_are_uncorrelated() -> None:
    values = uniform(random_bits(0, np.arange(100_000)))
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.01


def test_permutation_holds_everything_once_and_differs() -> None:
    first, second = permutation(1000, 1, 0), permutation(1000, 1, 1)
    assert sorted(first) == list(range(1000))
    assert (first != second).mean() > 0.9
