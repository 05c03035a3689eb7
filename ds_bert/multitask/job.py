"""The multi-task job, and candidates scored with the model as it is now: forwards only, pipelined, nothing dropped."""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ds_bert.engine.engine import Engine
from ds_bert.files import write_json
from ds_bert.modeling.config import load_model_config
from ds_bert.multitask.arguments import MultitaskArguments
from ds_bert.multitask.model import refuse_one_norm
from ds_bert.multitask.sampling import (
    ProportionalSampler,
    SequentialSampler,
    TaskSampler,
    UncertaintySampler,
    UniformSampler,
    entropies,
    most_uncertain,
    scores,
)
from ds_bert.multitask.task_list import ALL, AVERAGE, SPREAD
from ds_bert.multitask.tasks import DIAGNOSTIC, MultitaskTask
from ds_bert.tasks.task import SCORE, Examples, Task
from ds_bert.terminal import fact
from ds_bert.training.data_loader import DataLoader, Tensors, split_features
from ds_bert.training.finetuning import FinetuneJob
from ds_bert.training.job import Plan, Run
from ds_bert.training.lifecycle import share
from ds_bert.training.log import LOSS
from ds_bert.training.loop import Outcome
from ds_bert.training.starting_model import StartingModel


class Chooser:
    """Picks the candidates that the model is most uncertain of.

    Which candidates are computed together follows from their lengths alone, so that a pick does not depend on the
    number of replicas.

    Args:
        task: the tasks.
        loader: of their training examples.
        form: of uncertainty, see `ds_bert.multitask.sampling`.
        size: candidates of a micro-batch.
    """

    def __init__(self, task: MultitaskTask, loader: DataLoader, form: str, size: int) -> None:
        assert task.train is not None
        self.engine: Engine = loader.engine
        self.loader, self.form, self.size = loader, form, size
        self.lengths, self.labels = task.train.lengths, task.label_counts
        self.stand_in = task.stand_in()

    def __call__(self, candidates: np.ndarray) -> np.ndarray:
        """Return the places of as many candidates as one task has, the most uncertain first; a collective call.

        Args:
            candidates: numbers of examples, int64 (tasks, candidates of each).
        """
        entropy = self._entropies(candidates.reshape(-1))
        picks = None
        if self.engine.grid.rank == 0:
            found = scores(entropy.reshape(candidates.shape), self.labels, self.form, self.stand_in)
            picks = most_uncertain(found, candidates.shape[1])
        chosen = share(self.engine, picks)
        assert chosen is not None
        return chosen

    def _entropies(self, numbers: np.ndarray) -> np.ndarray:
        """Entropies of examples, float64, in their order, on rank 0; nothing elsewhere."""
        order = np.argsort(-self.lengths[numbers], kind="stable")
        parts = np.split(order, range(self.size, len(order), self.size))
        grid = self.engine.grid
        mine = range(grid.replica, len(parts), grid.num_replicas)
        batches = [(np.zeros_like(parts[number]), numbers[parts[number]]) for number in mine]
        outputs, _ = self.engine.predict(self.loader.micro_batches(batches, list(mine)))
        found = np.zeros(len(numbers))
        if outputs:
            logits = [outputs[number]["logits"].numpy() for number in range(len(parts))]
            found[order] = entropies(np.concatenate(logits))
        return found


def draw_scores(path: Path, scores: Mapping[str, float], average: float) -> None:
    """Draw a PNG with a bar for each task and a line at their average."""
    from matplotlib.figure import Figure  # not pyplot, whose state may be a notebook's

    figure = Figure(figsize=(max(4.0, 0.9 * len(scores)), 4.0), layout="constrained")
    axes = figure.subplots()
    bars = axes.bar(list(scores), list(scores.values()), color="tab:blue")
    axes.axhline(average, color="tab:orange", label=f"average {average:.3f}", zorder=0)
    axes.bar_label(bars, fmt="%.3f", fontsize=8, padding=1, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(ylabel=f"held out ({SCORE})")
    axes.margins(y=0.1)
    for label in axes.get_xticklabels():
        label.set(rotation=30, ha="right", rotation_mode="anchor")
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), frameon=False)
    figure.savefig(path, dpi=120)


CHART, SEEN = "scores.png", "data_seen.json"


def split_tasks(batch: Mapping[str, np.ndarray]) -> tuple[Tensors, Tensors]:
    """Split a batch into the first stage's inputs and the last stage's labels; both are told the tasks."""
    inputs, labels = split_features(batch)
    return {**inputs, "task_ids": labels["task_ids"]}, labels


class MultitaskJob(FinetuneJob[MultitaskArguments]):
    """One training of one model on many tasks."""

    task: MultitaskTask
    sampler: TaskSampler

    def __init__(
        self, plan: Plan[MultitaskArguments], run: Run, task: Task, source: StartingModel, config: Any
    ) -> None:
        super().__init__(plan, run, task, source, config)
        if self.found:
            refuse_one_norm(load_model_config(self.found), self.found)

    def do(self) -> tuple[int, dict[str, float]]:
        """Train, measure, predict; draw the tasks' scores."""
        status, measures = super().do()
        if self.grid.rank == 0 and measures and self.arguments.run_dir:
            names = [member.name for member in self.task.members]
            path = self.output_dir / CHART
            draw_scores(path, {name: measures[name] for name in names}, measures[AVERAGE])
            print(fact("chart", str(path)), flush=True)
        return status, measures

    def loader(self, examples: Examples) -> DataLoader:
        """What makes micro-batches of examples."""
        return DataLoader(examples, self.engine, split_tasks)

    def make_sampler(self, examples: Examples) -> TaskSampler:
        """What says which examples make up step t."""
        arguments, kind = self.arguments, self.arguments.task_sampling
        common = examples.lengths, self.task.sizes, self.plan.global_batch, arguments.seed
        if kind == "uncertainty":
            size = arguments.per_device_train_batch_size
            choose = Chooser(self.task, self.loader(examples), arguments.uncertainty_form, size)
            self.sampler = UncertaintySampler(*common, choose)
        elif kind == "proportional":
            self.sampler = ProportionalSampler(*common, arguments.length_window)
        else:
            self.sampler = {"uniform": UniformSampler, "sequential": SequentialSampler}[kind](*common)
        if "seen" in self.resumed:
            self.sampler.load(self.resumed)
        return self.sampler

    def state_of_course(self) -> dict[str, Any]:
        """Which examples were seen."""
        return self.sampler.state()

    def train(self) -> tuple[int, Outcome]:
        """Train; say which share of the examples was seen."""
        ended = super().train()
        if self.grid.rank == 0:
            self._report_seen()
        return ended

    def _report_seen(self) -> None:
        """Write and print which share of each task's examples was trained on at least once."""
        names = [member.name for member in self.task.members]
        seen = dict(zip(names, self.sampler.shares_seen(), strict=True)) | {ALL: float(self.sampler.seen.mean())}
        print(fact("seen", ", ".join(f"{name} {share:.1%}" for name, share in seen.items())), flush=True)
        if self.arguments.run_dir:
            write_json(self.output_dir / SEEN, seen)

    def measure(self, folder: Path | None = None) -> dict[str, float]:
        """Measure every task.

        Returns:
            The average of the tasks' scores and their standard deviation, over the tasks; each task's score under its
            name; then all measures, "task_measure", with the split's name where a task has several. A task's score is
            its best metric, the mean of its splits but the diagnostic one (MNLI has two). Last "task_loss", the mean of
            the same splits, and "loss", the mean over the tasks, as in training.
        """
        details: dict[str, float] = {}
        of_task: dict[str, list[float]] = {member.name: [] for member in self.task.members}
        losses: dict[str, list[float]] = {f"{name}_{LOSS}": [] for name in of_task}
        for member in self.task.members:
            for name in member.evaluation:
                found = self.outputs_of(self.task.evaluation[f"{member.name}/{name}"], folder)
                which = "" if len(member.evaluation) == 1 else f"_{name.removeprefix('validation_')}"
                details |= {f"{member.name}{which}_{key}": value for key, value in found.items()}
                if name != DIAGNOSTIC:
                    of_task[member.name].append(found[member.best_metric])
                    losses[f"{member.name}_{LOSS}"].append(found[LOSS])
        scores, means = ({name: statistics.mean(all_) for name, all_ in part.items()} for part in (of_task, losses))
        average, spread = statistics.mean(scores.values()), statistics.pstdev(scores.values())
        return {AVERAGE: average, SPREAD: spread, **scores, **details, **means, LOSS: statistics.mean(means.values())}
