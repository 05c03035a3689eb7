"""The fine-tuning job: train on a task's examples, keep the best checkpoint, measure, write predictions."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ds_bert.checkpoint.folders import checkpoint_folder
from ds_bert.checkpoint.saving import describe_model
from ds_bert.checkpoint.training_state import load_checkpoint, read_state
from ds_bert.data.feature_cache import cache_folder
from ds_bert.data.features import Features
from ds_bert.data.labels import head_names
from ds_bert.data.sampler import LengthGroupedSampler
from ds_bert.engine.engine import Engine
from ds_bert.engine.process_group import Grid
from ds_bert.errors import UserError
from ds_bert.files import write_json
from ds_bert.modeling.config import load_model_config, refuse_pairs
from ds_bert.modeling.costs import training_flops
from ds_bert.modeling.model import build_config
from ds_bert.tasks.task import SPLITS, DataOptions, Examples, Outputs, Split, Task, TaskOptions
from ds_bert.terminal import fact, table
from ds_bert.training.data_loader import DataLoader
from ds_bert.training.job import Job, Plan, Run, all_ranks
from ds_bert.training.job_arguments import FinetuneArguments
from ds_bert.training.lifecycle import keep_settings, share
from ds_bert.training.log import LOSS, Measures
from ds_bert.training.loop import Best, Course
from ds_bert.training.meter import Workload
from ds_bert.training.seeds import RESULTS, claim_seeds, for_each_seed, report_seeds
from ds_bert.training.settings import total_steps
from ds_bert.training.starting_model import StartingModel, build_engine, check_weights

A = TypeVar("A", bound=FinetuneArguments)
Options = TypeVar("Options", bound=TaskOptions)


def data_options(arguments: FinetuneArguments) -> DataOptions:
    """What every task is told of the data, as the flags say it.

    Raises:
        UserError: nothing is asked for, or a number of examples is below 0.
    """
    wanted = dict(zip(SPLITS, (arguments.do_train, arguments.do_eval, arguments.do_predict), strict=True))
    if not any(wanted.values()):
        raise UserError("nothing to do: needed is at least one of --do_train, --do_eval and --do_predict")
    return DataOptions(
        arguments.max_seq_length,
        {split for split, is_wanted in wanted.items() if is_wanted},
        cache_folder(arguments.cache_dir),
        arguments.overwrite_cache,
        arguments.max_train_samples or None,
        arguments.max_eval_samples or None,
        arguments.max_predict_samples or None,
    )


def options_of(kind: type[Options], arguments: FinetuneArguments) -> Options:
    """What a task is told: `data_options`, and of the other flags those that its options have the names of.

    Raises:
        UserError: as `data_options`, or as ``kind`` does.
    """
    named = {each.name for each in fields(kind)} & vars(arguments).keys()
    values: dict[str, Any] = {name: value for name in named if (value := getattr(arguments, name)) != ""}
    return kind(data_options(arguments), **values)


class FinetuneJob(Job[A]):
    """One fine-tuning with one seed.

    Args:
        plan: how it is carried out.
        run: what it is known by, and starts from.
        task: what to train, measure and predict.
        source: model to start from.
        config: its configuration with the task's head.

    Raises:
        UserError: the output folder is occupied, or a run with other labels is to be gone on with.
    """

    def __init__(self, plan: Plan[A], run: Run, task: Task, source: StartingModel, config: Any) -> None:
        self.task, self.source, self.config = task, source, config
        super().__init__(plan, run)
        if self.found:
            _check_labels(self.found, config, task.head)
        self.resumed: dict[str, Any] = {}  # the run's state in the checkpoint that it goes on from

    @property
    def output_dir(self) -> Path:
        """Where the run is kept; not to be asked for where it is not."""
        assert self.arguments.run_dir
        return self.arguments.run_dir

    def build_engine(self, grid: Grid) -> Engine:
        """Build this process's stage."""
        settings = replace(self.plan.settings, seed=self.arguments.seed)
        count = self.arguments.gradient_accumulation_steps
        return build_engine(self.config, self.task.head, self.task.objective, grid, settings, count)

    def resume(self) -> Path | None:
        """Load and return the newest checkpoint, if there is one, or, where nothing is to be trained, the best one."""
        newest = super().resume()
        if newest is None:
            return None
        self.resumed = read_state(newest)
        step = (self.resumed.get("best") or {}).get("step")
        if self.arguments.do_train or step is None:
            return newest
        best = checkpoint_folder(self.output_dir, step)
        if not share(self.engine, best != newest and best.is_dir()):
            return newest
        load_checkpoint(best, self.engine)
        return best

    def do(self) -> tuple[int, dict[str, float]]:
        """Train, measure, predict; return the exit status and the measures."""
        measured: dict[str, float] | None = None
        if self.arguments.do_train:
            status, measured = self._train_for_the_best()
            if status:
                return status, {}
        else:
            self.show(None)
            keep_settings(self.engine, self.arguments, self.grid.stage_map)
        measures = (measured or self.measure(self._folder("evaluation"))) if self.arguments.do_eval else {}
        self._write(RESULTS, measures)
        if self.grid.rank == 0 and measures:
            rows = [(name, f"{value:.4f}") for name, value in measures.items()]
            print(table(("measure", "value"), rows, texts=("measure",)), flush=True)
        if self.arguments.do_predict:
            for name, split in self.task.prediction.items():
                self._write(f"{name}_results.json", self.outputs_of(split, self._folder("predictions")))
        return 0, measures

    def _train_for_the_best(self) -> tuple[int, dict[str, float] | None]:
        """Train; go back to the best checkpoint; return the exit status, and that checkpoint's measures if known."""
        status, outcome = self.train()
        best, last = self._best, self.engine.steps_done == self._steps
        if best is None or best.step is None or (last and best.step == self._steps):
            return status, outcome.evaluation
        if not status:
            load_checkpoint(checkpoint_folder(self.output_dir, best.step), self.engine)
        return status, None

    def make_course(self) -> Course:
        """Train on the task's examples; measure all evaluation splits, and at the end write their files."""
        examples = self.task.train
        assert examples is not None
        sampler = self.make_sampler(examples)
        self._steps = steps = total_steps(self.arguments, sampler.steps_per_epoch)

        def measure() -> dict[str, float]:
            return self.measure(self._folder("evaluation") if self.engine.steps_done == steps else None)

        evaluate = measure if self.arguments.do_eval else None
        return Course(self.loader(examples), sampler, steps, evaluate, self.state_of_course)

    def loader(self, examples: Examples) -> DataLoader:
        """What makes micro-batches of examples."""
        return DataLoader(examples, self.engine)

    def make_sampler(self, examples: Examples) -> Any:
        """What says which examples make up step t."""
        arguments = self.arguments
        return LengthGroupedSampler(examples.lengths, self.plan.global_batch, arguments.seed, arguments.length_window)

    def state_of_course(self) -> dict[str, Any]:
        """What a checkpoint keeps of the course at this step, as JSON."""
        return {}

    def best(self) -> Best | None:
        """What chooses the best checkpoint, where the run is measured and kept."""
        arguments = self.arguments
        metric = arguments.metric_for_best_model or self.task.best_metric
        is_chosen = arguments.do_eval and arguments.run_dir
        self._best = Best(metric, arguments.early_stopping_patience, self.resumed.get("best")) if is_chosen else None
        return self._best

    def measures(self, best: Best | None) -> Measures:
        """What charts show of evaluations."""
        return Measures(self.task.measures, self.task.unit, self.task.loss_unit, best.found if best else None)

    def overview(self) -> list[tuple[str, str]]:
        """How many examples there are."""
        task, splits = self.task, {**self.task.evaluation, **self.task.prediction}
        counts = [f"{len(task.train):,} to train on"] if task.train is not None and self.arguments.do_train else []
        counts += [f"{len(split.examples):,} of {name}" for name, split in splits.items()]
        return [("data", f"{task.name}, examples: {', '.join(counts)}")]

    def work(self) -> Workload:
        """What it takes to train on an example, on average over all: each of its sequences as long as it is."""
        examples = self.task.train
        assert examples is not None
        lengths = examples.sequence_lengths if isinstance(examples, Features) else examples.lengths
        distinct, counts = np.unique(lengths, return_counts=True)
        flops = [training_flops(self.config, length, head=self.task.head) for length in distinct.tolist()]
        return Workload(float(lengths.sum()) / len(examples), float(np.dot(flops, counts)) / len(examples))

    def writer(self) -> Callable[[Path], None]:
        """Return what writes the model's configuration and tokenizer into a checkpoint."""
        return describe_model(self.config, self.source.tokenizer)

    def _folder(self, name: str) -> Path | None:
        """A folder of the run's; None where nothing is kept."""
        return self.output_dir / name if self.arguments.run_dir else None

    def _write(self, name: str, measures: dict[str, float]) -> None:
        if self.grid.rank == 0 and measures and self.arguments.run_dir:
            write_json(self.output_dir / name, measures)

    def measure(self, folder: Path | None = None) -> dict[str, float]:
        """Measure all evaluation splits, the first one's measures by their plain names; write their files."""
        measures: dict[str, float] = {}
        for place, (name, split) in enumerate(self.task.evaluation.items()):
            found = self.outputs_of(split, folder)
            measures |= {f"{name}_{key}" if place else key: value for key, value in found.items()}
        return measures

    def outputs_of(self, split: Split, folder: Path | None) -> dict[str, float]:
        """Compute a split's outputs; return its measures, the loss last, on all processes; write its files.

        Raises:
            UserError: on all processes, where measuring or writing raised it.
        """
        size = self.arguments.per_device_eval_batch_size
        outputs, loss = self.loader(split.examples).predict(split.examples.lengths, size)
        measures: dict[str, float] = {}
        refusal: UserError | None = None
        if self.grid.rank == 0:
            try:
                measures = dict(_interpret(split, outputs, folder))
                if loss is not None:
                    measures.setdefault(LOSS, loss)
            except UserError as error:
                refusal = error
        measures, refusal = share(self.engine, (measures, refusal))
        if refusal:
            raise refusal
        return measures


def _interpret(split: Split, outputs: Sequence[Outputs], folder: Path | None) -> dict[str, float]:
    """Write a split's files, if there is a folder for them; return its measures."""
    said = split.decode(outputs) if split.decode else outputs
    measures = split.measure(said) if split.measure else {}
    if folder and split.write:
        folder.mkdir(parents=True, exist_ok=True)
        for path in split.write(said, folder):
            print(fact("wrote", str(path)), flush=True)
    return measures


def fine_tune(task: Task, plan: Plan[A], source: StartingModel, kind: type[FinetuneJob] = FinetuneJob) -> int:
    """Do what the arguments say, once for every seed.

    Args:
        task: what to train, measure and predict.
        plan: from `make_plan`.
        source: model to start from.
        kind: of the job.

    Returns:
        The exit status: 0, or 128 + the signal that ended it early.

    Raises:
        UserError: something is wrong with what the user handed in, found before any process waits for another.
    """
    arguments = plan.arguments
    _check_task(task, arguments, source.fields["type_vocab_size"])
    config = source.config_for(task.config, task.head)
    run = Run(source.fields, task.fingerprint or None, source.weights, notes=task.all_notes)
    if source.weights:
        fresh, lacking = check_weights(source.weights, config, task.head, arguments.drop_classifier)
        run = replace(run, fresh=fresh, fresh_note=lacking)
    of_seeds = for_each_seed(arguments)
    claim_seeds(arguments)
    waiting = deque(kind(replace(plan, arguments=told), run, task, source, config) for told in of_seeds)
    results = []
    with all_ranks(arguments, plan.stage_map, plan.settings) as (grid, heartbeat):
        while waiting:
            status, measures = waiting.popleft().carry_out(grid, heartbeat)  # nobody keeps it: the next needs memory
            heartbeat.steps_done = lambda: 0
            if status:
                return status
            results.append(measures)
    if len(of_seeds) > 1 and grid.rank == 0 and arguments.run_dir:
        report_seeds(arguments.run_dir, arguments.seeds, results)
    return 0


def _check_task(task: Task, arguments: FinetuneArguments, type_vocab_size: int) -> None:
    if arguments.measures_speed and not arguments.do_train:
        raise UserError("--num_minibatches measures how fast training is; give --do_train, or leave it out")
    for flag, found in (
        ("do_train", task.train is not None and len(task.train) > 0),
        ("do_eval", bool(task.evaluation)),
        ("do_predict", bool(task.prediction)),
    ):
        if getattr(arguments, flag) and not found:
            raise UserError(f"--{flag}: {task.name} has no examples for it")
    splits = {**task.evaluation, **task.prediction}
    for name, examples in (("train", task.train), *((name, split.examples) for name, split in splits.items())):
        if isinstance(examples, Features) and examples.has_pairs.any():
            refuse_pairs(f"{task.name} ({name})", type_vocab_size)
    metric = arguments.metric_for_best_model
    if metric and task.measures and metric not in (*task.measures, LOSS):
        known = ", ".join((*task.measures, LOSS))
        raise UserError(f"--metric_for_best_model {metric}: {task.name} is measured by {known}")


def _check_labels(checkpoint: Path, config: Any, head: str | Callable[[Any], Any]) -> None:
    """Refuse to go on from a checkpoint whose head has the labels in another order than they have now."""
    before, now = _labels_of(build_config(load_model_config(checkpoint), head)), _labels_of(config)
    if before != now:
        raise UserError(
            f"{checkpoint}: its head's labels are {before}, now they are {now}; needed is what the run began with, "
            "--model_name_or_path and --drop_classifier included"
        )


def _labels_of(config: Any) -> str:
    """List the labels of a model's head, or of its tasks' decoders, in the order of their rows."""
    tasks = getattr(config, "tasks", None)
    heads = [task["labels"] for task in tasks] if tasks else [dict(sorted(config.id2label.items())).values()]
    return "; ".join(", ".join(names) for names in heads)


def kept_labels(source: StartingModel, drop_classifier: bool) -> list[str] | None:
    """Names of the labels that a trained classifier tells apart, in the order of its rows.

    None where the job begins with a fresh one: the model has none, or ``drop_classifier`` says so.

    Raises:
        UserError: the configuration's names are not those of the classifier's rows, or contradict each other.
    """
    weights, matrix = source.weights, "classifier.weight"  # the last matrix of every head that tells labels apart
    if weights is None or drop_classifier or matrix not in weights:
        return None
    return head_names(source.fields, weights.shape(matrix)[0], str(weights.folder / "config.json"))
