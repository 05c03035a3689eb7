"""What bfloat16 and tied weights promise."""

from dataclasses import replace

import numpy as np
import pytest

from ds_bert.engine.process_group import start_process_group
from ds_bert.engine.settings import EngineSettings
from tests.support.processes import run_on_ranks
from tests.support.reference import deviation, reference_model
from tests.support.state import state_by_name
from tests.support.toy import toy_config, toy_map
from tests.support.training import Case, build_engine, train, train_cases

ADAMW = EngineSettings("adamw", {"eps": 1e-6}, weight_decay=0.01, seed=2)
BF16 = Case(replace(ADAMW, precision="bf16"), micro_batch_size=2, learning_rate=1e-3, same_batch=True)


@pytest.mark.slow
def test_bf16_trains_alike_on_every_cut_and_close_to_fp32() -> None:
    cases = [BF16, BF16.change(zero_stage=1)]
    one, _, fp32 = train_cases(toy_map(1, 1), [*cases, BF16.change(precision="fp32")])
    for stages, replicas in ((2, 1), (2, 2)):
        for found in train_cases(toy_map(stages, replicas), cases):
            away = deviation(found, one)
            assert away.loss <= 1e-3 and away.norm <= 1e-3 and away.weights <= 2**-7
    assert one.losses[-1] < one.losses[0] - 1
    np.testing.assert_allclose(one.losses, fp32.losses, rtol=2**-8)
    np.testing.assert_allclose(one.norms, fp32.norms, rtol=2**-6)


def _master_weights(case: Case) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Master weights before and after the steps."""
    stage_map = toy_map(1, 2)
    grid = start_process_group(stage_map, timeout_seconds=30)
    engine = build_engine(grid, stage_map.cuts, case)
    before, _ = state_by_name(engine.optimizer, engine.steps_done)
    train(grid, engine, case)
    after, _ = state_by_name(engine.optimizer, engine.steps_done)
    return tuple({name: value.numpy() for name, value in state["weights"].items()} for state in (before, after))


@pytest.mark.parametrize("zero", [0, 1])
def test_bf16_loses_no_update_however_small(zero: int) -> None:
    """Word embeddings are about 0.02, where bfloat16's steps are 1e-4; each update here is at most 1e-6."""
    case = replace(BF16.change(zero_stage=zero), learning_rate=1e-6)
    name = "bert.encoder.layer.0.output.dense.weight"
    moved = {}
    for precision in ("bf16", "fp32"):
        before, after = run_on_ranks(_master_weights, 2, case.change(precision=precision))[0]
        initial = reference_model(toy_config(), ADAMW.seed).get_parameter(name).detach().numpy()
        assert np.array_equal(before[name], initial)  # not rounded to bfloat16
        moved[precision] = np.abs(after[name] - before[name])
    assert (moved["bf16"] > 0).mean() > 0.99
    assert moved["bf16"].mean() == pytest.approx(moved["fp32"].mean(), rel=0.05)
    assert 5e-6 < moved["bf16"].mean() <= 20 * 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(("zero", "precision"), [(0, "fp32"), (1, "bf16"), (0, "bf16"), (1, "fp32")])
def test_tied_weights_stay_equal_to_the_bit(zero: int, precision: str) -> None:
    """`train_cases` compares every weight that several processes hold."""
    base = Case(replace(ADAMW, max_grad_norm=0.5), 1, steps=100, learning_rate=2e-3, dropout=0.1, rows=4)
    case = base.change(zero_stage=zero, precision=precision)
    (trajectory,) = train_cases(toy_map(2, 2, [[3, 1], [0, 2]]), [case])
    assert np.isfinite(trajectory.losses).all()
