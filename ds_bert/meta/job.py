"""The meta-training job: what it checks before any process waits for another, and what is trained."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ds_bert.checkpoint.pretrained import PretrainedWeights
from ds_bert.checkpoint.saving import describe_model
from ds_bert.engine.engine import Engine
from ds_bert.engine.process_group import Grid
from ds_bert.errors import UserError
from ds_bert.meta.arguments import LEARNER, MetaTrainArguments
from ds_bert.meta.data_loader import TaskLoader, TaskSampler
from ds_bert.meta.engine import MetaEngine
from ds_bert.meta.model import FRESH, build_stage, check_meta_weights, meta_config
from ds_bert.meta.task import Learner, Method, task_passes
from ds_bert.meta.tasks.episode import EpisodeSource
from ds_bert.meta.training_tasks import processes_of_run
from ds_bert.modeling.adapters import HEAD_LAYERS, HEAD_STEP_SIZE, MetaModel, Selection
from ds_bert.modeling.model import carry_declaration
from ds_bert.stage_map import StageMap
from ds_bert.training.job import Job, Plan, Run, make_plan
from ds_bert.training.loop import Course
from ds_bert.training.meter import Workload
from ds_bert.training.settings import check_at_most, total_steps
from ds_bert.training.starting_model import StartingModel


def plan_meta_training(
    arguments: MetaTrainArguments, given: set[str], model: dict[str, Any]
) -> Plan[MetaTrainArguments]:
    """Plan a job as all are planned, and check what is its own.

    Raises:
        UserError: the map is wrong, or arguments contradict each other.
    """
    if arguments.schedule != "1f1b":
        raise UserError(f"--schedule is {arguments.schedule}: tasks take turns by 1f1b, the only one supported here")
    plan = make_plan(arguments, given, model, "sequence-classification")
    _check_learner(plan.arguments, model, plan.stage_map)
    return plan


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


def refuse_adapted_head(checkpoint: Path, model_type: str) -> None:
    """Refuse to go on from a checkpoint of a version whose ``warp_layers`` did not hold the head.

    Raises:
        UserError: the head's step sizes are not 0.
    """
    weights = PretrainedWeights(checkpoint, model_type)
    if any(weights.read(f"{HEAD_STEP_SIZE}{place}").any() for place in HEAD_LAYERS):
        raise UserError(
            f"{checkpoint}: was written by an earlier version, whose --warp_layers adapted the head in the inner loop; "
            "needed is a run that begins anew in another --output_dir"
        )


class MetaTrainJob(Job[MetaTrainArguments]):
    """Meta-training on tasks.

    Args:
        plan: from `plan_meta_training`.
        source: model to start from.
        tasks, data: from `ds_bert.meta.training_tasks.open_tasks`.

    Raises:
        UserError: the weights do not fit the model, or the output folder is occupied.
    """

    unit = "tasks"

    def __init__(self, plan: Plan[MetaTrainArguments], source: StartingModel, tasks: EpisodeSource, data: str) -> None:
        arguments = plan.arguments
        adapters = arguments.adapter_hidden_size if arguments.parameter_efficient else 0
        head = arguments.head_hidden_size, arguments.encoding_size, arguments.pooling
        options = MetaModel(adapters, arguments.global_adapters, *head)
        how = {name: getattr(arguments, name) for name in LEARNER}
        self.source, self.tasks, self.learner = source, tasks, learner_of(arguments)
        self.config = meta_config(source.fields, options, how)
        weights = source.weights
        if weights and arguments.warp_layers:
            weights = weights.without(HEAD_STEP_SIZE)  # which are 0
        lacking = check_meta_weights(weights, self.config, FRESH) if weights else ""
        model = {**source.fields, **options.fields(), "meta_learner": how}
        super().__init__(plan, Run(model, data, weights, fresh_note=lacking))
        if self.found and arguments.warp_layers:
            refuse_adapted_head(self.found, source.fields["model_type"])

    def build_engine(self, grid: Grid) -> Engine:
        """Build this process's stage."""
        arguments = self.arguments
        settings = replace(self.plan.settings, is_trained=self.learner.selection.is_trained)
        module = build_stage(self.config, grid, settings.seed, settings.recompute, arguments.train_lr)
        carry = carry_declaration(self.config, settings.dtype)
        return MetaEngine(module, carry, self.learner, settings, grid, arguments.gradient_accumulation_steps)

    def make_course(self) -> Course:
        """Train on all tasks in turn."""
        arguments = self.arguments
        sampler = TaskSampler(self.plan.global_batch, len(self.tasks))
        loader = TaskLoader(self.tasks, self.grid, arguments.num_batches, arguments.inner_epochs, arguments.seed)
        return Course(loader, sampler, total_steps(arguments, sampler.steps_per_epoch))

    def work(self) -> Workload:
        """What a task is, which is what a sample is here."""
        return Workload(self.arguments.train_batch_size * self.arguments.max_seq_length)

    def state(self) -> dict[str, Any]:
        """On how many processes the run began."""
        return {"processes": processes_of_run(self.arguments)}

    def writer(self) -> Callable[[Path], None]:
        """Return what writes the model's configuration and tokenizer into a checkpoint."""
        return describe_model(self.config, self.source.tokenizer)

    def overview(self) -> list[tuple[str, str]]:
        """How many tasks there are."""
        support = self.arguments.meta_batchsz
        return [("data", f"{len(self.tasks):,} tasks of an epoch, {support} examples to adapt to of each")]
