"""Meta-gradients of network, generator and step sizes are those of a plain loop, on every cut, however many tasks."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from ds_bert.meta.task import Learner, Method, task_passes
from ds_bert.modeling.adapters import Selection
from tests.support.meta import MetaCase, Reference, first_weights, meta_config, meta_gradients

TASKS, TOLERANCE = 4, 1e-6
PASSES = task_passes(num_batches=4, inner_epochs=1, every=2)
LEARNERS = {
    "full": Learner(PASSES, Method(max_grad_norm=0.5), Selection(), step_size_range=(-9, 9)),
    "adapters": Learner(PASSES, Method(max_grad_norm=0.5), Selection(parameter_efficient=True, global_adapters=True)),
    "no global adapters": Learner(PASSES, Method(), Selection(parameter_efficient=True)),
    "warped, upper layers, euclidean, two epochs": Learner(
        task_passes(3, 2, 0), Method(euclidean=True), Selection(warp_layers=True, min_layer_with_grad=1)
    ),
    "warped adapters": Learner(
        PASSES, Method(max_grad_norm=0.5), Selection(parameter_efficient=True, global_adapters=True, warp_layers=True)
    ),
    "mean of the states": Learner(PASSES, Method(max_grad_norm=0.5), Selection(parameter_efficient=True)),
}
LEARNERS = {name: replace(learner, step_size_range=(-9.0, 9.0)) for name, learner in LEARNERS.items()}


def case(name: str, **changes: Any) -> MetaCase:
    learner = replace(LEARNERS[name], **changes)
    selection, pooling = learner.selection, "mean" if name.startswith("mean") else "cls"
    config = meta_config(selection.parameter_efficient, pooling=pooling)
    config.meta_learner = {"warp_layers": selection.warp_layers}
    batches = 1 + max(item.part for item in learner.passes)
    return MetaCase(config, learner, TASKS, batches)


@cache
def reference(name: str, first_order: bool = True) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and gradient of the plain loop; with first order, of the objective with its inner gradients held."""
    chosen = case(name)
    plain, weights = Reference(chosen.config, chosen.learner), first_weights(chosen.config)
    slow = {key: value.clone().requires_grad_() for key, value in weights.items()}
    total = sum(plain.objective(slow, task, [] if first_order else None, 1 / TASKS) for task in chosen.tasks)
    total.backward()
    trained = chosen.learner.selection.is_trained
    found = {
        key: (np.zeros(value.shape) if value.grad is None or not trained(key) else value.grad.numpy())
        for key, value in slow.items()
    }
    return total.item(), found


def assert_equal(found: tuple[float, dict[str, np.ndarray]], wanted: tuple[float, dict[str, np.ndarray]]) -> None:
    assert found[0] == pytest.approx(wanted[0], rel=1e-9)
    assert found[1].keys() == wanted[1].keys()
    for name, gradient in wanted[1].items():
        bound = TOLERANCE * np.abs(gradient).max() + 1e-12
        assert np.abs(found[1][name] - gradient).max() <= bound, name


@pytest.mark.parametrize("stages", [1, *(pytest.param(stages, marks=pytest.mark.slow) for stages in (2, 4))])
def test_first_order_on_every_cut_and_with_any_tasks_in_flight(stages: int) -> None:
    chosen = [(name, case(name, tasks_in_flight=tasks)) for name in LEARNERS for tasks in (1, 2, 4)]
    again = [(name, replace(one, recompute=True)) for name, one in chosen if name in ("full", "adapters")]
    found = meta_gradients(stages, 1, [one for _, one in (*chosen, *again)])
    for (name, _), gradients in zip((*chosen, *again), found, strict=True):
        assert_equal(gradients, reference(name))


@pytest.mark.slow
def test_dropout_is_the_same_on_every_cut_and_replica_with_any_tasks_in_flight_and_recomputed() -> None:
    def dropping(tasks: int, recompute: bool = False) -> MetaCase:
        return replace(case("full", tasks_in_flight=tasks), config=meta_config(False, dropout=0.2), recompute=recompute)

    wanted, *found = meta_gradients(1, 1, [dropping(1), dropping(2), dropping(4, True)])
    found += meta_gradients(2, 1, [dropping(1), dropping(4), dropping(2, True)])
    found += meta_gradients(1, 2, [dropping(1), dropping(2, True)])
    for gradients in found:
        assert_equal(gradients, wanted)
    assert wanted[0] != pytest.approx(reference("full")[0], rel=1e-3)  # something was dropped


def test_replicas_share_tasks_out_and_average_meta_gradients_only() -> None:
    (found,) = meta_gradients(1, 2, [case("adapters", tasks_in_flight=2)])
    assert_equal(found, reference("adapters"))


@pytest.mark.parametrize("name", ["full", "adapters"])
def test_second_order_is_autograd_through_the_unrolled_loop(name: str) -> None:
    (found,) = meta_gradients(1, 1, [case(name, first_order=False)])
    assert_equal(found, reference(name, first_order=False))
    first, second = reference(name)[1], reference(name, first_order=False)[1]
    assert max(np.abs(first[key] - second[key]).max() for key in first) > 1e-4  # it makes a difference here


@pytest.mark.parametrize("name", ["full", "adapters"])
def test_the_plain_loop_agrees_with_finite_differences(name: str) -> None:
    """Of the first-order objective: inner gradients are held where the weights move."""
    chosen = case(name)
    plain, weights = Reference(chosen.config, chosen.learner), first_weights(chosen.config)
    task, kept, size = chosen.tasks[0], [], 1e-5
    slow = {key: value.clone().requires_grad_() for key, value in weights.items()}
    plain.objective(slow, task, kept, 1.0).backward()
    random = torch.Generator().manual_seed(0)
    trained = [key for key in weights if chosen.learner.selection.is_trained(key)]
    for key in [*trained[::5], *(key for key in trained if key.startswith("meta."))]:
        direction = torch.randn(weights[key].shape, generator=random).double()
        with torch.no_grad():
            there, back = (
                plain.objective(weights | {key: weights[key] + sign * size * direction}, task, kept, 1.0).item()
                for sign in (1, -1)
            )
        gradient = slow[key].grad
        along = 0.0 if gradient is None else (gradient * direction).sum().item()
        assert (there - back) / (2 * size) == pytest.approx(along, rel=1e-6, abs=2e-10), key
