"""What a task is (a head, an objective, examples, and what becomes of a model's outputs), and what all are told."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ds_bert.data.features import Features
from ds_bert.errors import UserError

SPLITS = ("train", "eval", "predict")
"""What is read to train on, to measure, and to predict."""

Outputs = Mapping[str, np.ndarray]
"""What the head said of one example: float32 arrays by name, without the batch's dimension."""

SCORE = "score, 1 at best"
"""What most measures are counted in: accuracies, F1, correlations."""


@dataclass(frozen=True)
class DataOptions:
    """What every task is told of the data that it reads.

    Args:
        max_seq_length: tokens of an example at most, special ones included; longer ones are cut.
        splits: which of `SPLITS` to read.
        cache_dir: where encoded examples are kept, see `cached_features`; None keeps none.
        overwrite_cache: encode anew.
        max_train_samples, max_eval_samples, max_predict_samples: use the first so many examples of a split; None: all.

    Raises:
        UserError: a number of examples is below 1.
    """

    max_seq_length: int
    splits: Collection[str] = ("train", "eval")
    cache_dir: Path | None = None
    overwrite_cache: bool = False
    max_train_samples: int | None = None
    max_eval_samples: int | None = None
    max_predict_samples: int | None = None

    def __post_init__(self) -> None:
        for split, limit in self.limits.items():
            if limit is not None and limit < 1:
                raise UserError(f"--max_{split}_samples {limit}: needs at least 1")

    @property
    def limits(self) -> dict[str, int | None]:
        """How many examples to use of each of `SPLITS`."""
        return dict(zip(SPLITS, (self.max_train_samples, self.max_eval_samples, self.max_predict_samples), strict=True))


@dataclass(frozen=True)
class TaskOptions:
    """What a task is told. Each has a dataclass of its own, whose fields have the names of the job's flags.

    Args:
        data: what all are told of their data.
    """

    data: DataOptions


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
            returned. Higher is better, but see `ds_bert.training.log.is_error`.
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
