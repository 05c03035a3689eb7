"""The optimizer boundary: what a run keeps, moved to another cut, continues it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ds_bert.engine.process_group import start_process_group
from ds_bert.engine.settings import EngineSettings, LossScaler, LossScaling
from ds_bert.stage_map import StageMap
from ds_bert.training.settings import LayerwiseDecay
from tests.support.processes import run_on_ranks
from tests.support.state import load_by_name, state_by_name
from tests.support.toy import ENCODER_LAYERS, toy_map
from tests.support.training import Case, Result, build_engine, merge, train, train_cases

State = tuple[dict[str, dict[str, np.ndarray]], dict[str, Any]]
SAVED_AT, STEPS = 4, 8
OPTIMIZERS = {
    "adamw": EngineSettings("adamw", {"eps": 1e-6}, weight_decay=0.01, seed=1),
    "lamb by layers": EngineSettings(
        "lamb", {"eps": 1e-6}, 0.01, parameter_group=LayerwiseDecay(0.8, ENCODER_LAYERS), seed=1
    ),
    "sgd with momentum": EngineSettings("sgd", {"momentum": 0.9}, weight_decay=0.01, seed=1),
    "bf16": EngineSettings("adamw", {"eps": 1e-6}, precision="bf16", seed=1),
    "fp16": EngineSettings("adamw", {"eps": 1e-6}, precision="fp16", seed=1, loss_scaling=LossScaling(window=3)),
}
QUICK = {"adamw"}


def _run(stage_map: StageMap, case: Case, state: State | None, begin: int) -> tuple[Result, State]:
    grid = start_process_group(stage_map, timeout_seconds=30)
    engine = build_engine(grid, stage_map.cuts, case)
    if state is not None:
        tensors, scalars = state
        mine = engine.module.parameters_by_name()
        load_by_name(
            engine.optimizer,
            {
                kind: {name: torch.from_numpy(value) for name, value in values.items() if name in mine}
                for kind, values in tensors.items()
            },
            scalars,
            begin,
        )
        engine.resume_at(begin)
    result = train(grid, engine, case, first_step=begin)
    tensors, scalars = state_by_name(engine.optimizer, engine.steps_done)
    arrays = {kind: {name: value.numpy() for name, value in values.items()} for kind, values in tensors.items()}
    return result, (arrays, scalars)


def _merge_states(states: list[State]) -> State:
    tensors: dict[str, dict[str, np.ndarray]] = {}
    for kinds, scalars in states:
        assert scalars == states[0][1]
        for kind, values in kinds.items():
            tensors.setdefault(kind, {}).update(values)
    return tensors, states[0][1]


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in OPTIMIZERS]
)
def test_state_moves_to_another_cut(name: str) -> None:
    """Saved under 2x2 and ZeRO 1, continued under other maps and ZeRO stages."""
    case = Case(OPTIMIZERS[name], micro_batch_size=2, steps=STEPS, learning_rate=1e-3, dropout=0.1)
    (whole,) = train_cases(toy_map(2, 2), [case.change(zero_stage=1)])
    saving = replace(case.change(zero_stage=1), steps=SAVED_AT)
    state = _merge_states([state for _, state in run_on_ranks(_run, 4, toy_map(2, 2), saving, None, 0)])
    for stages, replicas, zero in ((2, 2, 1), (1, 1, 0), (4, 1, 1)):
        continued = run_on_ranks(
            _run, stages * replicas, toy_map(stages, replicas), case.change(zero_stage=zero), state, SAVED_AT
        )
        found = merge([result for result, _ in continued])
        exact = (stages, replicas, zero) == (2, 2, 1)
        np.testing.assert_allclose(found.losses, whole.losses[SAVED_AT:], rtol=0 if exact else 1e-5)
        for parameter, value in whole.weights.items():
            tolerance = 0 if exact else 2**-8 * np.abs(value).max() + 1e-5 if "16" in name else 1e-6
            np.testing.assert_allclose(found.weights[parameter], value, rtol=0, atol=tolerance, err_msg=parameter)


def test_loss_scale_halves_on_overflow_and_doubles_after_the_window() -> None:
    scaler = LossScaler(LossScaling(initial=8.0, window=2, minimum=4.0), torch.device("cpu"))
    scales = []
    for overflowed in (0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0):
        scaler.update(torch.tensor(overflowed))
        scales.append(scaler.scale.item())
    assert scales == [8, 16, 8, 8, 4, 4, 4, 8]


def test_a_fixed_loss_scale_stays() -> None:
    scaler = LossScaler(LossScaling(fixed=128.0, window=1), torch.device("cpu"))
    for overflowed in (1.0, 0.0, 0.0):
        scaler.update(torch.tensor(overflowed))
    assert scaler.scale == 128
