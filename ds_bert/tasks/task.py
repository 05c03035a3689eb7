"""What a task is: a head, an objective, examples, and what becomes of a model's outputs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ds_bert.data.features import Features

Outputs = Mapping[str, np.ndarray]
"""What the head said of one example: float32 arrays by name, without the batch's dimension."""

SCORE = "score, 1 at best"
"""What most measures are counted in: accuracies, F1, correlations."""


class Examples(Protocol):
    """Examples by number."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each, int64 (examples,): the work it makes."""

    def __len__(self) -> int:
        """Number of examples of an epoch."""

    def batch(self, epochs: int | np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Collate examples, given by (B,) epochs and numbers, see `ds_bert.data.features.Features.batch`."""


@dataclass(frozen=True)
class Split:
    """Examples to evaluate or predict.

    Args:
        examples: with the objective's targets where they are known: the loss is then measured, too.
        measure: makes measures (names and values) of all examples' outputs, in order; None where no answers are known.
        write: writes prediction files into a folder, and returns their paths; None where there are none to write.
        decode: what `measure` and `write` have in common: makes of all outputs what they are given in their place.
    """

    examples: Examples
    measure: Callable[[Any], dict[str, float]] | None = None
    write: Callable[[Any, Path], Sequence[Path]] | None = None
    decode: Callable[[Sequence[Outputs]], Any] | None = None


@dataclass(frozen=True)
class Task:
    """What to fine-tune on.

    Args:
        name: shown to people.
        head: name of a head in `ds_bert.modeling.heads`, or a function from the model's configuration to a layer.
        config: what the head adds to the model's configuration: ``num_labels``, ``id2label``, ``problem_type``, …
        objective: the loss and its measures.
        train: examples to train on; None where nothing is to be trained.
        evaluation: splits with known answers, by name ("validation", "validation_mismatched", …).
        prediction: splits to predict ("test", …).
        best_metric: measure of the first evaluation split by which the best checkpoint is chosen; "": the first one
            returned. Higher is better, but see `ds_bert.training.best.is_error`.
        measures: names of all that could choose it; not checked where there are none.
        unit, loss_unit: what measures and loss are counted in, for charts.
        fingerprint: of the data, the tokenizer and the options that the training examples follow from.
        notes: sentences to be shown to people before the first step, on what was inferred from the user's files.
    """

    name: str
    head: str | Callable[[Any], Any]
    config: Mapping[str, Any]
    objective: Any
    train: Examples | None
    evaluation: Mapping[str, Split] = field(default_factory=dict)
    prediction: Mapping[str, Split] = field(default_factory=dict)
    best_metric: str = ""
    measures: tuple[str, ...] = ()
    unit: str = "score"
    loss_unit: str = "nats"
    fingerprint: str = ""
    notes: tuple[str, ...] = ()

    @property
    def all_notes(self) -> tuple[str, ...]:
        """What people should know before the first step: `notes`, and what was cut or left out of the examples."""
        examples = [self.train, *(split.examples for split in (*self.evaluation.values(), *self.prediction.values()))]
        found = [note for part in examples if isinstance(part, Features) for note in part.notes]
        return tuple(dict.fromkeys([*self.notes, *found]))
