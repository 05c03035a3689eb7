"""One rank of the real engine on the fake device: built, trained, drained, measured, and asked for its state."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from ds_bert.checkpoint.tensors import copies
from ds_bert.engine.buckets import Share
from ds_bert.engine.engine import Engine
from ds_bert.engine.process_group import Grid, start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.modeling.conditional import MultitaskHead
from ds_bert.modeling.model import Layer, model_layers
from ds_bert.multitask.job import split_tasks
from ds_bert.multitask.objective import objective_of
from ds_bert.stage_map import StageMap
from ds_bert.tasks.classification import ClassificationObjective
from ds_bert.training.data_loader import DataLoader, split_features
from ds_bert.training.pretraining import PretrainingObjective, split_batch
from ds_bert.training.starting_model import build_engine
from tests.support.fake_cuda import processes
from tests.support.fake_cuda.recording import RECORDER, Phase
from tests.support.fine_tuning import examples, objective
from tests.support.models import CHOICES, toy_model
from tests.support.toy import ROWS, global_batch

CUTS = {1: (0, 4), 2: (0, 2, 4), 3: (0, 2, 3, 4)}
"""Of embeddings, two encoder layers, and a head."""
SIZE, MICRO_BATCHES, EVALUATED = 2, 3, 2
CONDITIONAL, REGRESSION = "conditional", "regression"  # beside the names of heads
TASKS = [("two", 2), ("number", 0), ("three", 3)]
T = TypeVar("T")
_TOKENS = ("input_ids", "token_type_ids", "attention_mask")
Batch = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Place:
    """A rank of a grid: that of replica ``replica`` of ``replicas`` on stage ``stage`` of ``stages``."""

    stages: int = 1
    stage: int = 0
    replicas: int = 1
    replica: int = 0

    def start(self, cuts: Mapping[int, Sequence[int]] = CUTS) -> Grid:
        """Join the made-up processes."""
        of_stages = cuts[self.stages]
        owners = tuple(stage for stage in range(self.stages) for _ in range(of_stages[stage], of_stages[stage + 1]))
        ranks = np.arange(self.stages * self.replicas).reshape(self.stages, self.replicas).tolist()
        processes.become(self.stage * self.replicas + self.replica, self.stages * self.replicas)
        grid = start_process_group(StageMap(owners, tuple(map(tuple, ranks))), timeout_seconds=60)
        assert grid.device.type == "cuda" and grid.backend == "nccl"
        return grid


@dataclass(frozen=True)
class Case:
    """One rank of a job.

    Args:
        place: which.
        head: a head's name, `REGRESSION` or `CONDITIONAL`.
        family: "bert" or "albert".
        model: changes of the toy's configuration.
        settings: of the engine.
        padded: whether batches have padding, and so a mask.
        pairs: the measures of pre-training's pairs.
    """

    place: Place = Place()
    head: str = "pretraining"
    family: str = "bert"
    model: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    padded: bool = True
    pairs: str = "nsp"

    @property
    def steps(self) -> int:
        """Until the last one is like all that would follow: 2BW's pipeline fills first."""
        return 4 if self.settings.get("schedule") == "2bw" else 3

    @property
    def is_first(self) -> bool:
        """Whether inputs are copied to the device."""
        return self.place.stage == 0

    @property
    def is_last(self) -> bool:
        """Whether labels are copied to the device."""
        return self.place.stage == self.place.stages - 1


@dataclass(frozen=True)
class Report:
    """What was recorded, by phase: "build", "step 0", …, "drain", "evaluate", "predict", "state".

    Args:
        steps: how many were taken.
        phases: see above.
        bytes_held: on the device between two steps.
        parameters: of the stage.
    """

    steps: int
    phases: dict[str, Phase]
    bytes_held: int
    parameters: int

    @property
    def steady(self) -> Phase:
        """The last step."""
        return self.phases[f"step {self.steps - 1}"]


class _Toy:
    """A data set, and its sampler: every batch is the first rows of the toy's first global batch."""

    def __init__(self, case: Case) -> None:
        self.case, self.lengths = case, np.full(4 * ROWS, 16)

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, epochs: Any, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Some rows of a global batch."""
        rows = len(numbers) * (CHOICES if self.case.head == "multiple-choice" else 1)
        whole = self._global_batch()
        per_row = {name: array[: rows if name in _TOKENS else len(numbers)] for name, array in whole.items()}
        if not self.case.padded:
            del per_row["attention_mask"]
        return per_row

    def _global_batch(self) -> Batch:
        if self.case.head == CONDITIONAL:
            batch = {name: array for name, array in global_batch(0).items() if name in _TOKENS}
            tasks = np.arange(ROWS) % len(TASKS)
            return batch | {"task_ids": tasks, "labels": np.ones(ROWS, np.float32)}
        if self.case.head == REGRESSION:
            return examples("sequence-classification", 0) | {"labels": np.linspace(0, 1, ROWS, dtype=np.float32)}
        return examples(self.case.head, 0)

    def micro_batch(self, step: int, replica: int, index: int, size: int, replicas: int) -> tuple[Any, np.ndarray]:
        """What a sampler says."""
        return np.zeros(size, np.int64), np.arange(size)

    def shapes(self, count: int, split: Callable[[Any], Any]) -> list[tuple[int, ...]]:
        """What the first stage says of so many micro-batches."""
        inputs = split(self.batch(None, np.arange(SIZE)))[0]
        return [(*inputs["input_ids"].shape, int("attention_mask" in inputs))] * count


def _parts(case: Case) -> tuple[str | Callable[[Any], Layer], Any, Callable[[Any], Any], dict[str, Any]]:
    """Head, objective, how a batch is split, and what the configuration has besides."""
    if case.head == CONDITIONAL:
        tasks = [{"name": name, "labels": list(range(count))} for name, count in TASKS]
        return MultitaskHead, objective_of(TASKS), split_tasks, {"tasks": tasks, "conditional_length": 16}
    if case.head == REGRESSION:
        return "sequence-classification", ClassificationObjective(1, regression=True), split_features, {"num_labels": 1}
    if case.head == "pretraining":
        return case.head, PretrainingObjective(case.pairs), split_batch, {}
    return case.head, objective(case.head), split_features, {}


def names_by_stage(layers: Sequence[Callable[[], Layer]], cuts: Sequence[int]) -> list[list[str]]:
    """The parameters' names of every stage, as its own process would gather them."""
    with torch.device("meta"):
        built = [make() for make in layers]
    names = [[layer.hugging_face_name(name) for name, _ in layer.named_parameters()] for layer in built]
    stages = [names[begin:end] for begin, end in pairwise(cuts)]
    return [list(dict.fromkeys(name for layer in stage for name in layer)) for stage in stages]


def let_peers_answer(grid: Grid, layers: Sequence[Callable[[], Layer]]) -> None:
    """Let the other ranks name their stages' parameters where this one does, and predict where rank 0 gathers."""
    names = names_by_stage(layers, grid.stage_map.cuts)

    def answer(rank: int, mine: Any) -> Any:
        if isinstance(mine, tuple):  # outputs by the numbers of micro-batches, which replicas take in turn, and sums
            outputs, sums = mine
            return {number + rank: output for number, output in outputs.items()}, sums
        return names[rank // grid.num_replicas] if mine == names[grid.stage] else mine

    processes.peers_say(answer)


def build(case: Case, grid: Grid) -> tuple[Engine, _Toy, DataLoader]:
    """This rank's engine, its data, and what feeds it."""
    head, goal, split, model = _parts(case)
    drop = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    name = head if isinstance(head, str) else "sequence-classification"
    config = toy_model(case.family, name, **(drop | {"num_hidden_layers": 2} | model | case.model))
    let_peers_answer(grid, model_layers(config, head))
    engine = build_engine(config, head, goal, grid, EngineSettings(**case.settings), MICRO_BATCHES)
    toy = _Toy(case)
    share = engine.share_shapes

    def shapes(own: Any, count: int) -> list[tuple[int, ...]]:
        """What this stage is told: the first stage is made up, too, where this is not the first."""
        return share(own, count) and toy.shapes(count, split)

    engine.share_shapes = shapes  # type: ignore[method-assign]
    return engine, toy, DataLoader(toy, engine, split)


def reload(engine: Engine) -> None:
    """Copy the state to the host, and load it."""
    shares = list(engine.optimizer.shares(engine.steps_done))
    copied = copies({f"{share.kind}/{share.name}": share.part for share in shares})

    def read(share: Share) -> None:
        share.part.copy_(copied[f"{share.kind}/{share.name}"])

    scalars = engine.optimizer.scalars(engine.steps_done)
    engine.optimizer.load(read, {share.kind for share in shares}, scalars, engine.steps_done)


def run(case: Case) -> Report:
    """Run the case on the fake device."""
    from tests.support.fake_cuda.device import bytes_on_device  # only where the device is

    grid = case.place.start()
    RECORDER.begin("build")
    engine, toy, loader = build(case, grid)
    for step in range(case.steps):
        RECORDER.step = step
        RECORDER.begin(f"step {step}")
        batches = loader.step(toy, step, SIZE, MICRO_BATCHES)
        engine.train_batch(batches, 1e-3, votes=[0.0, 0.0])
    del batches
    RECORDER.step += 1
    RECORDER.begin("drain")
    engine.drain()
    held = bytes_on_device()
    RECORDER.begin("evaluate")
    loader.measure(EVALUATED * SIZE * grid.num_replicas, SIZE)
    RECORDER.begin("predict")
    loader.predict(toy.lengths[: EVALUATED * SIZE * grid.num_replicas], SIZE)
    RECORDER.begin("state")
    reload(engine)
    RECORDER.begin("after")
    parameters = engine.module.parameters_by_name().values()
    return Report(case.steps, RECORDER.phases, held, sum(item.numel() for item in parameters))


class Reports(Generic[T]):
    """Runs each case once, for all tests that ask for it."""

    def __init__(self, run: Callable[..., T]) -> None:
        self._run, self._known = run, dict[str, T]()

    def __call__(self, *case: Any) -> T:
        key = repr(case)
        if key not in self._known:
            self._known[key] = self._run(*case)
        return self._known[key]
