"""Defects of DeepSpeed's pipeline engine that users would meet, and that do not reach ours."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from ds_bert.engine.execution import MicroBatch
from ds_bert.engine.process_group import start_process_group
from ds_bert.engine.settings import EngineSettings, LossScaling
from ds_bert.modeling.model import model_layers
from ds_bert.stage_map import StageMap
from ds_bert.training.pretraining import split_batch
from tests.support.processes import run_on_ranks
from tests.support.reference import deviation, reference_loss, reference_model, train_reference
from tests.support.toy import global_batch, part, toy_config, toy_map
from tests.support.training import Case, build_engine, micro_batches, train, train_cases, weights

SGD = EngineSettings("sgd", max_grad_norm=0.5, seed=1)
SHORT = Case(SGD, micro_batch_size=2, steps=3)
EMBEDDINGS_AND_HEAD_ALONE = toy_map(3, 2)


def test_clipping_norm_counts_every_stage_without_zero() -> None:
    """DeepSpeed, fp32 and ZeRO 0: the norm that gradients are clipped by counts the first stage only."""
    model = reference_model(toy_config(), SGD.seed)
    reference_loss(model, global_batch(0)).backward()
    of_all = torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).norm().item()
    first = [value for name, value in model.named_parameters() if "embeddings" in name or "layer.0" in name]
    assert torch.cat([value.grad.flatten() for value in first]).norm().item() < 0.95 * of_all
    (found,) = train_cases(toy_map(4, 1), [replace(SHORT, steps=1)])
    assert found.norms[0] == pytest.approx(of_all, rel=1e-5)


def _summed_in(stage_map: StageMap, case: Case) -> tuple[list[torch.dtype], list[float]]:
    grid = start_process_group(stage_map, timeout_seconds=30)
    engine = build_engine(grid, stage_map.cuts, case)
    return [bucket.gradients[0].dtype for bucket in engine.optimizer.buckets], train(grid, engine, case).norms


def test_bf16_sums_gradients_in_fp32_without_zero() -> None:
    """DeepSpeed: bf16 with fp32 accumulation runs under ZeRO 1 only."""
    case = replace(SHORT.change(precision="bf16"), micro_batch_size=1, rows=32, steps=1)
    for types, norms in run_on_ranks(_summed_in, 2, toy_map(2, 1), case):
        assert set(types) == {torch.float32}
        (at_once,) = train_cases(toy_map(1, 1), [replace(case.change(precision="fp32"), micro_batch_size=32)])
        assert norms[0] == pytest.approx(at_once.norms[0], rel=1e-2)


@pytest.mark.parametrize("zero", [0, 1])
def test_permuted_ranks_keep_tied_weights_together(zero: int) -> None:
    """DeepSpeed: ``[[3, 1], [0, 2]]`` silently leaves the stages with different word embeddings."""
    case = SHORT.change(zero_stage=zero)
    (in_order,) = train_cases(toy_map(2, 2), [case])
    (permuted,) = train_cases(toy_map(2, 2, [[3, 1], [0, 2]]), [case])  # which compares what several ranks hold
    for name, value in in_order.weights.items():
        np.testing.assert_array_equal(permuted.weights[name], value, err_msg=name)


def test_parameters_beside_a_tied_one_train() -> None:
    """DeepSpeed: of a tied module only the tied tensor is broadcast and reduced; a bias beside it drifts."""
    found, several = train_cases(toy_map(2, 2), [SHORT, replace(SHORT, micro_batch_size=1)])
    options: dict[str, Any] = {"optimizer": "sgd", "options": {}, "weight_decay": 0.0, "learning_rate": 0.1}
    batches = [global_batch(step) for step in range(SHORT.steps)]
    expected = train_reference(toy_config(), batches, seed=SGD.seed, max_grad_norm=0.5, **options)
    for name in ("cls.predictions.bias", "cls.predictions.transform.dense.weight", "bert.embeddings.LayerNorm.bias"):
        assert np.abs(expected.weights[name]).max() > 0
        np.testing.assert_allclose(found.weights[name], expected.weights[name], rtol=0, atol=1e-6)
        np.testing.assert_allclose(several.weights[name], expected.weights[name], rtol=0, atol=1e-6)


def _bytes_sent(stage_map: StageMap) -> int:
    grid = start_process_group(stage_map, timeout_seconds=30)
    engine = build_engine(grid, stage_map.cuts, SHORT)
    train(grid, engine, replace(SHORT, steps=1))
    return engine.execution.transport.bytes_sent


def test_masks_cross_a_boundary_and_get_no_gradient() -> None:
    """DeepSpeed: every floating tensor that crosses needs a gradient, so an additive mask crashes."""
    forth, back = run_on_ranks(_bytes_sent, 2, toy_map(2, 1))
    parts = [part(global_batch(0), begin, begin + 2) for begin in range(0, 8, 2)]
    hidden = sum(rows["input_ids"].size * 32 * 4 for rows in parts)
    masks = sum(-(-rows["attention_mask"].size // 16) * 16 for rows in parts if "attention_mask" in rows)
    assert masks > 0
    assert (forth, back) == (hidden + masks, hidden)


def _sums(stage_map: StageMap, numbers: list[int]) -> np.ndarray:
    """Sums of a step in which every micro-batch holds the same rows."""
    grid = start_process_group(stage_map, timeout_seconds=30)
    engine = build_engine(grid, stage_map.cuts, replace(SHORT, dropout=0.1))
    inputs, labels = split_batch(part(global_batch(0), 0, 2))
    mine = [
        MicroBatch(number, (2, 16, False), inputs, labels)
        for number in numbers
        if number % grid.num_replicas == grid.replica
    ]
    (result,) = engine.train_batch(mine, 0.0)
    return result.sums.numpy()


def test_replicas_draw_different_dropout_masks() -> None:
    """DeepSpeed, ``seed_layers``: all replicas draw the same masks."""
    (first,), (second,) = run_on_ranks(_sums, 1, toy_map(1, 1), [0]), run_on_ranks(_sums, 1, toy_map(1, 1), [1])
    both, _ = run_on_ranks(_sums, 2, toy_map(1, 2), [0, 1])
    assert abs(first[0] - second[0]) > 1e-3
    np.testing.assert_allclose(both, first + second, rtol=1e-6)


def _evaluate_otherwise(stage_map: StageMap) -> tuple[np.ndarray, list[float], list[float]]:
    grid = start_process_group(stage_map, timeout_seconds=30)
    engine = build_engine(grid, stage_map.cuts, SHORT)
    before = train(grid, engine, replace(SHORT, steps=1)).losses
    sums = engine.evaluate(micro_batches(grid, global_batch(0, rows=10, length=30), 5))
    return sums.numpy(), before, train(grid, engine, SHORT, first_step=1).losses


def test_evaluation_at_another_size_and_length() -> None:
    """DeepSpeed: evaluation must have the batch size and the length of training."""
    (sums, before, after), *_ = run_on_ranks(_evaluate_otherwise, 4, toy_map(2, 2))
    (one, *_), *_ = run_on_ranks(_evaluate_otherwise, 1, toy_map(1, 1))
    np.testing.assert_allclose(sums, one, rtol=1e-5)
    (uninterrupted,) = train_cases(toy_map(2, 2), [SHORT])
    assert [*before, *after] == list(uninterrupted.losses)


@pytest.mark.parametrize("zero", [0, 1])
def test_stages_of_only_an_embedding_or_a_head(zero: int) -> None:
    """DeepSpeed: such stages fail or, with ZeRO 1, hang."""
    assert EMBEDDINGS_AND_HEAD_ALONE.cuts == (0, 1, 5, 6)
    (found,) = train_cases(EMBEDDINGS_AND_HEAD_ALONE, [SHORT.change(zero_stage=zero)], timeout=30)
    (one,) = train_cases(toy_map(1, 1), [SHORT])
    np.testing.assert_allclose(found.losses, one.losses, rtol=1e-5)


def test_names_do_not_depend_on_the_position_of_a_layer() -> None:
    """DeepSpeed: names contain the index in the pipeline, so that a layer put in front breaks loading."""

    def names(config: Any, layers: slice) -> set[str]:
        made = [make() for make in model_layers(config, "pretraining")[layers]]
        return {layer.hugging_face_name(local) for layer in made for local, _ in layer.named_parameters()}

    config, longer = toy_config(), toy_config(num_hidden_layers=5)
    assert names(config, slice(0, None)) == names(config, slice(0, 3)) | names(config, slice(3, None))
    assert names(config, slice(0, None)) == {name for name, _ in reference_model(config, 0).named_parameters()}
    assert names(config, slice(0, None)) < names(longer, slice(0, None))


@pytest.mark.parametrize(("stages", "replicas"), [(1, 1), (2, 2)])
def test_fp16_clips_what_was_scaled(stages: int, replicas: int) -> None:
    """SGD would show a gradient that still has the loss scale, or that was clipped with it."""
    half = SHORT.change(precision="fp16", loss_scaling=LossScaling(fixed=256.0))
    cases = [half.change(zero_stage=zero) for zero in range(replicas)]
    (whole,) = train_cases(toy_map(1, 1), [SHORT])
    assert max(whole.norms) > SGD.max_grad_norm
    for found in train_cases(toy_map(stages, replicas), cases):
        away = deviation(found, whole)
        moved = max(np.abs(found.weights[name] - value).max() for name, value in whole.weights.items())
        assert max(away.loss, away.norm) <= 1e-3 and moved <= 2**-9, (away, moved)


def _overflow(stage_map: StageMap, zero: int) -> list[tuple[float, bool, float, float]]:
    """(scale, skipped, movement of the weights, norm) of every step."""
    grid = start_process_group(stage_map, timeout_seconds=30)
    scaling = LossScaling(initial=2.0**20, window=3)
    settings = EngineSettings("adamw", {"eps": 1e-6}, zero_stage=zero, precision="fp16", loss_scaling=scaling, seed=1)
    case = Case(settings, micro_batch_size=2, same_batch=True)
    engine = build_engine(grid, stage_map.cuts, case)
    told = []
    for _ in range(12):
        before, scale = weights(engine), engine.optimizer.loss_scale
        (result,) = engine.train_batch(micro_batches(grid, case.batch(0), 2), 1e-3)
        moved = max(np.abs(value - before[name]).max() for name, value in weights(engine).items())
        told.append((scale, result.skipped, float(moved), result.grad_norm))
    return told


@pytest.mark.parametrize("zero", [0, 1])
def test_fp16_skips_an_overflow_on_all_ranks_alike(zero: int) -> None:
    """DeepSpeed, fp16 and ZeRO 0: clipping is wrong (as without ZeRO in fp32), which hides behind Adam."""
    by_rank = run_on_ranks(_overflow, 4, toy_map(2, 2), zero)
    model = reference_model(toy_config(), SGD.seed)
    reference_loss(model, global_batch(0)).backward()
    true_norm = torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).norm().item()
    for steps in by_rank:
        assert [step[:2] for step in steps] == [step[:2] for step in by_rank[0]]
        assert all((moved == 0) == skipped for _, skipped, moved, _ in steps)
        for (scale, skipped, _, norm), (following, *_) in pairwise(steps):
            assert following == scale / 2 if skipped else following in (scale, 2 * scale)
            assert np.isinf(norm) == skipped
        assert 0 < sum(skipped for _, skipped, *_ in steps) < len(steps)
        first_norm = next(norm for *_, norm in steps if np.isfinite(norm))
        assert first_norm == pytest.approx(true_norm, rel=1e-2)
