"""One fine-tuning with one seed: train, go back to the best checkpoint, measure, predict."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ds_bert.checkpoint.folders import checkpoint_folder
from ds_bert.checkpoint.training_state import describe_model, go_on, load_checkpoint, read_state
from ds_bert.data.features import Features
from ds_bert.data.sampler import LengthGroupedSampler
from ds_bert.engine.process_group import Grid
from ds_bert.engine.settings import EngineSettings
from ds_bert.errors import UserError
from ds_bert.files import write_json
from ds_bert.modeling.costs import training_flops
from ds_bert.tasks.task import Examples, Outputs, Split, Task
from ds_bert.training.agreement import check_agreement
from ds_bert.training.best import LOSS, Best
from ds_bert.training.build import build_engine, load_weights
from ds_bert.training.charts import Measures
from ds_bert.training.checks import total_steps
from ds_bert.training.feed import Feed
from ds_bert.training.finetune_arguments import FinetuneArguments
from ds_bert.training.log import RunLog
from ds_bert.training.loop import Training
from ds_bert.training.meter import Meter, Work
from ds_bert.training.model_source import Source
from ds_bert.training.overview import (
    describe_batch,
    describe_engine,
    describe_resumption,
    describe_steps,
    show_overview,
)
from ds_bert.training.run import conclude, keep_settings, share

RESULTS = "eval_results.json"


class FinetuneRun:
    """One training with one seed.

    Args:
        task, arguments, source, settings: see `ds_bert.training.finetuning.fine_tune`.
        config: the model's configuration with the head.
        fresh: names that keep their fresh weights.
        grid: this process's place.
    """

    def __init__(
        self,
        task: Task,
        arguments: FinetuneArguments,
        source: Source,
        config: Any,
        fresh: Sequence[str],
        grid: Grid,
        settings: EngineSettings,
    ) -> None:
        self.task, self.arguments, self.source, self.config, self.grid = task, arguments, source, config, grid
        size, micro_batches = arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps
        settings = replace(settings, seed=arguments.seed)
        self.engine = build_engine(config, task.head, task.objective, grid, settings, micro_batches)
        if source.weights:
            load_weights(self.engine, source.weights, fresh)
        self.global_batch = size * micro_batches * grid.num_replicas
        self.resumed_from: Path | None = None  # the checkpoint that the run goes on from
        self.resumed: dict[str, Any] = {}  # its state of the run

    @property
    def output_dir(self) -> Path:
        """Where the run is kept; not to be asked for where it is not."""
        assert self.arguments.run_dir
        return self.arguments.run_dir

    def steps_done(self) -> int:
        """Optimizer steps that are done."""
        return self.engine.steps_done

    def do(self, checkpoint: Path | None) -> tuple[int, dict[str, float]]:
        """Train, measure, predict; return the exit status and the measures."""
        check_agreement(self.engine, self.arguments, self.grid.stage_map, self.task.fingerprint)
        self.resumed_from = self._go_on(checkpoint)
        measured: dict[str, float] | None = None
        if not self.arguments.do_train:
            self._show_overview()
            keep_settings(self.engine, self.arguments, self.grid.stage_map)
        else:
            status, measured = self._train()
            if status:
                return status, {}
        measures = (measured or self._measure(self._folder("evaluation"))) if self.arguments.do_eval else {}
        self._write(RESULTS, measures)
        if self.grid.rank == 0 and measures:
            print("\n".join(f"{name:<32} {value:.4f}" for name, value in measures.items()), flush=True)
        if self.arguments.do_predict:
            self._predict()
        return 0, measures

    def _show_overview(self, steps: int = 0, steps_per_epoch: float = 0.0) -> None:
        """Say what this run is about to do; ``steps`` are 0 where nothing is trained."""
        arguments, task, sizes = self.arguments, self.task, []
        lines = describe_engine(self.engine, self.source.fields, self.source.origin)
        if task.train is not None and steps:
            lines.append(("batch", describe_batch(arguments, self.grid.num_replicas)))
            lines.append(("steps", describe_steps(arguments, steps, steps_per_epoch)))
            sizes.append(f"{len(task.train):,} to train on")
        splits = {**task.evaluation, **task.prediction}
        sizes += [f"{len(split.examples):,} of {name}" for name, split in splits.items()]
        lines.append(("data", f"{task.name}, examples: {', '.join(sizes)}"))
        lines += describe_resumption(arguments, self.resumed_from, trains=steps > 0)
        show_overview(self.grid, lines, task.all_notes)

    def _go_on(self, found: Path | None) -> Path | None:
        """Load and return the newest checkpoint, if there is one, or, where nothing is to be trained, the best one."""
        newest = go_on(self.engine, self.arguments.run_dir, found)
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

    def _folder(self, name: str) -> Path | None:
        """A folder of the run's; None where nothing is kept."""
        return self.output_dir / name if self.arguments.run_dir else None

    def _write(self, name: str, measures: dict[str, float]) -> None:
        if self.grid.rank == 0 and measures and self.arguments.run_dir:
            write_json(self.output_dir / name, measures)

    def _train(self) -> tuple[int, dict[str, float] | None]:
        """Train; go back to the best checkpoint; return the exit status, and that checkpoint's measures if known."""
        arguments, task, engine = self.arguments, self.task, self.engine
        assert task.train is not None
        sampler = self.make_sampler(task.train)
        steps = total_steps(arguments, sampler.steps_per_epoch)
        self._show_overview(steps, sampler.steps_per_epoch)
        keep_settings(engine, arguments, self.grid.stage_map)
        log = RunLog(arguments.run_dir, self.grid.rank == 0, engine.steps_done, steps, not arguments.disable_tqdm)
        meter = Meter(engine, _work(self.config, task), arguments.peak_tflops)
        best = None
        if arguments.do_eval and arguments.run_dir:
            metric = arguments.metric_for_best_model or task.best_metric
            best = Best(metric, arguments.early_stopping_patience, self.resumed.get("best"))

        def measure() -> dict[str, float]:
            return self._measure(self._folder("evaluation") if engine.steps_done == steps else None)

        training = Training(
            engine,
            arguments,
            self.feed(task.train),
            sampler,
            steps,
            measure if arguments.do_eval else None,
            describe_model(self.config, self.source.tokenizer),
            {
                "arguments": asdict(arguments),
                "global_batch": self.global_batch,
                "model": self.source.fields,
                "data": task.fingerprint,
            },
            log,
            meter,
            best,
            self.state_now,
        )
        outcome = training.run()
        shown = Measures(task.measures, task.unit, task.loss_unit, best.found if best else None)
        status = conclude(engine, arguments, self.grid.stage_map, outcome, log, meter, shown)
        if best is None or best.step is None or best.step == engine.steps_done == steps:
            return status, outcome.evaluation
        if not status:
            load_checkpoint(checkpoint_folder(self.output_dir, best.step), engine)
        return status, None

    def feed(self, examples: Examples) -> Feed:
        """What makes micro-batches of examples."""
        return Feed(examples, self.engine)

    def make_sampler(self, examples: Examples) -> Any:
        """What says which examples make up step t."""
        arguments = self.arguments
        return LengthGroupedSampler(examples.lengths, self.global_batch, arguments.seed, arguments.length_window)

    def state_now(self) -> dict[str, Any]:
        """What else a checkpoint keeps of the run at this step, as JSON."""
        return {}

    def _measure(self, folder: Path | None = None) -> dict[str, float]:
        """Measure all evaluation splits, the first one's measures by their plain names; write their files."""
        measures: dict[str, float] = {}
        for place, (name, split) in enumerate(self.task.evaluation.items()):
            found = self._outputs_of(split, folder)
            measures |= {f"{name}_{key}" if place else key: value for key, value in found.items()}
        return measures

    def _outputs_of(self, split: Split, folder: Path | None) -> dict[str, float]:
        """Compute a split's outputs; return its measures, the loss last, on all processes; write its files.

        Raises:
            UserError: on all processes, where measuring or writing raised it.
        """
        size = self.arguments.per_device_eval_batch_size
        outputs, loss = self.feed(split.examples).predict(split.examples.lengths, size)
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

    def _predict(self) -> None:
        for name, split in self.task.prediction.items():
            self._write(f"{name}_results.json", self._outputs_of(split, self._folder("predictions")))


def _work(config: Any, task: Task) -> Work:
    """What it takes to train on an example, on average over all: each of its sequences as long as it is."""
    examples = task.train
    assert examples is not None
    lengths = examples.sequence_lengths if isinstance(examples, Features) else examples.lengths
    distinct, counts = np.unique(lengths, return_counts=True)
    flops = [training_flops(config, length, head=task.head) for length in distinct.tolist()]
    return Work(float(lengths.sum()) / len(examples), float(np.dot(flops, counts)) / len(examples))


def _interpret(split: Split, outputs: Sequence[Outputs], folder: Path | None) -> dict[str, float]:
    """Write a split's files, if there is a folder for them; return its measures."""
    said = split.decode(outputs) if split.decode else outputs
    measures = split.measure(said) if split.measure else {}
    if folder and split.write:
        folder.mkdir(parents=True, exist_ok=True)
        for path in split.write(said, folder):
            print(f"wrote:  {path}", flush=True)
    return measures
