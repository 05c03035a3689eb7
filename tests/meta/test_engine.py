"""What the engine of meta-training keeps, and how its step sizes stay in bounds."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from ds_bert.engine.process_group import start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.meta.task import Learner, Method, task_passes
from ds_bert.modeling.adapters import HEAD_LAYERS, Selection
from tests.support.meta import MetaCase, first_weights, make_tasks, meta_config, meta_engine, meta_gradients
from tests.support.processes import run_on_ranks
from tests.support.toy import toy_map


class _Saved:
    """Counts the bytes that autograd keeps for backward passes."""

    alive = peak = 0

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor, self.size = tensor, tensor.numel() * tensor.element_size()
        _Saved.alive += self.size
        _Saved.peak = max(_Saved.peak, _Saved.alive)

    def __del__(self) -> None:
        _Saved.alive -= self.size


def _peaks(cases: list[MetaCase]) -> list[int]:
    grid, peaks = start_process_group(toy_map(1, 1), timeout_seconds=30), []
    for case in cases:
        engine = meta_engine(grid, case, EngineSettings("sgd"))
        tasks = make_tasks(case.num_tasks, case.num_batches)
        _Saved.peak = _Saved.alive = 0
        with torch.autograd.graph.saved_tensors_hooks(_Saved, lambda saved: saved.tensor):
            engine.train_batch(tasks, 0.1)
        peaks.append(_Saved.peak)
    return peaks


def _case(num_batches: int, first_order: bool, **changes: Any) -> MetaCase:
    learner = Learner(task_passes(num_batches, 1, 0), Method(), Selection(), first_order=first_order)
    return MetaCase(meta_config(False), replace(learner, **changes), 1, num_batches, precision="fp32")


def test_first_order_keeps_as_much_for_ten_inner_steps_as_for_two() -> None:
    cases = [_case(count, first_order) for first_order in (True, False) for count in (3, 11)]
    (peaks,) = run_on_ranks(_peaks, 1, cases, timeout=120)
    assert 0 < peaks[1] < 1.1 * peaks[0]
    assert peaks[3] > 3 * peaks[2] > peaks[0]  # second order keeps every step: the count would show it


def test_step_sizes_stay_in_bounds() -> None:
    ((_, moved),) = meta_gradients(1, 1, [_case(3, True, step_size_range=(0.5, 0.6))])
    sizes = [name for name in moved if name.startswith("meta.step_size.")]
    assert sizes and all(moved[name].max() < -0.3 for name in sizes)  # from at most 0.12 up to 0.5


@pytest.mark.parametrize("efficient", [False, True])
def test_a_head_that_is_held_keeps_step_sizes_of_zero(efficient: bool) -> None:
    """They are neither trained nor brought up to the lower bound, and the head itself is meta-trained."""
    selection = Selection(parameter_efficient=efficient, global_adapters=efficient, warp_layers=True)
    case = _case(3, True, selection=selection, step_size_range=(1e-8, 1.0))
    config = meta_config(efficient)
    config.meta_learner = {"warp_layers": True}
    case = replace(case, config=config)
    assert all(not first_weights(config)[f"meta.step_size.head.{layer}"].any() for layer in HEAD_LAYERS)
    ((_, moved),) = meta_gradients(1, 1, [case])
    assert all(not moved[f"meta.step_size.head.{layer}"].any() for layer in HEAD_LAYERS)
    assert moved["meta.head.0.weight"].any() and moved["meta.step_size.labels"].any()
