"""The one training loop, and the best checkpoint of its evaluations."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from ds_bert.checkpoint.saving import CheckpointSaver
from ds_bert.engine.engine import Engine
from ds_bert.engine.optimizer import StepResult
from ds_bert.errors import JobFailure, StopSignal, UserError
from ds_bert.training.arguments import TrainingArguments
from ds_bert.training.log import RunLog, is_error
from ds_bert.training.meter import Meter
from ds_bert.training.settings import learning_rate, named_steps, warmup_steps
from ds_bert.training.trace import Profiler

BEST = "best.json"


class Best:
    """Remembers the best evaluation of a run.

    Args:
        metric: measure to compare by; "": the first one of the first evaluation. Higher is better, but see `is_error`.
        patience: evaluations without a better one after which training ends; 0 never ends it.
        known: what `known` said when the checkpoint that the run goes on from was written.
    """

    def __init__(self, metric: str, patience: int, known: Mapping[str, Any] | None = None) -> None:
        known = known or {}
        self.metric, self.patience = metric or known.get("metric", ""), patience
        self.step: int | None = known.get("step") if known.get("metric") == self.metric else None
        self.value: float | None = known.get("value") if self.step is not None else None
        self.worse = known.get("evaluations_since", 0) if self.step is not None else 0

    def note(self, step: int, measures: dict[str, float]) -> bool:
        """Take note of an evaluation; return whether it is the best so far.

        Raises:
            UserError: it did not measure what is to be compared.
        """
        self.metric = self.metric or next(iter(measures), "")
        if self.metric not in measures:
            raise UserError(
                f"the best checkpoint is to be chosen by {self.metric!r}, but the evaluation gave "
                f"{', '.join(measures) or 'no measure'}; name one of its measures with --metric_for_best_model, or as "
                "the task's best_metric"
            )
        value = measures[self.metric]
        if value != value:  # not a number: no better than anything
            better = False
        elif self.value is None:
            better = True
        else:
            better = value < self.value if is_error(self.metric) else value > self.value
        if better:
            self.step, self.value, self.worse = step, value, 0
        else:
            self.worse += 1
        return better

    @property
    def found(self) -> tuple[str, int, float] | None:
        """(measure, step, value) of the best evaluation so far; None where there was none."""
        return None if self.step is None or self.value is None else (self.metric, self.step, self.value)

    @property
    def is_hopeless(self) -> bool:
        """Whether so many evaluations brought nothing better that training may end."""
        return 0 < self.patience <= self.worse

    def known(self) -> dict[str, Any]:
        """What `best.json` holds once the best checkpoint is whole, and each checkpoint for the run to go on with."""
        known = {"step": self.step, "metric": self.metric, "value": self.value, "evaluations_since": self.worse}
        return {"checkpoint": f"checkpoint-{self.step}", **known}


@dataclass
class Outcome:
    """How a run ended.

    Args:
        seconds, samples: of the steps taken now, the first left out (it warms up) where there are more.
        busy_seconds: that this process computed in that time.
        signal: that ended the run early, or 0.
        evaluation: last measures on held-out data.
        checkpoint: last one written.
        profile: what --profile_steps found, in lines.
    """

    seconds: float = 0.0
    samples: int = 0
    busy_seconds: float = 0.0
    signal: int = 0
    evaluation: dict[str, float] | None = None
    checkpoint: Path | None = None
    profile: list[str] = field(default_factory=list)


class Diverged(JobFailure):
    """Too many steps without a finite loss and gradient; raised on all processes alike."""


@dataclass(frozen=True)
class Course:
    """What a training goes through.

    Args:
        loader: training examples.
        sampler: says which examples make up step t.
        steps: at which training ends.
        evaluate: returns measures on held-out data, or raises `UserError`, on all processes alike; None where there are
            none.
        state: returns what a checkpoint keeps of the course at this step, as JSON.
    """

    loader: Any
    sampler: Any
    steps: int
    evaluate: Callable[[], dict[str, float]] | None = None
    state: Callable[[], dict[str, Any]] = dict


class Training:
    """Trains an engine, step by step, with evaluation and checkpoints in between.

    Args:
        engine: with its weights and step set.
        arguments: after `apply_deepspeed_config`.
        course: what to train on.
        log: what rank 0 shows.
        meter: what all processes measure of themselves.
        saver: writes checkpoints; None where nothing is kept.
        best: chooses the best checkpoint by what evaluation returns; None where only the last one counts.
    """

    def __init__(
        self,
        engine: Engine,
        arguments: TrainingArguments,
        course: Course,
        log: RunLog,
        meter: Meter,
        saver: CheckpointSaver | None = None,
        best: Best | None = None,
    ) -> None:
        self.engine, self.arguments, self.course = engine, arguments, course
        self.log, self.meter, self.saver, self.best = log, meter, saver, best
        self.stopped_early = best is not None and best.is_hopeless
        self.warmup_steps = warmup_steps(arguments, course.steps)
        self.first_step = engine.steps_done
        self.unsound: list[int] = []  # global batches whose loss or gradient was not finite
        self._unshown: list[dict[str, float]] = []  # measures of the steps since those that the log has
        profiled = named_steps(arguments, "profile_steps")
        self.profiler = Profiler(profiled, arguments.report_dir, engine.grid) if profiled else None
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Train to the end, or until a signal; evaluate and save at the end.

        Raises:
            Diverged: see there; the checkpoint that was under way is whole.
        """
        stop = StopSignal()
        try:
            while self.engine.steps_done < self.course.steps and not (self.outcome.signal or self.stopped_early):
                self._step(stop)
                self._evaluate_and_save()
            self._finish_saving()
            if self.profiler:
                self.outcome.profile = self.profiler.end(self.engine.steps_done)
        except BaseException as failure:
            if self.profiler:
                self.profiler.abandon()
            self.log.close()
            # Not for other failures of several processes: where a peer has died, it would be waited for.
            if isinstance(failure, Diverged) or self.engine.grid.world_size == 1:
                self._finish_saving()
            raise
        finally:
            stop.release()
        return self.outcome

    def _step(self, stop: StopSignal) -> None:
        arguments, engine, outcome = self.arguments, self.engine, self.outcome
        step, begin, busy = engine.steps_done, time.perf_counter(), engine.timeline.busy_seconds
        if self.profiler:
            self.profiler.reach(step + 1)
        rate = learning_rate(
            step, self.course.steps, self.warmup_steps, arguments.learning_rate, arguments.lr_scheduler_type
        )
        batches = self.course.loader.step(
            self.course.sampler, step, arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps
        )
        results = engine.train_batch(batches, rate, votes=[*stop.votes(), *self.meter.votes(batches)])
        seconds = time.perf_counter() - begin
        samples = self.course.sampler.global_batch_size
        self.meter.took(samples, seconds)
        if step == self.first_step + 1:
            outcome.seconds, outcome.samples, outcome.busy_seconds = 0.0, 0, 0.0  # the first step was to warm up
        outcome.seconds += seconds
        outcome.samples += samples
        outcome.busy_seconds += engine.timeline.busy_seconds - busy
        self._report(results, samples / seconds)

    def _report(self, results: Sequence[StepResult], samples_per_second: float | None = None) -> None:
        """Take note of finished steps; under 2BW they are not the ones that were just begun.

        The log has the mean of measures and speed over the steps since its last entry.
        """
        objective, measured = self.engine.objective, len(self.engine.objective.sums)
        for result in results:
            step, measures = result.step + 1, objective.report(result.sums[:measured])
            wishes, figures = StopSignal.divide(result.sums[measured:].tolist())
            self.outcome.signal = self.outcome.signal or StopSignal.agreed(wishes)
            for sentence in self.meter.note(step, figures):
                self.log.note(step, sentence)
            self.log.progress(measures["loss"], samples_per_second)
            is_shown = step % self.arguments.logging_steps == 0 or step in (1, self.course.steps)
            if not self._is_sound(result, measures["loss"]):
                continue
            self._unshown.append({key: value for key, value in measures.items() if not key.endswith("accuracy")})
            if is_shown:
                kept = _means(self._unshown)
                self._unshown.clear()
                kept |= {"grad_norm": result.grad_norm, "learning_rate": result.learning_rate}
                kept |= self.meter.entry()
                self.log.record(step, kept)
                self.log.report(step, kept)

    def _is_sound(self, result: StepResult, loss: float) -> bool:
        """Whether a step was taken, with a finite loss; end the run after too many that were not.

        Overflows of fp16 do not count while the loss scale is looking for its place.
        """
        step = result.step + 1
        if math.isfinite(loss) and math.isfinite(result.grad_norm) and not result.skipped:
            return True
        if result.scale_fell and math.isfinite(loss):
            self.log.say(f"step {step}: the gradient overflowed; the step is skipped and the loss scale lowered")
            return False
        self.unsound.append(result.step)
        found = f"step {step}: the loss is {loss}, the gradient's norm {result.grad_norm}"
        if len(self.unsound) > self.arguments.max_skipped_steps:
            batches = ", ".join(map(str, self.unsound))
            raise Diverged(
                f"{found}: training has diverged at global batch {batches} (counted from 0; --max_skipped_steps is "
                f"{self.arguments.max_skipped_steps}); go on from an earlier checkpoint with a lower --learning_rate "
                "or a longer warm-up, or look at what these batches hold"
            )
        self.log.say(f"{found}; the step is skipped, the weights are as they were")
        return False

    def _evaluate_and_save(self) -> None:
        if any(self._dues()):
            self._drain()
        evaluates, saves = self._dues()  # under 2BW, draining brings the last steps' votes to stop
        better = False
        try:
            better = evaluates and self._evaluate()
        except UserError:
            self._save()  # what was trained is not lost
            self._finish_saving()
            raise
        if saves or better or self.stopped_early:
            self._save(noting_best=evaluates)

    def _dues(self) -> tuple[bool, bool]:
        """Whether to evaluate now, and whether to save."""
        evaluates = bool(self.course.evaluate) and self._is_due(self.arguments.eval_steps) and not self.outcome.signal
        return evaluates, self._is_due(self.arguments.save_steps)

    def _finish_saving(self) -> None:
        if self.saver:
            self.saver.finish()

    def _save(self, noting_best: bool = False) -> None:
        if self.saver is None:
            return
        kept = self.best.step if self.best else None
        known = self.best.known() if self.best else None
        notes = {BEST: known} if noting_best and kept is not None else {}
        self.outcome.checkpoint = self.saver.save({"best": known, **self.course.state()}, kept, notes)

    def _evaluate(self) -> bool:
        """Measure; return whether this is the best checkpoint so far."""
        assert self.course.evaluate is not None
        step = self.engine.steps_done
        self.outcome.evaluation = measures = self.course.evaluate()
        self.log.record(step, measures, "eval")
        shown = ", ".join(f"{key} {value:.4f}" for key, value in measures.items())
        self.log.say(f"step {step}: held-out {shown}")
        if self.best is None:
            return False
        better = self.best.note(step, measures)
        self.stopped_early = self.best.is_hopeless
        return better

    def _is_due(self, every: int) -> bool:
        """Whether something done every so many steps, and at the end, is to be done now; -1 means every epoch."""
        step = self.engine.steps_done
        if step == self.course.steps or self.outcome.signal:
            return True
        if every < 0:
            per_epoch = self.course.sampler.steps_per_epoch
            return round(step / per_epoch) > 0 and round(round(step / per_epoch) * per_epoch) == step
        return every > 0 and step % every == 0

    def _drain(self) -> None:
        outcome, begin, busy = self.outcome, time.perf_counter(), self.engine.timeline.busy_seconds
        results = self.engine.drain()
        seconds = time.perf_counter() - begin
        self.meter.took(0, seconds)
        outcome.seconds += seconds
        outcome.busy_seconds += self.engine.timeline.busy_seconds - busy
        self._report(results)


def _means(measures: Sequence[dict[str, float]]) -> dict[str, float]:
    """Each measure's mean over the steps that have it: not every step has every task."""
    keys = dict.fromkeys(key for step in measures for key in step)
    return {key: fmean(step[key] for step in measures if key in step) for key in keys}


"""What every evaluation measures, beside what its task does."""
