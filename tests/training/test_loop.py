"""What the training loop reports, and where it must not go on."""

import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from ds_bert.engine.optimizer import StepResult
from ds_bert.errors import StopSignal, UserError
from ds_bert.training.arguments import TrainingArguments
from ds_bert.training.log import RunLog, read_log
from ds_bert.training.loop import Best, Course, Diverged, Training
from ds_bert.training.pretraining import PretrainingObjective
from tests.support.meters import fake_engine, meter_of

NO_VOTES = [0.0, 0.0]
FIGURES = [0.0, 5e8, 0.0]  # of one process: nothing known of its speed, 500 MB


class _Engine:
    objective = PretrainingObjective()

    def __init__(self) -> None:
        self.steps_done = 0
        vars(self).update(vars(fake_engine()))

    def drain(self) -> list[StepResult]:
        return []


class _Saver:
    def __init__(self, events: list[str]) -> None:
        self.events = events

    def save(self, state: dict[str, Any], best: int | None, notes: dict[str, Any]) -> Path:
        self.events.append(f"saved with {notes}" if notes else "saved without notes")
        return Path("checkpoint")

    def finish(self) -> None:
        self.events.append("finished")


def _training(folder: Path | None = None, best: Best | None = None, **changes: Any) -> Training:
    log = RunLog(folder, is_main=folder is not None, first_step=0, total_steps=10, show_bar=False)
    arguments = TrainingArguments(**changes)
    nothing = cast(Any, None)
    engine = cast(Any, _Engine())
    return Training(engine, arguments, Course(nothing, nothing, 10), log, meter_of(engine), best=best)


def _result(loss: float, norm: float, skipped: bool = False, step: int = 3, scale_fell: bool = False) -> StepResult:
    sums = torch.tensor([loss, 1.0, 0.0, 0.5, 1.0, 0.0, *NO_VOTES, *FIGURES], dtype=torch.float64)
    return StepResult(step, 1e-3, norm, skipped, sums, scale_fell)


@pytest.mark.parametrize(("loss", "norm"), [(float("nan"), 1.0), (float("inf"), 1.0), (2.0, float("inf"))])
def test_a_diverged_run_ends(loss: float, norm: float) -> None:
    with pytest.raises(Diverged, match=r"step 4: .* diverged"):
        _training()._report([_result(loss, norm)])


def test_a_skipped_overflow_does_not_end_it() -> None:
    training = _training(fp16=True)
    training._report([_result(2.0, float("inf"), skipped=True, scale_fell=True), _result(2.0, 1.0)])
    assert not training.unsound


def test_an_overflow_at_the_lowest_scale_does() -> None:
    with pytest.raises(RuntimeError, match=r"step 4: .* diverged"):
        _training(fp16=True)._report([_result(2.0, float("inf"), skipped=True)])


def test_so_many_steps_may_be_skipped_and_no_more() -> None:
    training, nan = _training(max_skipped_steps=2), float("nan")
    training._report([_result(nan, nan, True, step=3), _result(2.0, 1.0, step=4), _result(2.0, nan, True, step=5)])
    with pytest.raises(RuntimeError, match=r"step 8: .* diverged at global batch 3, 5, 7 \(counted from 0; .* is 2\)"):
        training._report([_result(nan, 1.0, True, step=7)])


def test_the_log_has_means_over_the_steps_since_its_last_entry(tmp_path: Path) -> None:
    training = _training(tmp_path, logging_steps=3, max_skipped_steps=1)
    losses = [2.0, 4.0, float("nan"), 7.0, 1.0, 4.0]
    training._report([_result(loss, 1.0, loss != loss, step) for step, loss in enumerate(losses)])
    logged = [(entry["step"], entry["train/mlm_loss"]) for entry in read_log(tmp_path)]
    assert logged == [(1, 2.0), (6, 4.0)]  # step 3 has no loss to be shown; its place is taken by the next entry


def test_a_line_every_logging_steps(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    training = _training(tmp_path, logging_steps=3)
    training._report([_result(float(step), 1.0, step=step) for step in range(10)])
    lines = [line.split(", learning")[0] for line in capsys.readouterr().out.splitlines()]
    masked_words = {1: 0.0, 3: 1.5, 6: 4.0, 9: 7.0, 10: 9.0}  # means since the last line; the next sentence's is 0.5
    assert lines == [f"step {step}/10: loss {mean + 0.5:.4f}" for step, mean in masked_words.items()]


def test_a_run_that_nothing_made_better_does_not_train_on() -> None:
    best = Best("f1", 2, {"step": 1, "metric": "f1", "value": 0.5, "evaluations_since": 2})
    training = _training(best=best)
    assert training.run().samples == 0 and training.engine.steps_done == 0


def test_an_evaluation_that_is_refused_costs_no_training() -> None:
    training, events = _training(best=Best("accuracy", 0)), []
    training.course = replace(training.course, evaluate=lambda: {"f1": 0.5})
    training.saver = cast(Any, _Saver(events))
    training.engine.steps_done = training.course.steps
    with pytest.raises(UserError, match="f1"):
        training._evaluate_and_save()
    assert events == ["saved without notes", "finished"]


def test_a_vote_that_draining_brings_ends_the_run_with_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under 2BW the votes of the last two steps come with the drain before an evaluation."""
    training, events = _training(eval_steps=5, save_steps=0), []
    training.engine.steps_done = 5
    late = _result(2.0, 1.0, step=4)
    late.sums[6 + 1] = 1.0
    monkeypatch.setattr(training.engine, "drain", lambda: [late])
    training.course = replace(training.course, evaluate=lambda: events.append("evaluated") or {"loss": 1.0})
    training.saver = cast(Any, _Saver(events))
    training._evaluate_and_save()
    assert training.outcome.signal == signal.SIGTERM and events == ["saved without notes"]


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("failure", [Diverged, RuntimeError, KeyboardInterrupt])
def test_a_diverged_run_keeps_the_checkpoint_under_way(
    monkeypatch: pytest.MonkeyPatch, failure: type, world_size: int
) -> None:
    """All processes diverge together; when a peer has died, nobody waits for its part; one that is alone has none."""
    training, events = _training(), []
    training.engine.grid = SimpleNamespace(world_size=world_size)  # type: ignore[assignment]
    training.saver = cast(Any, _Saver(events))

    def step(stop: StopSignal) -> None:
        raise failure("step 4")

    monkeypatch.setattr(training, "_step", step)
    with pytest.raises(failure):
        training.run()
    assert events == (["finished"] if failure is Diverged or world_size == 1 else [])
