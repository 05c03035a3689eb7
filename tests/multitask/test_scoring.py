"""What is picked on real processes is what a plain model, asked for one example after another, is least certain of."""

import math
from functools import cache

import numpy as np
import pytest
import torch

from ds_bert.data.features import Features, make_features
from ds_bert.engine.engine import Engine
from ds_bert.engine.module import StageModule
from ds_bert.engine.process_group import start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.modeling.conditional import MultitaskHead
from ds_bert.modeling.model import carry_declaration, initialize, model_layers
from ds_bert.multitask.job import Chooser, split_tasks
from ds_bert.multitask.sampling import FORMS
from ds_bert.multitask.tasks import MultitaskTask, combine
from ds_bert.stage_map import StageMap
from ds_bert.tasks.task import Task
from ds_bert.training.data_loader import DataLoader
from tests.support.conditional import example_logits
from tests.support.models import chain, toy_model
from tests.support.processes import run_on_ranks
from tests.support.toy import LENGTH, VOCABULARY, toy_map

LABELS, SIZES = {"two": 2, "number": 0, "three": 3}, (9, 12, 15)
SEED, BATCH, SIZE, ROUNDS = 5, 8, 5, 3  # 24 candidates in micro-batches of 5: the last one is smaller


def features(count: int, seed: int) -> Features:
    """Texts of any length, in no order."""
    random = np.random.default_rng(seed)
    rows = [random.integers(5, VOCABULARY, random.integers(3, LENGTH + 1)) for _ in range(count)]
    columns = {"labels": np.zeros(count, dtype=np.int64)}
    return make_features([row.tolist() for row in rows], [len(row) // 2 for row in rows], 0, columns)


def many_tasks() -> MultitaskTask:
    members = []
    for number, (name, count) in enumerate(LABELS.items()):
        kind = "single_label_classification" if count else "regression"
        config = {"id2label": {label: str(label) for label in range(max(1, count))}, "problem_type": kind}
        members.append(Task(name, MultitaskHead, config, None, features(SIZES[number], number)))
    return combine(members, {})


def config_of(task: MultitaskTask):
    """A model that would drop much in training, and whose first weights are large enough to have opinions."""
    dropped = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.4)
    fields = {"conditional": "large", "conditional_length": LENGTH, "initializer_range": 0.2, **dropped}
    return toy_model("bert", "sequence-classification", tasks=task.config["tasks"], **fields)


def candidates(step: int) -> np.ndarray:
    """Some of each task's examples, in a row for each task."""
    random, first = np.random.default_rng(step), np.cumsum(SIZES) - SIZES
    return np.stack([start + random.permutation(size)[:BATCH] for start, size in zip(first, SIZES, strict=True)])


def choose(stage_map: StageMap) -> list[list[int]]:
    grid = start_process_group(stage_map, timeout_seconds=60)
    task, settings = many_tasks(), EngineSettings("sgd", seed=SEED)
    config = config_of(task)
    module = StageModule(model_layers(config, MultitaskHead), stage_map.cuts, grid, SEED, False)
    for name, parameter in module.parameters_by_name().items():
        initialize(name, parameter.data, config.initializer_range, SEED, config.pad_token_id)
    declared = carry_declaration(config, settings.dtype)
    engine = Engine(module, declared, task.objective, settings, grid, 1)
    loader = DataLoader(task.train, engine, split_tasks)
    choosers = [Chooser(task, loader, form, SIZE) for form in FORMS]
    return [sorted(chooser(candidates(step)).tolist()) for chooser in choosers for step in range(ROUNDS)]


def entropy(logits: list[float]) -> float:
    weights = [math.exp(value) for value in logits]
    return -sum(weight / sum(weights) * math.log(weight / sum(weights)) for weight in weights)


def reference(form: str, numbers: np.ndarray) -> list[int]:
    """Score candidate by candidate; the number has the scores of "two", the smallest task with labels."""
    found = shares()
    rows = [[found[number] for number in row] for row in numbers.tolist()]
    if form == "code":
        means = [sum(row) / len(row) for row in rows]
        rows = [[share * mean / max(means) for share in row] for row, mean in zip(rows, means, strict=True)]
    rows[1] = rows[0]
    flat = [score for row in rows for score in row]
    order = sorted(range(len(flat)), key=lambda place: (-flat[place], place))
    assert flat[order[BATCH - 1]] - flat[order[BATCH]] > 1e-4 or flat[order[BATCH - 1]] == flat[order[BATCH]]
    return sorted(order[:BATCH])


@cache
def shares() -> list[float]:
    """Of every example, the share of the entropy that its task makes possible; 0 in regression."""
    task = many_tasks()
    config, examples = config_of(task), task.train
    assert isinstance(examples, Features)
    parameters, found = chain(config, MultitaskHead, SEED).parameters, []
    for number, which in enumerate(examples.columns["task_ids"].tolist()):
        begin, end = examples.starts[number : number + 2]
        ids = torch.from_numpy(examples.tokens[begin:end].astype(np.int64))
        types = (torch.arange(len(ids)) >= int(examples.first_segments[number])).long()
        with torch.no_grad():
            logits = example_logits(config, parameters, which, ids, types).tolist()
        found.append(entropy(logits) / math.log(len(logits)) if len(logits) > 1 else 0.0)
    return found


@pytest.mark.parametrize(("stages", "replicas"), [(1, 1), (2, 1), (1, 2)])
def test_the_most_uncertain_candidates_are_picked(stages: int, replicas: int) -> None:
    expected = [reference(form, candidates(step)) for form in FORMS for step in range(ROUNDS)]
    assert len({tuple(picks) for picks in expected}) > ROUNDS
    for found in run_on_ranks(choose, stages * replicas, toy_map(stages, replicas), timeout=120):
        assert found == expected
