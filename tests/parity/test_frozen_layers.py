"""Layers that are not trained: the others train as on one process, and no gradient goes further than it must."""

from functools import cache

import numpy as np
import pytest
import torch

from ds_bert.engine.engine import Engine
from ds_bert.engine.module import StageModule
from ds_bert.engine.process_group import start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.modeling.model import carry_declaration, initialize, model_layers
from ds_bert.stage_map import StageMap
from tests.support.fine_tuning import examples, micro_batches, objective, reference
from tests.support.models import toy_model
from tests.support.processes import run_on_ranks
from tests.support.reference import Trajectory, deviation
from tests.support.state import state_by_name
from tests.support.toy import ROWS, toy_map
from tests.support.training import Result, merge

HEAD, STEPS, SEED, LEARNING_RATE = "sequence-classification", 4, 3, 0.1
FROZEN = tuple(["bert.embeddings.", *(f"bert.encoder.layer.{index}." for index in range(2))])


def is_trained(name: str) -> bool:
    return not name.startswith(FROZEN)


def _train(stage_map: StageMap, optimizer: str, schedule: str, precision: str) -> tuple[Result, int, dict[str, float]]:
    """The run, the bytes sent, and what is stored of the optimizer beside tensors."""
    grid = start_process_group(stage_map, timeout_seconds=30)
    config = toy_model("bert", HEAD)
    settings = EngineSettings(
        optimizer,  # type: ignore[arg-type]
        weight_decay=0.01,
        seed=SEED,
        is_trained=is_trained,
        schedule=schedule,  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
    )
    module = StageModule(model_layers(config, HEAD), stage_map.cuts, grid, SEED, recompute=False)
    for name, parameter in module.parameters_by_name().items():
        initialize(name, parameter.data, config.initializer_range, SEED, config.pad_token_id)
    size = 2
    count = ROWS // (size * grid.num_replicas)
    engine = Engine(module, carry_declaration(config, settings.dtype), objective(HEAD), settings, grid, count)
    results = []
    for step in range(STEPS):
        results += engine.train_batch(micro_batches(grid, HEAD, examples(HEAD, step), size), LEARNING_RATE / 10)
    results += engine.drain()
    losses = [engine.objective.report(result.sums)["loss"] for result in results]
    back = engine.execution.transport.gradients_out
    tensors, scalars = state_by_name(engine.optimizer, STEPS)
    stored = {name: tensor.numpy() for name, tensor in tensors["weights"].items()}
    run = Result(losses, [result.grad_norm for result in results], stored)
    return run, back.bytes_sent if back else 0, scalars


@cache
def _runs(
    stages: int, replicas: int, optimizer: str, schedule: str = "1f1b", precision: str = "fp32"
) -> list[tuple[Result, int, dict]]:
    stage_map = toy_map(stages, replicas)
    return run_on_ranks(_train, stages * replicas, stage_map, optimizer, schedule, precision, timeout=90)


@cache
def _reference(optimizer: str) -> Trajectory:
    parameters, loss_of = reference(toy_model("bert", HEAD), HEAD, SEED)
    trained = {name: parameter for name, parameter in parameters.items() if is_trained(name)}
    for name, parameter in parameters.items():
        parameter.requires_grad_(is_trained(name))
    groups = [
        {"params": [item for item in trained.values() if item.ndim >= 2], "weight_decay": 0.01},
        {"params": [item for item in trained.values() if item.ndim < 2], "weight_decay": 0.0},
    ]
    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[optimizer]
    torch_optimizer = kind(groups, lr=LEARNING_RATE / 10)
    losses, norms = [], []
    for step in range(STEPS):
        torch_optimizer.zero_grad()
        loss = loss_of(examples(HEAD, step))
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(trained.values(), 1.0).item())
        losses.append(loss.item())
        torch_optimizer.step()
    final = {name: parameter.detach().numpy() for name, parameter in parameters.items()}
    return Trajectory(np.array(losses), np.array(norms), final)


@pytest.mark.parametrize(("stages", "replicas"), [(1, 1), (2, 1), pytest.param(4, 1, marks=pytest.mark.slow)], ids=str)
def test_the_others_train_as_on_one_process(stages: int, replicas: int) -> None:
    expected = _reference("sgd")
    found = merge([run for run, _, _ in _runs(stages, replicas, "sgd")])
    difference = deviation(*(_trained_part(run) for run in (found, expected)))
    assert difference.loss <= 1e-5 and difference.norm <= 1e-5 and difference.weights <= 1e-5, difference
    for name, value in expected.weights.items():
        if not is_trained(name):
            assert np.array_equal(found.weights[name], value), name


def test_in_16_bits_the_others_keep_the_bits_they_are_stored_with() -> None:
    """The layers compute with a rounded copy; a checkpoint has the weights as they came."""
    found = merge([run for run, _, _ in _runs(2, 1, "adamw", precision="bf16")]).weights
    for name, value in _reference("sgd").weights.items():
        assert np.array_equal(found[name], value) != is_trained(name), name


def _trained_part(run: Trajectory) -> Trajectory:
    trained = {name: value for name, value in run.weights.items() if is_trained(name)}
    return Trajectory(run.losses, run.norms, trained)


def test_a_stage_with_nothing_to_train() -> None:
    """Cut behind the frozen layers: no gradient crosses, and the steps are counted all the same."""
    (_, _, of_first), (_, sent_back, of_second) = _runs(2, 1, "adamw")
    assert sent_back == 0
    assert of_first["step"] == of_second["step"] == STEPS


@pytest.mark.slow
def test_gradients_cross_where_they_are_needed() -> None:
    sent_back = [sent for _, sent, _ in _runs(4, 1, "sgd")]
    assert sent_back[1] == sent_back[2] == 0 < sent_back[3]


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["gpipe", "2bw"])
def test_other_schedules(schedule: str) -> None:
    """GPipe gives the same; 2BW, on rules of its own, leaves the frozen as they were."""
    found = merge([run for run, _, _ in _runs(2, 1, "adamw", schedule)])
    expected = merge([run for run, _, _ in _runs(2, 1, "adamw")])
    for name, value in expected.weights.items():
        if schedule == "gpipe" or not is_trained(name):
            assert np.array_equal(found.weights[name], value), name
