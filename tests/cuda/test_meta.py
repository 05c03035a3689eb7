"""Meta-training and few-shot learning on the fake device: each pass of a task is queued, and nothing waits for it."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from ds_bert.engine.settings import EngineSettings
from ds_bert.meta.arguments import FewShotArguments
from ds_bert.meta.few_shot import Adaptation
from ds_bert.meta.task import Learner, Method, task_passes
from ds_bert.modeling.adapters import Selection, meta_layers
from tests.cuda.cases import FIRST, LAST, MIDDLE, ONLY
from tests.cuda.stage import Place, Reports, let_peers_answer, reload
from tests.support.fake_cuda.recording import RECORDER, Phase
from tests.support.fake_cuda.server import FakeCuda
from tests.support.few_shot import few_shot_learner, make_episode, recipe_of
from tests.support.meta import MetaCase, make_tasks, meta_config, meta_engine

LAYERS, BATCHES, TASKS, STEPS = 2, 2, 2, 2
METHODS = ("meta", "fine-tuning", "head-only", "prototypes")
EPOCHS, QUERIES = 2, 5


@dataclass(frozen=True)
class MetaTraining:
    """One rank of a job of meta-training."""

    place: Place = ONLY
    selection: Selection = field(default_factory=Selection)
    method: Method = field(default_factory=Method)
    learner: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    pooling: str = "cls"


def meta_train(case: MetaTraining) -> dict[str, Phase]:
    """Take outer steps, and load what the state is; return what was recorded, by phase."""
    config = meta_config(case.selection.parameter_efficient, LAYERS, dropout=0.1, pooling=case.pooling)
    learner = Learner(task_passes(BATCHES, 1, 0), case.method, case.selection, **case.learner)
    grid = case.place.start()
    let_peers_answer(grid, meta_layers(config))
    job = MetaCase(config, learner, TASKS * grid.num_replicas, BATCHES)
    engine = meta_engine(grid, job, EngineSettings(**case.settings))
    for step in range(STEPS):
        RECORDER.step = step
        RECORDER.begin(f"step {step}")
        engine.train_batch(make_tasks(TASKS, BATCHES), 1e-3, votes=[0.0])
    RECORDER.begin("state")
    reload(engine)
    return RECORDER.phases


def learn(place: Place, method: str) -> dict[str, Phase]:
    """Learn two tasks at once, twice; return what was recorded, by phase."""
    config, grid = meta_config(False, LAYERS, dropout=0.1), place.start()
    course = Adaptation(EPOCHS, 4, 0.0, 0, warmup_ratio=0.25, eval_batch_size=2, seed=7)
    learner = few_shot_learner(grid, config, course, torch.float32)
    recipe, episodes = recipe_of(method, FewShotArguments()), [make_episode(number, 3, QUERIES) for number in (0, 1)]
    for time in ("first", "second"):
        RECORDER.begin(time)
        learner.learn(recipe, episodes, [0, 1])
    return RECORDER.phases


EFFICIENT = Selection(parameter_efficient=True, global_adapters=True)
TRAINED = {
    "first, nothing adapted": MetaTraining(FIRST, Selection(min_layer_with_grad=1), learner={"tasks_in_flight": 2}),
}
TRAINED_SLOWLY = {
    "last": MetaTraining(LAST, learner={"tasks_in_flight": 2}),
    "only, second order": MetaTraining(learner={"first_order": False}),
    "first": MetaTraining(FIRST),
    "first, nothing trained": MetaTraining(FIRST, Selection(parameter_efficient=True, min_layer_with_grad=1)),
    "middle, adapters": MetaTraining(MIDDLE, EFFICIENT, learner={"tasks_in_flight": 2}),
    "last, adapters": MetaTraining(LAST, EFFICIENT),
    "last, unclipped, euclidean": MetaTraining(LAST, method=Method(euclidean=True, max_grad_norm=0.0)),
    "last, nothing adapted in it": MetaTraining(LAST, Selection(min_layer_with_grad=9)),
    "only, warp layers, LAMB, ZeRO 1": MetaTraining(
        Place(replicas=2), Selection(warp_layers=True), settings={"optimizer": "lamb", "zero_stage": 1}
    ),
    "only, mean, adapters, second order": MetaTraining(
        selection=EFFICIENT, learner={"first_order": False}, pooling="mean"
    ),
}
META_CASES = [
    *(pytest.param(case, id=name) for name, case in TRAINED.items()),
    *(pytest.param(case, id=name, marks=pytest.mark.slow) for name, case in TRAINED_SLOWLY.items()),
]
QUICK = LAST, "head-only"
FEW_SHOT_CASES = [
    pytest.param(place, method, id=f"{name}, {method}", marks=[] if (place, method) == QUICK else pytest.mark.slow)
    for name, place in {"first": FIRST, "middle": MIDDLE, "last": LAST, "only": ONLY}.items()
    for method in METHODS
]


@pytest.fixture(scope="module")
def trained(fake_cuda: FakeCuda) -> Reports[dict[str, Phase]]:
    return Reports(lambda case: fake_cuda.run(meta_train, case))


@pytest.fixture(scope="module")
def learned(fake_cuda: FakeCuda) -> Reports[dict[str, Phase]]:
    return Reports(lambda place, method: fake_cuda.run(learn, place, method))


@pytest.mark.parametrize("case", META_CASES)
def test_meta_training_happens_on_one_device(trained: Reports[dict[str, Phase]], case: MetaTraining) -> None:
    phases = trained(case)
    assert all(phases[f"step {step}"].kernels for step in range(STEPS)) and phases["state"].kernels


@pytest.mark.parametrize("case", META_CASES)
def test_an_outer_step_waits_for_the_device_once_at_most(
    trained: Reports[dict[str, Phase]], case: MetaTraining
) -> None:
    steady = trained(case)[f"step {STEPS - 1}"]
    assert steady.waits.total() <= 1, steady.describe()
    assert all(copy.pinned and copy.non_blocking for copy in steady.copies if copy.to_device), steady.describe()


@pytest.mark.parametrize(("place", "method"), FEW_SHOT_CASES)
def test_few_shot_learning_happens_on_one_device(learned: Reports[dict[str, Phase]], place: Place, method: str) -> None:
    assert all(learned(place, method)[time].kernels for time in ("first", "second"))


@pytest.mark.parametrize(("place", "method"), FEW_SHOT_CASES)
def test_few_shot_learning_waits_for_the_losses_of_an_epoch_and_for_what_was_right(
    learned: Reports[dict[str, Phase]], place: Place, method: str
) -> None:
    second = learned(place, method)["second"]
    epochs, measured = (0 if method == "prototypes" else EPOCHS), 2 if place.stage == place.stages - 1 else 0
    assert second.waits.total() <= epochs + measured, second.describe()
    assert all(copy.pinned and copy.non_blocking for copy in second.copies if copy.to_device), second.describe()
