"""What few-shot learning keeps while it measures."""

import weakref
from typing import Any

import pytest
import torch

from ds_bert.engine.module import StageModule
from ds_bert.engine.process_group import start_process_group
from ds_bert.meta.arguments import FewShotArguments
from ds_bert.meta.few_shot import Adaptation
from tests.support.few_shot import few_shot_learner, make_episode, recipe_of
from tests.support.meta import meta_config
from tests.support.processes import run_on_ranks
from tests.support.toy import toy_map


class _Activations:
    """Counts the bytes of a stage's activations, in and out, that something still refers to."""

    def __init__(self, module: StageModule) -> None:
        self.alive = self.peak = 0
        self.forward, module.forward = module.forward, self.watched

    def watched(self, carry: Any, *more: Any) -> Any:
        outputs = self.forward(carry, *more)
        for tensor in (item for item in (*carry.values(), *outputs.values()) if item.is_floating_point()):
            self._count(tensor.nbytes)
            weakref.finalize(tensor, self._count, -tensor.nbytes)
        return outputs

    def _count(self, size: int) -> None:
        self.alive += size
        self.peak = max(self.peak, self.alive)


def _peak(stages: int, batches: int) -> int:
    """Of measuring a test set of so many batches."""
    grid = start_process_group(toy_map(stages, 1), timeout_seconds=30)
    course = Adaptation(1, 6, 0.0, 0, 0.0, eval_batch_size=4, seed=0)
    learner = few_shot_learner(grid, meta_config(False), course, torch.float32)
    watch = _Activations(learner.module)
    learner.learn(recipe_of("prototypes", FewShotArguments()), [make_episode(0, 1, 4 * batches)], [0])
    return watch.peak


@pytest.mark.parametrize("stages", [1, 2])
def test_a_large_test_set_keeps_no_more_activations_than_a_small_one(stages: int) -> None:
    small, large = (run_on_ranks(_peak, stages, stages, batches) for batches in (2, 12))
    assert all(0 < many < 1.5 * few for few, many in zip(small, large, strict=True))
