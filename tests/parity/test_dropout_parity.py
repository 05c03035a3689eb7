"""With dropout, too, a trajectory does not depend on cut, replicas, recomputation or what comes between steps."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from ds_bert.engine.settings import EngineSettings
from tests.support.reference import Trajectory, deviation
from tests.support.toy import toy_map
from tests.support.training import Case, train_cases

CASE = Case(EngineSettings("sgd", max_grad_norm=1.0, seed=5), micro_batch_size=2, dropout=0.1)
CASES = {
    "dropout": CASE,
    "recompute": CASE.change(recompute=True),
    "evaluated": replace(CASE, evaluate_every=3),
    "no dropout": replace(CASE, dropout=0.0),
}
MAPS = {"1x1": (1, 1), "2x1": (2, 1), "2x2": (2, 2), "4x1": (4, 1)}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("2x2", "4x1")]


@cache
def _trajectories(name: str) -> dict[str, Trajectory]:
    return dict(zip(CASES, train_cases(toy_map(*MAPS[name]), list(CASES.values())), strict=True))


def _equal(found: Trajectory, expected: Trajectory) -> bool:
    """To the bit."""
    return (
        np.array_equal(found.losses, expected.losses)
        and np.array_equal(found.norms, expected.norms)
        and all(np.array_equal(found.weights[name], value) for name, value in expected.weights.items())
    )


@pytest.mark.parametrize("name", ["2x1", *SLOW])
def test_cut_and_replicas_change_nothing(name: str) -> None:
    found = deviation(_trajectories(name)["dropout"], _trajectories("1x1")["dropout"])
    assert max(found.loss, found.norm, found.weights) <= 1e-5
    assert found.key_bias <= 1e-7


@pytest.mark.parametrize("name", ["1x1", "2x1", *SLOW])
def test_activation_checkpointing_changes_nothing(name: str) -> None:
    assert _equal(_trajectories(name)["recompute"], _trajectories(name)["dropout"])


@pytest.mark.parametrize("name", ["1x1", "2x1", *SLOW])
def test_evaluation_between_steps_changes_nothing(name: str) -> None:
    assert _equal(_trajectories(name)["evaluated"], _trajectories(name)["dropout"])


def test_dropout_changes_the_trajectory() -> None:
    trajectories = _trajectories("1x1")
    assert deviation(trajectories["no dropout"], trajectories["dropout"]).loss > 1e-4
