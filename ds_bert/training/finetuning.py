"""The fine-tuning job: train on a task's examples, keep the best checkpoint, measure, write predictions."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from ds_bert.checkpoint.folders import checkpoint_folder
from ds_bert.checkpoint.training_state import describe_model, load_checkpoint, load_newest
from ds_bert.data.sampler import LengthGroupedSampler
from ds_bert.engine.process_group import Grid, start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.errors import UserError
from ds_bert.files import write_json
from ds_bert.stage_map import StageMap
from ds_bert.tasks.task import Split, Task
from ds_bert.training.best import Best
from ds_bert.training.build import build_engine, load_weights
from ds_bert.training.checks import check_numbers, total_steps
from ds_bert.training.deepspeed_config import apply_deepspeed_config
from ds_bert.training.feed import Feed
from ds_bert.training.finetune_arguments import FinetuneArguments
from ds_bert.training.log import RunLog
from ds_bert.training.loop import Training
from ds_bert.training.model_source import Source, default_cache_dir
from ds_bert.training.parameter_groups import with_layerwise_decay
from ds_bert.training.placement import check_schedule, choose_stage_map
from ds_bert.training.run import claim_run, conclude, failing_by_name, keep_settings, share
from ds_bert.training.weights import check_weights

RESULTS = "eval_results.json"
Arguments = TypeVar("Arguments", bound=FinetuneArguments)


def place(
    arguments: Arguments, given: set[str], model: Mapping[str, Any], head: str | Callable[[Any], Any]
) -> tuple[Arguments, EngineSettings, StageMap]:
    """Choose the stage map, unite the arguments with DeepSpeed's JSON, and check them.

    Args:
        arguments, given: as parsed.
        model: the model's configuration.
        head: of the task.

    Raises:
        UserError: the map is wrong, arguments contradict each other, or a schedule cannot run them.
    """
    stage_map = choose_stage_map(arguments, given, model, arguments.max_seq_length, head=head)
    arguments, settings = apply_deepspeed_config(arguments, given, stage_map.num_replicas)
    check_numbers(arguments)
    check_schedule(arguments, stage_map)
    return arguments, settings, stage_map


def data_options(arguments: FinetuneArguments) -> dict[str, Any]:
    """What every task's builder is told of the data, as keyword arguments."""
    wanted = {"train": arguments.do_train, "eval": arguments.do_eval, "predict": arguments.do_predict}
    if not any(wanted.values()):
        raise UserError("nothing to do: needed is at least one of --do_train, --do_eval and --do_predict")
    return {
        "splits": {split for split, is_wanted in wanted.items() if is_wanted},
        "max_seq_length": arguments.max_seq_length,
        "cache_dir": Path(arguments.cache_dir) if arguments.cache_dir else default_cache_dir(),
        "overwrite_cache": arguments.overwrite_cache,
        "max_train_samples": arguments.max_train_samples or None,
        "max_eval_samples": arguments.max_eval_samples or None,
        "max_predict_samples": arguments.max_predict_samples or None,
    }


def path_of(name: str | None) -> Path | None:
    """The path that an argument names, if it was given."""
    return Path(name) if name else None


def fine_tune(
    task: Task, arguments: FinetuneArguments, source: Source, stage_map: StageMap, settings: EngineSettings
) -> int:
    """Do what the arguments say, once for every seed.

    Args:
        task: what to train, measure and predict.
        arguments, settings: from `place`.
        source: model to start from.
        stage_map: which layers run where.

    Returns:
        The exit status: 0, or 128 + the signal that ended it early.

    Raises:
        UserError: something is wrong with what the user handed in, found before any process waits for another.
    """
    _check_task(task, arguments)
    config = source.config_for(task.config, task.head)
    fresh: tuple[str, ...] = ()
    if source.weights:
        fresh = check_weights(source.weights, config, task.head, arguments.drop_classifier)
    settings = with_layerwise_decay(settings, arguments.layerwise_lr_decay, config)
    runs = _runs(arguments)
    checkpoints = [claim_run(run, stage_map, source.fields, task.fingerprint) for run in runs]
    grid = start_process_group(stage_map, arguments.ddp_timeout)
    results = []
    for run, checkpoint in zip(runs, checkpoints, strict=True):
        status, measures = _Run(task, run, source, config, fresh, grid, settings).do(checkpoint)
        if status:
            return status
        results.append(measures)
    if len(runs) > 1 and grid.rank == 0 and arguments.output_dir:
        _report_seeds(Path(arguments.output_dir), [run.seed for run in runs], results)
    return 0


def _check_task(task: Task, arguments: FinetuneArguments) -> None:
    for flag, found in (
        ("do_train", task.train is not None and len(task.train) > 0),
        ("do_eval", bool(task.evaluation)),
        ("do_predict", bool(task.prediction)),
    ):
        if getattr(arguments, flag) and not found:
            raise UserError(f"--{flag}: {task.name} has no examples for it")
    metric = arguments.metric_for_best_model
    if metric and task.measures and metric not in task.measures:
        raise UserError(f"--metric_for_best_model {metric}: {task.name} is measured by {', '.join(task.measures)}")


def _runs(arguments: FinetuneArguments) -> list[FinetuneArguments]:
    """One run per seed, each with its own folder; one as it is without a list of seeds."""
    if not arguments.seeds:
        return [arguments]
    if len(set(arguments.seeds)) < len(arguments.seeds):
        raise UserError(f"--seeds {' '.join(map(str, arguments.seeds))}: a seed stands there twice")
    folder = Path(arguments.output_dir or "")
    return [
        replace(arguments, seed=seed, seeds=[], output_dir=str(folder / f"seed-{seed}")) for seed in arguments.seeds
    ]


class _Run:
    """One training with one seed.

    Args:
        task, arguments, source, settings: see `fine_tune`.
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
        self.engine = build_engine(config, task.head, task.objective, grid, settings, size, micro_batches)
        if source.weights:
            load_weights(self.engine, source.weights, fresh)
        self.global_batch = size * micro_batches * grid.num_replicas
        self.output_dir = Path(arguments.output_dir or "")
        self.evaluation_dir = self.output_dir / "evaluation"

    def do(self, checkpoint: Path | None) -> tuple[int, dict[str, float]]:
        """Train, measure, predict; return the exit status and the measures."""
        with failing_by_name(self.engine):
            if checkpoint:
                load_newest(checkpoint.parent, self.engine)
            keep_settings(self.engine, self.arguments, self.grid.stage_map)
            measured: dict[str, float] | None = None
            if self.arguments.do_train:
                status, measured = self._train()
                if status:
                    return status, {}
            measures = (measured or self._measure(self.evaluation_dir)) if self.arguments.do_eval else {}
            if self.grid.rank == 0 and measures:
                write_json(self.output_dir / RESULTS, measures)
                print("\n".join(f"{name:<32} {value:.4f}" for name, value in measures.items()), flush=True)
            if self.arguments.do_predict:
                self._predict()
            return 0, measures

    def _train(self) -> tuple[int, dict[str, float] | None]:
        """Train; go back to the best checkpoint; return the exit status, and that checkpoint's measures if known."""
        arguments, task, engine = self.arguments, self.task, self.engine
        assert task.train is not None
        lengths = task.train.lengths
        sampler = LengthGroupedSampler(lengths, self.global_batch, arguments.seed, arguments.length_window)
        steps = total_steps(arguments, len(lengths) / self.global_batch)
        log = RunLog(self.output_dir, self.grid.rank == 0, engine.steps_done, steps, not arguments.disable_tqdm)
        best = None
        if arguments.do_eval:
            metric = arguments.metric_for_best_model or task.best_metric
            best = Best(self.output_dir, metric, arguments.early_stopping_patience)

        def measure() -> dict[str, float]:
            return self._measure(self.evaluation_dir if engine.steps_done == steps else None)

        training = Training(
            engine,
            arguments,
            Feed(task.train, engine),
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
            best,
        )
        outcome = training.run()
        status = conclude(engine, arguments, self.grid.stage_map, outcome, log, float(lengths.mean()))
        if best is None or best.step is None or best.step == engine.steps_done == steps:
            return status, outcome.evaluation
        if not status:
            load_checkpoint(checkpoint_folder(self.output_dir, best.step), engine)
        return status, None

    def _measure(self, folder: Path | None = None) -> dict[str, float]:
        """Measure all evaluation splits, the first one's measures by their plain names; write their files."""
        measures: dict[str, float] = {}
        for place, (name, split) in enumerate(self.task.evaluation.items()):
            found = self._outputs_of(split, folder)
            measures |= {f"{name}_{key}" if place else key: value for key, value in found.items()}
        return measures

    def _outputs_of(self, split: Split, folder: Path | None) -> dict[str, float]:
        """Compute a split's outputs; return its measures on all processes; write its files."""
        outputs = Feed(split.examples, self.engine).predict(
            split.examples.lengths, self.arguments.per_device_eval_batch_size
        )
        measures: dict[str, float] = {}
        if self.grid.rank == 0:
            measures = split.measure(outputs) if split.measure else {}
            if folder and split.write:
                folder.mkdir(parents=True, exist_ok=True)
                for path in split.write(outputs, folder):
                    print(f"wrote:  {path}", flush=True)
        return share(self.engine, measures)

    def _predict(self) -> None:
        for name, split in self.task.prediction.items():
            measures = self._outputs_of(split, self.output_dir / "predictions")
            if self.grid.rank == 0 and measures:
                write_json(self.output_dir / f"{name}_results.json", measures)


def _report_seeds(output_dir: Path, seeds: Sequence[int], results: Sequence[Mapping[str, float]]) -> None:
    """Write and print mean and standard deviation over the seeds."""
    summary = {}
    for name in results[0]:
        values = [result[name] for result in results]
        deviation = statistics.stdev(values)
        summary[name] = {"mean": statistics.mean(values), "deviation": deviation, "values": values}
        print(f"{name:<32} {summary[name]['mean']:.4f} ± {deviation:.4f} over seeds {', '.join(map(str, seeds))}")
    write_json(output_dir / RESULTS, {"seeds": list(seeds), **summary})
