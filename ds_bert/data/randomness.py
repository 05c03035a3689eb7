"""Random numbers that follow from what they are for, not from what was drawn before them.

``random_bits(seed, epoch, example, position)`` is the same 64 bits in every process and for every way to batch, because
nothing is drawn in sequence: the counters themselves are hashed, by the finaliser of splitmix64. Whole arrays at once.
"""

import numpy as np

_WEYL = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def random_bits(*counters: "int | np.ndarray") -> np.ndarray:
    """Hash integer counters, broadcast against each other, to uniform uint64 of their common shape (at least 1-d).

    Put the counters that vary least first: arrays grow only as they are met. The order of the counters matters.
    """
    state = np.zeros(1, dtype=np.uint64)
    for counter in counters:
        state = _mix((state ^ _as_uint64(counter)) + _WEYL)
    return state


def _as_uint64(counter: "int | np.ndarray") -> np.ndarray:
    if isinstance(counter, np.ndarray):
        return counter.astype(np.uint64, copy=False)
    return np.array([counter & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64)


def _mix(state: np.ndarray) -> np.ndarray:
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    return state ^ (state >> np.uint64(31))


def uniform(bits: np.ndarray) -> np.ndarray:
    """Turn random bits into float64 in [0, 1)."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def below(bits: np.ndarray, limit: "int | np.ndarray") -> np.ndarray:
    """Turn random bits into int64 in [0, limit), for 1 <= limit < 2³²; the bias is below limit / 2³²."""
    limits = np.asarray(limit).astype(np.uint64)
    return (((bits >> np.uint64(32)) * limits) >> np.uint64(32)).astype(np.int64)


def permutation(count: int, *counters: int) -> np.ndarray:
    """Return the random order of ``count`` things that the counters name, as int64 of shape (count,)."""
    return np.argsort(random_bits(*counters, np.arange(count)), kind="stable")
