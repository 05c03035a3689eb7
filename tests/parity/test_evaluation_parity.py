"""Evaluation sums what transformers computes, for any batch size and unequal numbers of micro-batches.

So does prediction on the way, wherever the answers are known.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ds_bert.engine.process_group import start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.stage_map import StageMap
from ds_bert.training import starting_model
from tests.support import fine_tuning
from tests.support.models import toy_model
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


HEADS = [
    (family, head)
    for family in ("bert", "albert")
    for head in (
        "sequence-classification",
        "token-classification",
        "multiple-choice",
        "question-answering",
        fine_tuning.BEAM,
    )
]


def _predict(stage_map: StageMap) -> list[tuple[list[float], list[int]]]:
    """Of every head, on rank 0: its loss for three sizes of a micro-batch, and how many micro-batches there were."""
    grid, found = start_process_group(stage_map, timeout_seconds=60), []
    for family, head in HEADS:
        objective = fine_tuning.objective(head)
        settings = EngineSettings(seed=CASE.settings.seed)
        engine = starting_model.build_engine(toy_model(family, head), head, objective, grid, settings, 4)
        batch = fine_tuning.examples(head, 0)
        losses, kept = [], []
        for size in (1, 2, 8):
            outputs, sums = engine.predict(fine_tuning.micro_batches(grid, head, batch, size))
            losses.append(objective.report(sums)["loss"])
            kept.append(len(outputs))
        found.append((losses, kept))
    return found


@pytest.mark.parametrize(("stages", "replicas"), [(1, 1), (2, 1), (1, 2), pytest.param(2, 2, marks=pytest.mark.slow)])
def test_the_loss_of_what_is_predicted_is_that_of_transformers(stages: int, replicas: int) -> None:
    by_rank = run_on_ranks(_predict, stages * replicas, toy_map(stages, replicas), timeout=120)
    (of_first,) = [found for found in by_rank if any(kept[0] for _, kept in found)]
    for (family, head), (losses, kept) in zip(HEADS, of_first, strict=True):
        _, loss_of = fine_tuning.reference(toy_model(family, head), head, CASE.settings.seed)
        expected = loss_of(fine_tuning.examples(head, 0)).item()
        assert losses == pytest.approx([expected] * 3, rel=1e-5), (family, head)
        assert kept == [8, 4, 1]
