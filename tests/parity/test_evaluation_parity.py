"""Evaluation sums what transformers computes, for any batch size and unequal numbers of micro-batches."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ds_bert.engine.process_group import start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.stage_map import StageMap
from tests.support.processes import run_on_ranks
from tests.support.reference import reference_model
from tests.support.toy import global_batch, toy_config, toy_map
from tests.support.training import Case, build_engine, micro_batches

CASE = Case(EngineSettings(seed=4), micro_batch_size=2, dropout=0.1)
# (rows, micro-batch size): with two replicas 2 and 2 micro-batches, 2 and 1 with a short last one, 1 and 0
EVALUATIONS = [(8, 2), (7, 3), (3, 5)]


def _evaluate(stage_map: StageMap) -> list[np.ndarray]:
    grid = start_process_group(stage_map, timeout_seconds=30)
    engine = build_engine(grid, stage_map.cuts, CASE)
    return [engine.evaluate(micro_batches(grid, global_batch(0, rows), size)).numpy() for rows, size in EVALUATIONS]


@torch.no_grad()
def _reference_sums(rows: int) -> list[float]:
    batch = global_batch(0, rows)
    tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
    model = reference_model(toy_config(), CASE.settings.seed).eval()
    output = model(tensors["input_ids"], tensors["attention_mask"].long(), tensors["token_type_ids"])
    chosen = tensors["masked_labels"] != -100
    logits = output.prediction_logits.gather(1, tensors["masked_positions"][:, :, None].expand(-1, -1, 97))[chosen]
    words, pairs = tensors["masked_labels"][chosen], tensors["next_sentence_label"]
    return [
        measure
        for scores, labels in ((logits, words), (output.seq_relationship_logits, pairs))
        for measure in (
            F.cross_entropy(scores, labels, reduction="sum").item(),
            len(labels),
            (scores.argmax(1) == labels).sum().item(),
        )
    ]


@pytest.mark.parametrize(
    "stages, replicas, ranks", [(1, 1, None), (1, 2, None), (2, 2, [[3, 1], [0, 2]]), (3, 2, None)]
)
def test_sums_are_those_of_transformers(stages: int, replicas: int, ranks: list[list[int]] | None) -> None:
    by_rank = run_on_ranks(_evaluate, stages * replicas, toy_map(stages, replicas, ranks))
    for index, (rows, _) in enumerate(EVALUATIONS):
        assert all(np.array_equal(sums[index], by_rank[0][index]) for sums in by_rank)
        np.testing.assert_allclose(by_rank[0][index], _reference_sums(rows), rtol=1e-6)
