"""The best checkpoint: by which measure, in which direction, and when to give up."""

import pytest

from ds_bert.errors import UserError
from ds_bert.training.loop import Best


@pytest.mark.parametrize("metric", ["loss", "mlm_loss", "mse", "rmse", "task_mae"])
def test_of_an_error_the_lowest_is_best(metric: str) -> None:
    best = Best(metric, 0)
    assert [best.note(step, {metric: value}) for step, value in enumerate([3.0, 1.0, 2.0])] == [True, True, False]
    assert (best.step, best.value) == (1, 1.0)


@pytest.mark.parametrize("metric", ["f1", "combined_score", "floss"])
def test_of_anything_else_the_highest_is_best(metric: str) -> None:
    best = Best(metric, 0)
    assert [best.note(step, {metric: value}) for step, value in enumerate([1.0, 3.0, 2.0])] == [True, True, False]


def test_without_a_name_the_first_measure_chooses_and_is_remembered() -> None:
    best = Best("", 0)
    assert best.note(1, {"f1": 0.5, "accuracy": 0.1}) and not best.note(2, {"f1": 0.4, "accuracy": 0.9})
    resumed = Best("", 0, best.known())
    assert (resumed.metric, resumed.step, resumed.value) == ("f1", 1, 0.5)
    assert Best("accuracy", 0, best.known()).step is None


@pytest.mark.parametrize(
    ("metric", "measures", "found"), [("accuracy", {"f1": 0.5, "em": 0.4}, "f1, em"), ("", {}, "no")]
)
def test_a_measure_that_is_not_there_is_refused(metric: str, measures: dict[str, float], found: str) -> None:
    with pytest.raises(UserError, match=rf"'{metric}', but the evaluation gave {found}.*--metric_for_best_model"):
        Best(metric, 0).note(1, measures)


def test_a_run_that_had_ended_is_hopeless_still() -> None:
    best = Best("f1", 2)
    for step in range(3):
        best.note(step, {"f1": 0.5})
    assert best.is_hopeless and Best("f1", 2, best.known()).is_hopeless
    assert not Best("f1", 3, best.known()).is_hopeless
