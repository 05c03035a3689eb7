"""The fine-tuning job: train on a task's examples, keep the best checkpoint, measure, write predictions."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from ds_bert.checkpoint.folders import SEED, claim_output_dir
from ds_bert.data.feature_cache import cache_folder
from ds_bert.data.features import Features, refuse_pairs
from ds_bert.engine.process_group import Grid, launcher_world, process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.errors import UserError
from ds_bert.files import write_json
from ds_bert.modeling.config import load_model_config
from ds_bert.modeling.model import build_config
from ds_bert.stage_map import StageMap
from ds_bert.tasks.task import Task
from ds_bert.training.best import LOSS
from ds_bert.training.checks import check_numbers
from ds_bert.training.deepspeed_config import apply_deepspeed_config
from ds_bert.training.finetune_arguments import FinetuneArguments
from ds_bert.training.finetune_run import RESULTS, FinetuneRun
from ds_bert.training.model_source import Source
from ds_bert.training.out_of_memory import explaining_out_of_memory
from ds_bert.training.parameter_groups import with_layerwise_decay
from ds_bert.training.placement import check_schedule, choose_stage_map
from ds_bert.training.precision import fp32_products
from ds_bert.training.run import claim_run, failing_by_name
from ds_bert.training.weights import check_weights

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
    if arguments.measures_speed and not arguments.do_train:
        raise UserError("--num_minibatches measures how fast training is; give --do_train, or leave it out")
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
        "cache_dir": cache_folder(arguments.cache_dir),
        "overwrite_cache": arguments.overwrite_cache,
        "max_train_samples": arguments.max_train_samples or None,
        "max_eval_samples": arguments.max_eval_samples or None,
        "max_predict_samples": arguments.max_predict_samples or None,
    }


def path_of(name: str | None) -> Path | None:
    """The path that an argument names, if it was given."""
    return Path(name) if name else None


def fine_tune(
    task: Task,
    arguments: FinetuneArguments,
    source: Source,
    stage_map: StageMap,
    settings: EngineSettings,
    kind: type[FinetuneRun] = FinetuneRun,
) -> int:
    """Do what the arguments say, once for every seed.

    Args:
        task: what to train, measure and predict.
        arguments, settings: from `place`.
        source: model to start from.
        stage_map: which layers run where.
        kind: what one run is.

    Returns:
        The exit status: 0, or 128 + the signal that ended it early.

    Raises:
        UserError: something is wrong with what the user handed in, found before any process waits for another.
    """
    _check_task(task, arguments, source.fields["type_vocab_size"])
    config = source.config_for(task.config, task.head)
    fresh: tuple[str, ...] = ()
    if source.weights:
        fresh = check_weights(source.weights, config, task.head, arguments.drop_classifier)
    settings = with_layerwise_decay(settings, arguments.layerwise_lr_decay, config)
    runs = _runs(arguments)
    _claim_seeds(arguments)
    checkpoints = [claim_run(run, stage_map, source.fields, task.fingerprint or None) for run in runs]
    for found in filter(None, checkpoints):
        _check_labels(found, config, task.head)
    joining = process_group(stage_map, arguments.ddp_timeout, arguments.transport, arguments.start_timeout)
    with joining as grid, fp32_products(grid, settings):

        def begin(run: FinetuneArguments) -> FinetuneRun:
            return kind(task, run, source, config, fresh, grid, settings)

        return _do_runs(begin, arguments, runs, checkpoints, grid)


def _do_runs(
    begin: Callable[[FinetuneArguments], FinetuneRun],
    arguments: FinetuneArguments,
    runs: Sequence[FinetuneArguments],
    checkpoints: Sequence[Path | None],
    grid: Grid,
) -> int:
    """Do the runs one after the other; report what all seeds gave together."""
    limit, folder = arguments.heartbeat_timeout, arguments.report_dir
    results = []
    with failing_by_name(grid, heartbeat_timeout=limit, output_dir=folder) as heartbeat:
        for run, checkpoint in zip(runs, checkpoints, strict=True):
            training = begin(run)
            heartbeat.steps_done = training.steps_done
            with explaining_out_of_memory(training.engine, run):
                status, measures = training.do(checkpoint)
            if status:
                return status
            results.append(measures)
            heartbeat.steps_done = lambda: 0
            del training  # its memory is for the next one
    if len(runs) > 1 and grid.rank == 0 and arguments.run_dir:
        _report_seeds(arguments.run_dir, [run.seed for run in runs], results)
    return 0


def _check_task(task: Task, arguments: FinetuneArguments, type_vocab_size: int) -> None:
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


def _runs(arguments: FinetuneArguments) -> list[FinetuneArguments]:
    """One run per seed, each with its own folder; one as it is without a list of seeds."""
    if not arguments.seeds:
        return [arguments]
    if len(set(arguments.seeds)) < len(arguments.seeds):
        raise UserError(f"--seeds {' '.join(map(str, arguments.seeds))}: a seed stands there twice")
    runs = [replace(arguments, seed=seed, seeds=[]) for seed in arguments.seeds]
    folder = arguments.report_dir
    return [replace(run, output_dir=str(folder / f"{SEED}{run.seed}")) for run in runs] if folder else runs


def _claim_seeds(arguments: FinetuneArguments) -> None:
    """Make sure that ``output_dir`` is that of runs with several seeds, or free.

    Raises:
        UserError: it holds something else, and ``overwrite_output_dir`` does not say to move it aside.
    """
    folder = arguments.run_dir
    if not (arguments.seeds and folder) or (arguments.overwrite_output_dir and launcher_world()[0]):
        return
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    others = [name for name in found if name != RESULTS and not name.startswith(SEED)]
    if not others:
        return
    if arguments.resume or not arguments.overwrite_output_dir:
        raise UserError(
            f"{folder}: --output_dir holds {others[0]}, which no run with --seeds wrote; name another folder, or start "
            "anew with --overwrite_output_dir (which moves it aside)"
        )
    claim_output_dir(folder, resume=False, overwrite=True)


def _report_seeds(output_dir: Path, seeds: Sequence[int], results: Sequence[Mapping[str, float]]) -> None:
    """Write and print mean and standard deviation over the seeds."""
    summary = {}
    for name in results[0]:
        values = [result[name] for result in results]
        deviation = statistics.stdev(values)
        summary[name] = {"mean": statistics.mean(values), "deviation": deviation, "values": values}
        print(f"{name:<32} {summary[name]['mean']:.4f} ± {deviation:.4f} over seeds {', '.join(map(str, seeds))}")
    write_json(output_dir / RESULTS, {"seeds": list(seeds), **summary})
