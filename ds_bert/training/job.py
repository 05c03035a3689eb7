"""What every training job does, in this order: meet, build the engine, go on where a run stopped, train, conclude.

A job's script prepares it: it reads what the user handed in, and finds what is wrong with it before any process waits
for another. What follows is here, once for all jobs; each hands it what is its own (`Job`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from ds_bert.checkpoint.pretrained import PretrainedWeights
from ds_bert.checkpoint.saving import CheckpointSaver
from ds_bert.checkpoint.training_state import resume
from ds_bert.command_line import command_for, launcher_world, were_started
from ds_bert.engine.engine import Engine
from ds_bert.engine.heartbeat import Heartbeat
from ds_bert.engine.process_group import Grid, process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.errors import UserError
from ds_bert.files import find_config
from ds_bert.modeling.costs import layer_costs
from ds_bert.modeling.model import build_config
from ds_bert.schedules import SCHEDULES
from ds_bert.stage_map import StageMap, load_stage_map, make_stage_map, require_ascending
from ds_bert.training.arguments import JobArguments, TrainingArguments
from ds_bert.training.consistency import check_agreement, check_found
from ds_bert.training.lifecycle import (
    claim_run,
    conclude,
    explaining_out_of_memory,
    failing_by_name,
    fp32_products,
    keep_settings,
)
from ds_bert.training.log import Measures, RunLog
from ds_bert.training.loop import Best, Course, Outcome, Training
from ds_bert.training.meter import Meter, Workload
from ds_bert.training.overview import (
    describe_batch,
    describe_engine,
    describe_resumption,
    describe_steps,
    show_overview,
)
from ds_bert.training.settings import apply_deepspeed_config, check_together, with_layerwise_decay
from ds_bert.training.starting_model import load_weights

A = TypeVar("A", bound=TrainingArguments)


@dataclass(frozen=True)
class Plan(Generic[A]):
    """How a job is to be carried out, agreed with the stage map and DeepSpeed's JSON, and checked.

    Args:
        arguments: of the job; "auto" and what the JSON says filled in.
        stage_map: which layers run where.
        settings: of the engine.
    """

    arguments: A
    stage_map: StageMap
    settings: EngineSettings

    @property
    def global_batch(self) -> int:
        """Examples of an optimizer step."""
        return self.arguments.global_batch(self.stage_map.num_replicas)


def make_plan(
    arguments: A, given: set[str], model: Mapping[str, Any], head: str | Callable[[Any], Any], predictions: int = 0
) -> Plan[A]:
    """Choose the stage map, unite the arguments with DeepSpeed's JSON, and check them.

    Args:
        arguments, given: as parsed.
        model: fields of the model's configuration.
        head: the last layer, see `ds_bert.modeling.costs.layer_costs`.
        predictions: tokens of a sequence that are predicted, for an even cut.

    Raises:
        UserError: the map is wrong, arguments contradict each other, or model or schedule cannot do what they say.
    """
    stage_map = choose_stage_map(arguments, given, model, arguments.max_seq_length, predictions, head)
    arguments, settings = apply_deepspeed_config(arguments, given, stage_map.num_replicas)
    check_together(arguments)
    check_schedule(arguments, stage_map)
    settings = with_layerwise_decay(settings, arguments.layerwise_lr_decay, build_config(model, head))
    return Plan(arguments, stage_map, settings)


@contextmanager
def all_ranks(
    arguments: JobArguments, stage_map: StageMap, settings: EngineSettings | None = None
) -> Iterator[tuple[Grid, Heartbeat]]:
    """Let the processes meet, and each know when another fails, for as long as a job runs.

    Args:
        arguments: say how long to wait, and for what.
        stage_map: which layers run where.
        settings: of the engine; None: none that matters to CUDA.
    """
    joining = process_group(stage_map, arguments.ddp_timeout, arguments.transport, arguments.start_timeout)
    with joining as grid, fp32_products(grid, settings or EngineSettings()):
        limit, folder = arguments.heartbeat_timeout, arguments.report_dir
        with failing_by_name(grid, heartbeat_timeout=limit, output_dir=folder) as heartbeat:
            yield grid, heartbeat


@dataclass(frozen=True)
class Run:
    """What a job is known by when it is resumed, and what it starts from.

    Args:
        model: fields of the model's configuration.
        data: fingerprint of the training data; None on a process that reads none.
        weights: to start from; None: fresh ones.
        fresh: names that keep fresh weights all the same.
        fresh_note: on what of the model the weights lack.
        notes: what people should know before the first step.
    """

    model: Mapping[str, Any]
    data: str | None
    weights: PretrainedWeights | None = None
    fresh: tuple[str, ...] = ()
    fresh_note: str = ""
    notes: tuple[str, ...] = ()


class Job(ABC, Generic[A]):
    """One training, from an engine to its results.

    The output folder is claimed, and the checkpoint to go on from found, when this is made: before processes meet.

    Args:
        plan: how it is carried out.
        run: what it is known by, and starts from.

    Raises:
        UserError: the output folder holds something else.
    """

    unit = "examples"

    def __init__(self, plan: Plan[A], run: Run) -> None:
        self.plan, self.arguments, self.run = plan, plan.arguments, run
        self.found = claim_run(plan.arguments, plan.stage_map, run.model, run.data)
        self.resumed_from: Path | None = None

    @abstractmethod
    def build_engine(self, grid: Grid) -> Engine:
        """Build this process's stage."""

    @abstractmethod
    def make_course(self) -> Course:
        """Say what is trained on, and measured in between; all processes call this, when the weights are there."""

    @abstractmethod
    def work(self) -> Workload:
        """What an example is, on average."""

    @abstractmethod
    def writer(self) -> Callable[[Path], None]:
        """Return what writes the model's configuration and tokenizer into a checkpoint."""

    def overview(self) -> list[tuple[str, str]]:
        """What of this job people should know before the first step: labels, and lines."""
        return []

    def state(self) -> dict[str, Any]:
        """What its checkpoints keep of this job, besides what all keep."""
        return {}

    def best(self) -> Best | None:
        """What chooses the best checkpoint; None where only the last one counts."""
        return None

    def measures(self, best: Best | None) -> Measures | None:
        """What charts show of evaluations; None: all but the losses, as shares."""
        return None

    def carry_out(self, grid: Grid, heartbeat: Heartbeat) -> tuple[int, dict[str, float]]:
        """Do the job on processes that have met; return the exit status and the last measures.

        However it ends, the engine and its memory are let go of: after it, this process may do another job.
        """
        self.grid = grid
        self.engine = self.build_engine(grid)
        heartbeat.steps_done = lambda: self.engine.steps_done
        try:
            with explaining_out_of_memory(self.engine, self.arguments):
                if self.run.weights:
                    load_weights(self.engine, self.run.weights, self.run.fresh)
                if grid.world_size > 1:
                    check_agreement(self.engine, self.arguments, grid.stage_map, self.run.data)
                    check_found(self.engine, self.arguments.run_dir, self.found)
                self.resumed_from = self.resume()
                return self.do()
        finally:
            steps = self.engine.steps_done
            heartbeat.steps_done = lambda: steps
            del self.engine

    def resume(self) -> Path | None:
        """Load the run's newest checkpoint and return it; None where there is none."""
        return resume(self.engine, self.found) if self.found else None

    def do(self) -> tuple[int, dict[str, float]]:
        """Train; return the exit status and the last measures."""
        status, outcome = self.train()
        return status, outcome.evaluation or {}

    def train(self) -> tuple[int, Outcome]:
        """Train; return the exit status, 0 or 128 + the signal that ended it, and how it ended."""
        arguments, engine, stage_map = self.arguments, self.engine, self.grid.stage_map
        course, best = self.make_course(), self.best()
        self.show(course)
        keep_settings(engine, arguments, stage_map)
        is_main = self.grid.rank == 0
        log = RunLog(arguments.run_dir, is_main, engine.steps_done, course.steps, not arguments.disable_tqdm)
        meter = Meter(engine, self.work(), arguments.peak_tflops)
        outcome = Training(engine, arguments, course, log, meter, self._saver(), best).run()
        return conclude(engine, arguments, stage_map, outcome, log, meter, self.measures(best)), outcome

    def show(self, course: Course | None) -> None:
        """Print what this job is about to do; None where nothing is trained."""
        weights, arguments = self.run.weights, self.arguments
        origin = f"weights of {weights.folder}" if weights else "fresh weights"
        origin = f"weights of {self.resumed_from}" if self.resumed_from else origin
        lines = describe_engine(self.engine, self.run.model, origin)
        if course:
            lines.append(("batch", describe_batch(arguments, self.grid.num_replicas, self.unit)))
            lines.append(("steps", describe_steps(arguments, course.steps, course.sampler.steps_per_epoch)))
        lines += [*self.overview(), *describe_resumption(arguments, self.resumed_from, trains=course is not None)]
        fresh = [self.run.fresh_note] if self.run.fresh_note and not self.resumed_from else []
        show_overview(self.grid, lines, [*fresh, *self.run.notes])

    def _saver(self) -> CheckpointSaver | None:
        arguments = self.arguments
        if not arguments.run_dir:
            return None
        known = {"arguments": asdict(arguments), "global_batch": self.plan.global_batch, "model": self.run.model}
        state = known | {"data": self.run.data} | self.state()
        keep, later = arguments.save_total_limit, arguments.save_async
        return CheckpointSaver(arguments.run_dir, self.engine, self.writer(), state, keep, later)


def run_job(job: Job[Any]) -> int:
    """Do a job, from the meeting of the processes to its end; return the exit status."""
    with all_ranks(job.arguments, job.plan.stage_map, job.plan.settings) as (grid, heartbeat):
        return job.carry_out(grid, heartbeat)[0]


def choose_stage_map(
    arguments: JobArguments,
    given: set[str],
    model: Mapping[str, Any],
    length: int,
    predictions: int = 0,
    head: str | Callable[..., Any] = "pretraining",
) -> StageMap:
    """Return the stage map of a job on the processes that were started.

    Args:
        arguments, given: ``stage_map`` or ``num_stages``.
        model: configuration of the model.
        length, predictions: tokens of a sequence and how many of them are predicted, for an even cut by FLOPs.
        head: the last layer, see `ds_bert.modeling.costs.layer_costs`.

    Raises:
        UserError: the map is wrong, or does not fit the model or the processes.
    """
    _, world_size = launcher_world()
    num_layers = model["num_hidden_layers"] + 2
    if arguments.stage_map:
        path = find_config("stage_maps", arguments.stage_map)
        stage_map = load_stage_map(path, num_layers, world_size)
        require_ascending(stage_map, str(path))
        if "num_stages" in given and arguments.num_stages != stage_map.num_stages:
            raise UserError(
                f"--num_stages is {arguments.num_stages}, but {path} has {stage_map.num_stages} stages; give only one"
            )
        return stage_map
    stages = arguments.num_stages
    if world_size % stages:
        fitting = max(1, world_size // stages) * stages
        raise UserError(
            f"--num_stages is {stages}, but {were_started(world_size)}; needed is a number of processes that is a "
            f"multiple of the stages, such as {fitting} ({command_for(fitting)})"
        )
    costs = [layer.flops for layer in layer_costs(model, length, predictions, head=head)]
    return make_stage_map(costs, stages, world_size // stages)


def check_schedule(arguments: TrainingArguments, stage_map: StageMap) -> None:
    """Refuse what a schedule cannot run.

    Raises:
        UserError: a warm-up that the schedules do not use, or what this schedule refuses.
    """
    stages, micro_batches = stage_map.num_stages, arguments.gradient_accumulation_steps
    usual = tuple(stages - 1 - stage for stage in range(stages))
    if stage_map.stage_to_depth not in (None, usual):
        raise UserError(
            f"{arguments.stage_map}: stage_to_depth_map is {stage_map.stage_to_depth}, but the schedules warm up by "
            f"{usual} micro-batches, which is the least that keeps {stages} stages busy; leave the key out"
        )
    if why := SCHEDULES[arguments.schedule].refusal(stages, micro_batches, arguments.fp16):
        raise UserError(why)
