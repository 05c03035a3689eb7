"""Predictions do not depend on the cut, the replicas or the batch size: every example once, in its place."""

import numpy as np
import pytest

from ds_bert.data.features import Features, make_features
from ds_bert.engine.process_group import start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.stage_map import StageMap
from ds_bert.training.data_loader import DataLoader
from ds_bert.training.starting_model import build_engine
from tests.support.fine_tuning import BEAM, objective
from tests.support.models import CHOICES, toy_model
from tests.support.processes import run_on_ranks
from tests.support.toy import toy_map

MODELS = (
    ("bert", "sequence-classification"),
    ("bert", "question-answering"),
    ("bert", BEAM),
    ("bert", "multiple-choice"),
    ("bert", "token-classification"),
    ("albert", "token-classification"),
)
EXAMPLES = 131  # more than 64 micro-batches of one: several pieces
Outputs = list[dict[str, np.ndarray]]


def examples(head: str) -> Features:
    """Sequences long enough for five starts of an answer and five ends."""
    chance, per_example = np.random.default_rng(5), CHOICES if head == "multiple-choice" else 1
    lengths = chance.integers(9, 31, EXAMPLES * per_example)
    sequences = [chance.integers(5, 40, length).tolist() for length in lengths]
    columns = {"context_begin": np.full(EXAMPLES, 2), "context_end": lengths - 1} if head == BEAM else {}
    return make_features(sequences, lengths, 0, columns, per_example)


def predict(stage_map: StageMap, size: int) -> dict[tuple[str, str], Outputs]:
    """All examples' outputs of every model, on rank 0."""
    grid, found = start_process_group(stage_map, timeout_seconds=60), {}
    for family, head in MODELS:
        config = toy_model(family, head)
        engine = build_engine(config, head, objective(head), grid, EngineSettings(seed=3), 1)
        found[family, head], loss = DataLoader(examples(head), engine).predict(examples(head).lengths, size)
        assert loss is None  # nothing is known of these examples
        assert len(found[family, head]) == (EXAMPLES if grid.rank == 0 else 0)
    return found


def predict_on(stages: int, replicas: int, size: int) -> dict[tuple[str, str], Outputs]:
    stage_map = toy_map(stages, replicas)
    ranks = run_on_ranks(predict, stage_map.world_size, stage_map, size)
    return next(found for found in ranks if found[MODELS[0]])


@pytest.fixture(scope="module")
def alone() -> dict[tuple[str, str], Outputs]:
    return predict_on(1, 1, 1)


SLOW = [(1, 1, 7), (2, 2, 200), (4, 1, 200)]


@pytest.mark.parametrize(
    ("stages", "replicas", "size"),
    [(2, 1, 16), (2, 2, 3), (1, 2, 1), *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)],
)
def test_predictions_are_the_same(alone: dict[tuple[str, str], Outputs], stages: int, replicas: int, size: int) -> None:
    elsewhere = predict_on(stages, replicas, size)
    for (family, head), outputs in alone.items():
        of_tokens = head in ("token-classification", "question-answering")
        for length, wanted, found in zip(examples(head).lengths, outputs, elsewhere[family, head], strict=True):
            assert wanted.keys() == found.keys()
            for name in wanted:
                one, other = wanted[name], found[name]
                if of_tokens:
                    one, other = one[:length], other[:length]  # behind them there is padding
                assert np.abs(one - other).max() < 1e-5, (family, head, name)
