"""The best checkpoint so far, and whether to stop looking for a better one."""

from collections.abc import Mapping
from typing import Any

from ds_bert.errors import UserError

BEST = "best.json"
LOSS = "loss"
"""What every evaluation measures, beside what its task does."""
_ERRORS = (LOSS, "mse", "rmse", "mae")


def is_error(measure: str) -> bool:
    """Whether a measure is the better the lower it is: one named so, or whose name ends so (`mlm_loss`)."""
    return measure.rpartition("_")[2] in _ERRORS


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
