"""The learning rate against transformers' schedulers, step by step."""

import pytest
import torch
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from ds_bert.training.settings import learning_rate

PEAK = 3e-4


def reference(course: str, total: int, warmup: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=PEAK)
    if course == "constant":
        scheduler = get_constant_schedule_with_warmup(optimizer, warmup)
    else:
        make = {"linear": get_linear_schedule_with_warmup, "cosine": get_cosine_schedule_with_warmup}[course]
        scheduler = make(optimizer, warmup, total)
    rates = []
    for _ in range(total):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("course", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(("total", "warmup"), [(20, 0), (20, 1), (20, 7), (20, 20), (5, 9), (1, 0)])
def test_as_transformers_has_it(course: str, total: int, warmup: int) -> None:
    found = [learning_rate(step, total, warmup, PEAK, course) for step in range(total)]
    assert found == pytest.approx(reference(course, total, warmup), rel=1e-12, abs=1e-18)


@pytest.mark.parametrize(("total", "warmup"), [(20, 0), (20, 7), (5, 9)])
def test_as_bert_s_own_code_has_it(total: int, warmup: int) -> None:
    """A polynomial decay over all steps, which those of the warm-up, if there is one, are taken out of."""
    for step in range(total):
        decayed, rising = PEAK * (1 - min(step, total) / total), PEAK * step / max(warmup, 1)
        is_warmup = float(step < warmup)
        expected = (1 - is_warmup) * decayed + is_warmup * rising
        assert learning_rate(step, total, warmup, PEAK, "linear_from_start") == pytest.approx(expected, rel=1e-12)


def test_it_stays_at_zero_beyond_the_end() -> None:
    assert learning_rate(30, 20, 5, PEAK, "linear") == learning_rate(30, 20, 5, PEAK, "linear_from_start") == 0.0
    assert learning_rate(30, 20, 5, PEAK, "cosine") == pytest.approx(0.0)
