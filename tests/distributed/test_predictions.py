"""Predictions do not depend on the cut, the replicas or the batch size: every example once, in its place."""

import numpy as np
import pytest

from ds_bert.data.features import Features, make_features
from ds_bert.engine.process_group import start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.stage_map import StageMap
from ds_bert.tasks.classification import ClassificationObjective
from ds_bert.training.build import build_engine
from ds_bert.training.feed import Feed
from tests.support.models import toy_model
from tests.support.processes import run_on_ranks
from tests.support.toy import toy_map

HEADS = ("sequence-classification", "question-answering")
EXAMPLES = 131  # more than 64 micro-batches of one: several pieces


def examples() -> Features:
    chance = np.random.default_rng(5)
    sequences = [chance.integers(5, 40, length).tolist() for length in chance.integers(3, 30, EXAMPLES)]
    return make_features(sequences, [*map(len, sequences)], pad_id=0)


def predict(stage_map: StageMap, size: int) -> list[dict[str, np.ndarray]]:
    """All examples' outputs of both heads, on rank 0."""
    grid = start_process_group(stage_map, timeout_seconds=60)
    found: list[dict[str, np.ndarray]] = [{} for _ in range(EXAMPLES if grid.rank == 0 else 0)]
    for head in HEADS:
        objective, settings = ClassificationObjective(3), EngineSettings(seed=3)
        engine = build_engine(toy_model("bert", head), head, objective, grid, settings, size, 1)
        outputs = Feed(examples(), engine).predict(examples().lengths, size)
        assert len(outputs) == len(found)
        for place, output in zip(found, outputs, strict=True):
            place.update(output)
    return found


def predict_on(stages: int, replicas: int, size: int) -> list[dict[str, np.ndarray]]:
    stage_map = toy_map(stages, replicas)
    return next(part for part in run_on_ranks(predict, stage_map.world_size, stage_map, size) if part)


@pytest.fixture(scope="module")
def alone() -> list[dict[str, np.ndarray]]:
    return predict_on(1, 1, 1)


@pytest.mark.parametrize(("stages", "replicas", "size"), [(1, 1, 7), (2, 1, 16), (2, 2, 3), (4, 1, 200), (1, 2, 1)])
def test_predictions_are_the_same(alone: list[dict[str, np.ndarray]], stages: int, replicas: int, size: int) -> None:
    lengths = examples().lengths
    for place, (wanted, found) in enumerate(zip(alone, predict_on(stages, replicas, size), strict=True)):
        assert np.abs(wanted["logits"] - found["logits"]).max() < 1e-5
        for name in ("start_logits", "end_logits"):
            tokens = slice(int(lengths[place]))
            assert np.abs(wanted[name][tokens] - found[name][tokens]).max() < 1e-5
