"""Few-shot learning of a toy: its tasks, and a learner on this process's stage."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import BertConfig

from ds_bert.data.features import Features, make_features
from ds_bert.engine.module import StageModule
from ds_bert.engine.process_group import Grid
from ds_bert.meta.arguments import FewShotArguments
from ds_bert.meta.few_shot import Adaptation, FewShot, Recipe
from ds_bert.meta.few_shot_job import Model
from ds_bert.meta.tasks.episode import Episode
from ds_bert.modeling.adapters import meta_layers
from ds_bert.modeling.model import carry_declaration
from tests.support.meta import CLASSES, first_weights
from tests.support.toy import VOCABULARY

LEARNER = {"parameter_efficient": False, "warp_layers": False, "min_layer_with_grad": 0, "euclidean": False}


def few_shot_learner(grid: Grid, config: BertConfig, course: Adaptation, dtype: torch.dtype = torch.float64) -> FewShot:
    """This process's stage, with `first_weights`."""
    module = StageModule(meta_layers(config), grid.stage_map.cuts, grid, course.seed, recompute=False).to(dtype)
    everything = first_weights(config)
    for name, parameter in module.parameters_by_name().items():
        parameter.data.copy_(everything[name])
    return FewShot(module, carry_declaration(config, dtype), grid, course, at_once=2)


def recipe_of(method: str, arguments: FewShotArguments) -> Recipe:
    """The job's own recipe, for a model of which all is adapted."""
    model: Any = SimpleNamespace(learner=LEARNER)
    return Model.recipe(model, method, arguments)


def make_episode(seed: int, shots: int, queries: int) -> Episode:
    """Random pairs of uneven lengths: so many of each class to learn from, so many in all to judge."""
    random = np.random.default_rng(seed)
    support = _features(random, np.repeat(np.arange(CLASSES), shots).tolist())
    return Episode(support, _features(random, random.integers(CLASSES, size=queries).tolist()), CLASSES, f"task {seed}")


def _features(random: np.random.Generator, labels: Sequence[int]) -> Features:
    lengths = random.integers(3, 12, len(labels)).tolist()
    rows = [random.integers(5, VOCABULARY, length).tolist() for length in lengths]
    firsts = [int(random.integers(1, length + 1)) for length in lengths]
    return make_features(rows, firsts, 0, {"labels": np.array(labels)})
