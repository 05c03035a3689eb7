"""The one training loop."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ds_bert.checkpoint import folders
from ds_bert.checkpoint.training_state import save_checkpoint
from ds_bert.engine.engine import Engine
from ds_bert.engine.optimizer import StepResult
from ds_bert.training.arguments import TrainingArguments
from ds_bert.training.feed import Feed
from ds_bert.training.learning_rate import learning_rate
from ds_bert.training.log import RunLog
from ds_bert.training.stop import StopSignal


@dataclass
class Outcome:
    """How a run ended.

    Args:
        seconds, samples: of the steps taken now, the first left out (it warms up) where there are more.
        busy_seconds: that this process computed in that time.
        signal: that ended the run early, or 0.
        evaluation: last measures on held-out data.
        checkpoint: last one written.
    """

    seconds: float = 0.0
    samples: int = 0
    busy_seconds: float = 0.0
    signal: int = 0
    evaluation: dict[str, float] | None = None
    checkpoint: Path | None = None


class Training:
    """Trains an engine on a feed, step by step, with evaluation and checkpoints in between.

    Args:
        engine: with its weights and step set.
        arguments: after `apply_deepspeed_config`.
        feed: training examples.
        sampler: says which examples make up step t.
        total_steps: at which training ends.
        evaluate: returns measures on held-out data; None where there are none.
        describe: writes the model's configuration and tokenizer into a checkpoint.
        state: what else a checkpoint keeps of the run.
        log: what rank 0 shows.
    """

    def __init__(
        self,
        engine: Engine,
        arguments: TrainingArguments,
        feed: Feed,
        sampler: Any,
        total_steps: int,
        evaluate: Callable[[], dict[str, float]] | None,
        describe: Callable[[Path], None],
        state: dict[str, Any],
        log: RunLog,
    ) -> None:
        self.engine, self.arguments, self.feed, self.sampler = engine, arguments, feed, sampler
        self.total_steps, self.evaluate = total_steps, evaluate
        self.describe, self.state, self.log = describe, state, log
        self.output_dir = Path(arguments.output_dir) if arguments.output_dir else None
        self.warmup_steps = arguments.warmup_steps or round(arguments.warmup_ratio * total_steps)
        self.first_step = engine.steps_done
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Train to the end, or until a signal; evaluate and save at the end."""
        stop = StopSignal()
        try:
            while self.engine.steps_done < self.total_steps and not self.outcome.signal:
                self._step(stop)
                self._evaluate_and_save()
        finally:
            stop.release()
        return self.outcome

    def _step(self, stop: StopSignal) -> None:
        arguments, engine, outcome = self.arguments, self.engine, self.outcome
        step, begin, busy = engine.steps_done, time.perf_counter(), engine.timeline.busy_seconds
        rate = learning_rate(
            step, self.total_steps, self.warmup_steps, arguments.learning_rate, arguments.lr_scheduler_type
        )
        batches = self.feed.step(
            self.sampler, step, arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps
        )
        results = engine.train_batch(batches, rate, votes=stop.votes())
        seconds = time.perf_counter() - begin
        samples = self.sampler.global_batch_size
        if step == self.first_step + 1:
            outcome.seconds, outcome.samples, outcome.busy_seconds = 0.0, 0, 0.0  # the first step was to warm up
        outcome.seconds += seconds
        outcome.samples += samples
        outcome.busy_seconds += engine.timeline.busy_seconds - busy
        self._report(results, samples / seconds)

    def _report(self, results: Sequence[StepResult], samples_per_second: float | None = None) -> None:
        """Take note of finished steps; under 2BW they are not the ones that were just begun."""
        objective, measured = self.engine.objective, len(self.engine.objective.sums)
        for result in results:
            step, measures = result.step + 1, objective.report(result.sums[:measured])
            if not (math.isfinite(measures["loss"]) and (result.skipped or math.isfinite(result.grad_norm))):
                raise RuntimeError(
                    f"step {step}: the loss is {measures['loss']}, the gradient's norm {result.grad_norm}: training "
                    "has diverged; go on from an earlier checkpoint with a lower --learning_rate or a longer warm-up"
                )
            self.outcome.signal = self.outcome.signal or StopSignal.agreed(result.sums[measured:].tolist())
            self.log.progress(measures["loss"], samples_per_second)
            if result.skipped:
                self.log.say(f"step {step}: the gradient overflowed; the step is skipped and the loss scale halved")
            if step % self.arguments.logging_steps == 0 or step in (1, self.total_steps):
                kept = {key: value for key, value in measures.items() if not key.endswith("accuracy")}
                kept |= {"grad_norm": result.grad_norm, "learning_rate": result.learning_rate}
                if samples_per_second:
                    kept["samples_per_second"] = samples_per_second
                self.log.record(step, kept)

    def _evaluate_and_save(self) -> None:
        arguments, step = self.arguments, self.engine.steps_done
        ends = step == self.total_steps or bool(self.outcome.signal)
        if ends or _due(step, arguments.eval_steps) or _due(step, arguments.save_steps):
            self._drain()
        if self.evaluate and not self.outcome.signal and (_due(step, arguments.eval_steps) or ends):
            self.outcome.evaluation = measures = self.evaluate()
            self.log.record(step, measures, "eval")
            shown = ", ".join(f"{key} {value:.4f}" for key, value in measures.items())
            self.log.say(f"step {step}: held-out {shown}")
        if self.output_dir and (_due(step, arguments.save_steps) or ends):
            self.outcome.checkpoint = save_checkpoint(self.output_dir, self.engine, self.describe, self.state)
            if self.engine.place.rank == 0:
                folders.remove_oldest(self.output_dir, arguments.save_total_limit)

    def _drain(self) -> None:
        outcome, begin, busy = self.outcome, time.perf_counter(), self.engine.timeline.busy_seconds
        results = self.engine.drain()
        outcome.seconds += time.perf_counter() - begin
        outcome.busy_seconds += self.engine.timeline.busy_seconds - busy
        self._report(results)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
