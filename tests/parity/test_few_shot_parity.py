"""Every few-shot method learns and scores as a plain loop of torch and transformers does, on one stage and on two."""

from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import BertConfig, BertModel

from ds_bert.engine.execution import MicroBatch
from ds_bert.engine.process_group import start_process_group
from ds_bert.meta.arguments import FewShotArguments
from ds_bert.meta.data_loader import micro_batch
from ds_bert.meta.few_shot import Adaptation, FewShot
from ds_bert.meta.task import Learner, Method
from ds_bert.meta.tasks.episode import Episode, stratified_order
from ds_bert.modeling.adapters import Selection
from tests.support.few_shot import few_shot_learner, make_episode, recipe_of
from tests.support.meta import Reference, first_weights, meta_config, step_size_of
from tests.support.processes import run_on_ranks
from tests.support.toy import toy_map

METHODS = ("meta", "fine-tuning", "head-only", "prototypes")
TASKS, SHOTS, BATCHES = (3, 4), 3, 3  # numbers of the tasks; 9 examples to learn from, as 3 batches
COURSE = Adaptation(4, 4, 0.0, 0, warmup_ratio=0.25, eval_batch_size=1, seed=7)
WARMUP, STEPS = 3, 12
SETTINGS = FewShotArguments(max_grad_norm=0.5, step_size_scale=2.0, learning_rate=1e-2, head_learning_rate=3e-2)


class Learned(NamedTuple):
    loss: float  # mean of the last epoch
    scores_BN: np.ndarray
    accuracy: float


class _Watched(FewShot):
    """Keeps the scores of what it measures."""

    def _measure(self, execution, run):  # type: ignore[no-untyped-def]
        accuracy = super()._measure(execution, run)
        if self.grid.is_last:
            self.scores.append(torch.cat(run.task.scores).numpy())
        return accuracy


def _learn(stages: int) -> dict[str, list[Learned]]:
    grid = start_process_group(toy_map(stages, 1), timeout_seconds=30)
    learner, found = few_shot_learner(grid, meta_config(False), COURSE), {}
    learner.__class__ = _Watched
    for method in METHODS:
        learner.scores = []  # type: ignore[attr-defined]
        results = learner.learn(recipe_of(method, SETTINGS), [episode(number) for number in TASKS], TASKS)
        assert all(result["steps"] == (STEPS if method != "prototypes" else 0) for result in results)
        scores = learner.scores or [np.zeros(0)] * len(TASKS)  # type: ignore[attr-defined]
        found[method] = [Learned(r["loss"], s, r["accuracy"]) for r, s in zip(results, scores, strict=True)]
    return found


def episode(number: int) -> Episode:
    return make_episode(number, SHOTS, queries=32)


def batches(number: int) -> Iterator[tuple[float, MicroBatch]]:
    """What each step takes: the rate, as a share of its peak, and the examples."""
    support, step = episode(number).support, 0
    for epoch in range(COURSE.epochs):
        order = stratified_order(np.asarray(support.columns["labels"]), COURSE.seed, number, epoch)
        for rows in np.array_split(order, BATCHES):
            step += 1
            yield min(step / WARMUP, (STEPS + 1 - step) / (STEPS + 1 - WARMUP)), micro_batch(support, rows)


def query(number: int) -> MicroBatch:
    features = episode(number).query
    return micro_batch(features, np.arange(len(features)))


def plain_bert(config: BertConfig) -> BertModel:
    bert = BertModel(BertConfig(**config.to_dict(), attn_implementation="eager")).double()
    weights = {name.removeprefix("bert."): item for name, item in first_weights(config).items()}
    assert not bert.load_state_dict(weights, strict=False).missing_keys
    return bert


def clip(gradients: list[torch.Tensor]) -> float:
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm().item()
    return min(1.0, SETTINGS.max_grad_norm / norm)


def by_adamw(number: int, peak: float, all_of_it: bool) -> tuple[list[float], torch.Tensor]:
    """Fine-tune the model, or no more than a classifier (N, H + 1), whose last column is added."""
    bert = plain_bert(meta_config(False))
    classifier = torch.nn.Parameter(torch.zeros(episode(number).num_classes, bert.config.hidden_size + 1).double())
    trained = [*bert.parameters(), classifier] if all_of_it else [classifier]
    groups = [
        {"params": [item for item in trained if (item.ndim > 1) is decays], "weight_decay": 0.01 if decays else 0.0}
        for decays in (True, False)
    ]
    optimizer, losses = torch.optim.AdamW([group for group in groups if group["params"]]), []

    def scores(batch: MicroBatch) -> torch.Tensor:
        return F.linear(bert(**batch.inputs).pooler_output, classifier[:, :-1], classifier[:, -1])

    for share, batch in batches(number):
        loss = F.cross_entropy(scores(batch), batch.labels["labels"])
        optimizer.zero_grad()
        loss.backward()
        factor = clip([item.grad for item in trained])
        for item in trained:
            item.grad *= factor
        for group in optimizer.param_groups:
            group["lr"] = share * peak
        optimizer.step()
        losses.append(loss.item())
    return losses, scores(query(number))


def by_step_sizes(number: int) -> tuple[list[float], torch.Tensor]:
    """SGD with each group's own step size; the first batch makes the classes' weights."""
    config, slow = meta_config(False), first_weights(meta_config(False))
    learner = Learner([], Method(), Selection())
    plain, losses, steps = Reference(config, learner), [], list(batches(number))
    fast = {name: item.clone() for name, item in slow.items() if learner.selection.is_adapted(name)}
    fast["labels"] = plain.label_embeddings(slow, steps[0][1]).detach()
    for share, batch in steps:
        fast = {name: item.detach().requires_grad_() for name, item in fast.items()}
        loss = plain.loss(slow | fast, fast["labels"], batch)
        gradients = torch.autograd.grad(loss, list(fast.values()))
        rate = share * SETTINGS.step_size_scale * clip(list(gradients))
        fast = {
            name: item - rate * slow[step_size_of(name)] * gradient
            for (name, item), gradient in zip(fast.items(), gradients, strict=True)
        }
        losses.append(loss.item())
    encoding_BD = plain.head(slow | fast, query(number))[0]
    return losses, encoding_BD @ fast["labels"][:, :-1].T + fast["labels"][:, -1]


def by_prototypes(number: int) -> tuple[list[float], torch.Tensor]:
    """Minus the squared distance to the mean of a class's examples, each the mean of its tokens' states."""
    bert, task = plain_bert(meta_config(False)), episode(number)

    def points(batch: MicroBatch) -> torch.Tensor:
        mask_BT1 = batch.inputs["attention_mask"][..., None]
        return (bert(**batch.inputs).last_hidden_state * mask_BT1).sum(1) / mask_BT1.sum(1)

    support = micro_batch(task.support, np.arange(len(task.support)))
    support_BH, labels = points(support), support.labels["labels"]
    means_NH = torch.stack([support_BH[labels == label].mean(0) for label in range(task.num_classes)])
    return [0.0] * STEPS, -(
        torch.cdist(points(query(number)), means_NH, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    )


@cache
def reference(method: str, number: int) -> Learned:
    learn = {
        "meta": lambda: by_step_sizes(number),
        "fine-tuning": lambda: by_adamw(number, SETTINGS.learning_rate, all_of_it=True),
        "head-only": lambda: by_adamw(number, SETTINGS.head_learning_rate, all_of_it=False),
        "prototypes": lambda: by_prototypes(number),
    }
    losses, scores = learn[method]()
    found = scores.detach().numpy()
    right = found.argmax(1) == episode(number).query.columns["labels"]
    return Learned(float(np.mean(losses[-BATCHES:])), found, float(right.mean()))


@pytest.mark.parametrize("stages", [1, 2])
def test_each_method_learns_and_scores_as_a_plain_loop_does(stages: int) -> None:
    ranks = run_on_ranks(_learn, stages, stages)
    for method in METHODS:
        for place, number in enumerate(TASKS):
            found, wanted = ranks[-1][method][place], reference(method, number)
            assert found.loss == pytest.approx(wanted.loss, rel=1e-9), method
            bound = 1e-9 * np.abs(wanted.scores_BN).max()
            assert np.abs(found.scores_BN - wanted.scores_BN).max() <= bound, method
            assert 0 < found.accuracy == wanted.accuracy < 1, method
            assert all(rank[method][place].accuracy == wanted.accuracy for rank in ranks), method
    scores = [reference(method, TASKS[0]).scores_BN.argmax(1) for method in METHODS]
    assert all((one != other).any() for one, other in pairwise(scores))  # no method is another
