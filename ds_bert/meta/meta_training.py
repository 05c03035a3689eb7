"""The meta-training job: what it checks before any process waits for another, and the run."""

from dataclasses import asdict, replace
from typing import Any

from ds_bert.checkpoint.training_state import describe_model, go_on
from ds_bert.data.tasks.episodes import EpisodeSource
from ds_bert.engine.process_group import Grid, process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.errors import UserError
from ds_bert.meta.arguments import LEARNER, MetaTrainArguments
from ds_bert.meta.engine import MetaEngine
from ds_bert.meta.feed import TaskFeed, TaskSampler
from ds_bert.meta.learner import Learner
from ds_bert.meta.model import FRESH, build_stage, check_meta_weights, meta_config
from ds_bert.meta.plan import task_passes
from ds_bert.meta.selection import Selection
from ds_bert.meta.sources import processes_of_run
from ds_bert.meta.task import Method
from ds_bert.modeling.adapters.layers import MetaModel
from ds_bert.modeling.model import carry_declaration
from ds_bert.stage_map import StageMap
from ds_bert.training.agreement import check_agreement
from ds_bert.training.build import load_weights
from ds_bert.training.checks import check_at_most, check_numbers, total_steps
from ds_bert.training.deepspeed_config import apply_deepspeed_config
from ds_bert.training.log import RunLog
from ds_bert.training.loop import Training
from ds_bert.training.meter import Meter, Work
from ds_bert.training.model_source import Source
from ds_bert.training.out_of_memory import explaining_out_of_memory
from ds_bert.training.overview import (
    describe_batch,
    describe_engine,
    describe_resumption,
    describe_steps,
    show_overview,
)
from ds_bert.training.placement import choose_stage_map
from ds_bert.training.precision import fp32_products
from ds_bert.training.run import claim_run, conclude, failing_by_name, keep_settings


def place(
    arguments: MetaTrainArguments, given: set[str], model: dict[str, Any]
) -> tuple[MetaTrainArguments, EngineSettings, StageMap]:
    """Choose the stage map, unite the arguments with DeepSpeed's JSON, and check them.

    Raises:
        UserError: the map is wrong, or arguments contradict each other.
    """
    stage_map = choose_stage_map(arguments, given, model, arguments.max_seq_length, head="sequence-classification")
    arguments, settings = apply_deepspeed_config(arguments, given, stage_map.num_replicas)
    check_numbers(arguments)
    _check_learner(arguments, model, stage_map)
    return arguments, settings, stage_map


def _check_learner(arguments: MetaTrainArguments, model: dict[str, Any], stage_map: StageMap) -> None:
    if arguments.train_batch_size <= arguments.meta_batchsz:
        raise UserError(
            f"--train_batch_size is {arguments.train_batch_size} examples of a task, --meta_batchsz "
            f"{arguments.meta_batchsz} of them the support set: none is left for the query; needed is less"
        )
    if arguments.per_device_train_batch_size != 1:
        raise UserError(
            "--per_device_train_batch_size counts tasks here and must be 1; --gradient_accumulation_steps says how "
            "many tasks an outer step has, --train_batch_size how many examples a task"
        )
    if arguments.gradient_accumulation_steps % arguments.tasks_in_flight:
        raise UserError(
            f"--tasks_in_flight is {arguments.tasks_in_flight}, needed is a divisor of the tasks of an outer step per "
            f"replica, which are {arguments.gradient_accumulation_steps} (--gradient_accumulation_steps)"
        )
    if not arguments.stop_grad and (stage_map.num_stages > 1 or arguments.tasks_in_flight > 1):
        raise UserError(
            "--stop_grad false differentiates through the inner loop, which needs one stage and one task in flight; "
            f"found are {stage_map.num_stages} and {arguments.tasks_in_flight}"
        )
    if not arguments.stop_grad and arguments.gradient_checkpointing:
        raise UserError("--stop_grad false cannot be combined with --gradient_checkpointing")
    if arguments.bf16 or arguments.fp16:
        raise UserError("--bf16 and --fp16: inner steps of 1e-5 would be rounded away; meta-training computes in fp32")
    if arguments.schedule != "1f1b":
        raise UserError(f"--schedule is {arguments.schedule}: tasks take turns by 1f1b, the only one supported here")
    check_at_most(arguments, "min_layer_with_grad", model["num_hidden_layers"], "the encoder layers of the model")
    if arguments.global_adapters and not arguments.parameter_efficient:
        raise UserError("--global_adapters is for --parameter_efficient; give both or neither")


def learner_of(arguments: MetaTrainArguments) -> Learner:
    """The learner that the arguments describe."""
    return Learner(
        task_passes(arguments.num_batches, arguments.inner_epochs, arguments.average_query_every),
        Method(euclidean=arguments.euclidean, max_grad_norm=arguments.inner_max_grad_norm),
        Selection(
            arguments.parameter_efficient,
            arguments.global_adapters,
            arguments.warp_layers,
            arguments.min_layer_with_grad,
        ),
        first_order=arguments.stop_grad,
        tasks_in_flight=arguments.tasks_in_flight,
    )


def meta_train(
    arguments: MetaTrainArguments, source: Source, stage_map: StageMap, settings: EngineSettings, tasks: EpisodeSource,
    data: str,
) -> int:  # fmt: skip
    """Meta-train; return the exit status: 0, or 128 + the signal that ended it early.

    Args:
        arguments, settings: from `place`.
        source: model to start from.
        stage_map: which layers run where.
        tasks, data: from `ds_bert.meta.sources.open_tasks`.

    Raises:
        UserError: something is wrong with what the user handed in, found before any process waits for another.
    """
    adapters = arguments.adapter_hidden_size if arguments.parameter_efficient else 0
    options = MetaModel(
        adapters, arguments.global_adapters, arguments.head_hidden_size, arguments.encoding_size, arguments.pooling
    )
    how = {name: getattr(arguments, name) for name in LEARNER}
    config, learner = meta_config(source.fields, options, how), learner_of(arguments)
    if source.weights:
        check_meta_weights(source.weights, config, FRESH)
    described = {**source.fields, **options.fields(), "meta_learner": how}
    checkpoint = claim_run(arguments, stage_map, described, data)
    settings = replace(settings, is_trained=learner.selection.is_trained)

    def train(grid: Grid) -> int:
        limit, folder = arguments.heartbeat_timeout, arguments.report_dir
        with failing_by_name(grid, heartbeat_timeout=limit, output_dir=folder) as heartbeat:
            module = build_stage(config, grid, settings.seed, settings.recompute, arguments.train_lr)
            count = arguments.gradient_accumulation_steps
            engine = MetaEngine(module, carry_declaration(config, settings.dtype), learner, settings, grid, count)
            heartbeat.steps_done = lambda: engine.steps_done
            with explaining_out_of_memory(engine, arguments):
                if source.weights:
                    load_weights(engine, source.weights)
                check_agreement(engine, arguments, stage_map, data)
                going_on_from = go_on(engine, arguments.run_dir, checkpoint)
                sampler = TaskSampler(count * grid.num_replicas)
                steps = total_steps(arguments, len(tasks) / sampler.global_batch_size)
                keep_settings(engine, arguments, stage_map)
                lines = describe_engine(engine, source.fields, source.origin)
                lines += [
                    ("batch", describe_batch(arguments, grid.num_replicas, "tasks")),
                    ("steps", describe_steps(arguments, steps, len(tasks) / sampler.global_batch_size)),
                    (
                        "data",
                        f"{len(tasks):,} tasks of an epoch, {arguments.meta_batchsz} examples to adapt to of each",
                    ),
                    *describe_resumption(arguments, going_on_from),
                ]
                show_overview(grid, lines)
                log = RunLog(arguments.run_dir, grid.rank == 0, engine.steps_done, steps, not arguments.disable_tqdm)
                tokens = arguments.train_batch_size * arguments.max_seq_length  # of a task: what a sample is here
                meter = Meter(engine, Work(tokens), arguments.peak_tflops)
                state = {
                    "arguments": asdict(arguments),
                    "global_batch": sampler.global_batch_size,
                    "processes": processes_of_run(arguments),
                }
                training = Training(
                    engine,
                    arguments,
                    TaskFeed(tasks, grid, arguments.num_batches, arguments.seed),  # type: ignore[arg-type]
                    sampler,
                    steps,
                    None,
                    describe_model(config, source.tokenizer),
                    {**state, "model": described, "data": data},
                    log,
                    meter,
                )
                outcome = training.run()
                return conclude(engine, arguments, stage_map, outcome, log, meter)

    joining = process_group(stage_map, arguments.ddp_timeout, arguments.transport, arguments.start_timeout)
    with joining as grid, fp32_products(grid, settings):
        return train(grid)
