"""Multiple choice on RACE, DREAM, or a user's own JSON lines."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ds_bert.data.feature_cache import cached_features, key_fingerprint
from ds_bert.data.features import Features
from ds_bert.data.vocabulary import Tokenizer
from ds_bert.errors import UserError
from ds_bert.files import write_json
from ds_bert.tasks.classification import ClassificationObjective
from ds_bert.tasks.multiple_choice.features import check_lengths, encode_questions, fingerprint
from ds_bert.tasks.multiple_choice.reading import LEVELS, Question, read_dream, read_own_questions, read_race
from ds_bert.tasks.task import SCORE, SPLITS, Outputs, Split, Task, TaskOptions

_ENCODING = 1  # to be raised when `encode_questions` gives other features
_FILES = {"train": "train", "eval": "dev", "predict": "test"}  # of benchmarks
_FLAGS = {"train": "train_file", "eval": "validation_file", "predict": "test_file"}  # of own data


@dataclass(frozen=True)
class Benchmark:
    """A published data set.

    Args:
        read: reads a file of it: (folder, "train", "dev" or "test", whether answers are needed, levels of schools).
        has_levels: whether its questions are of schools of several levels.
        has_letters: whether predictions name options by letters from A, not by numbers from 0.
    """

    read: Callable[[Path, str, bool, Sequence[str]], list[Question]]
    has_levels: bool = False
    has_letters: bool = False


BENCHMARKS = {
    "RACE": Benchmark(
        lambda folder, split, answered, levels: read_race(folder, split, levels, answered),
        has_levels=True,
        has_letters=True,
    ),
    "DREAM": Benchmark(lambda folder, split, answered, _: read_dream(folder, split, answered)),
}
"""By what `--task_name` calls them."""


@dataclass(frozen=True)
class MultipleChoiceOptions(TaskOptions):
    """A published data set or files of a user's own, and what is encoded of them.

    Args:
        task_name: one of `BENCHMARKS`, or None or "custom" for own files.
        data_dir: the data set's folder; not for own files.
        train_file, validation_file, test_file: own JSON lines, see `read_own_questions`; the last needs no labels.
        max_qa_length, without_context: see `encode_questions`.
        high_only, middle_only: RACE's schools of one level only.
    """

    task_name: str | None = None
    data_dir: str | Path | None = None
    train_file: str | Path | None = None
    validation_file: str | Path | None = None
    test_file: str | Path | None = None
    max_qa_length: int = 128
    high_only: bool = False
    middle_only: bool = False
    without_context: bool = False

    @property
    def files(self) -> dict[str, str | Path | None]:
        """A user's own files, by split."""
        return dict(zip(SPLITS, (self.train_file, self.validation_file, self.test_file), strict=True))

    @property
    def benchmark(self) -> Benchmark | None:
        """The published data set; None for own files."""
        return BENCHMARKS.get(self.task_name or "")


def multiple_choice_task(options: MultipleChoiceOptions, tokenizer: Tokenizer) -> Task:
    """Read and encode questions with options to choose among.

    Predictions are written as ``predictions.json``, ``{id: choice}``; the choice is a letter from A for RACE, else the
    option's number from 0.

    Args:
        options: where the questions are, and what is encoded of them.
        tokenizer: of the model.

    Raises:
        UserError: data is missing or not of its layout, options do not fit together, or splits have different numbers
            of options.
    """
    told, benchmark = options.data, options.benchmark
    check_lengths(told.max_seq_length, options.max_qa_length)
    read = _reader(options, _levels(options))
    questions = {split: read(split)[: told.limits[split]] for split in SPLITS if split in told.splits}
    num_options = _num_options(questions)
    encode = partial(
        encode_questions,
        tokenizer=tokenizer,
        without_context=options.without_context,
        max_seq_length=told.max_seq_length,
        max_qa_length=options.max_qa_length,
    )
    features = {}
    for split, found in questions.items():
        origin = str(options.files[split] or f"{options.data_dir} ({options.task_name}, {split})")
        build = partial(encode, found)
        part = cached_features(told.cache_dir, _key(found, encode), build, told.overwrite_cache, origin)
        features[split] = replace(part, notes=tuple(f"{split}: {note}" for note in part.notes))
    return Task(
        name=options.task_name or "custom",
        head="multiple-choice",
        config={"num_choices": num_options},
        objective=ClassificationObjective(num_labels=num_options),
        train=features.get("train"),
        evaluation=_evaluation(questions, features),
        prediction=_prediction(questions, features, with_letters=benchmark is not None and benchmark.has_letters),
        best_metric="accuracy",
        measures=("accuracy",),
        unit=SCORE,
        fingerprint=key_fingerprint(_key(questions["train"], encode)) if "train" in questions else "",
    )


def _key(questions: Sequence[Question], encode: "partial[Features]") -> dict[str, Any]:
    """All that encoded questions follow from."""
    options = {**encode.keywords, "tokenizer": encode.keywords["tokenizer"].fingerprint}
    return {"encoding": f"multiple choice {_ENCODING}", **options, "questions": fingerprint(questions)}


def _evaluation(questions: Mapping[str, list[Question]], features: Mapping[str, Features]) -> dict[str, Split]:
    if "eval" not in questions:
        return {}
    return {"validation": Split(features["eval"], partial(measure_choices, questions["eval"]))}


def _prediction(
    questions: Mapping[str, list[Question]], features: Mapping[str, Features], with_letters: bool
) -> dict[str, Split]:
    """Test questions: measured too, where all answers are known."""
    if "predict" not in questions:
        return {}
    asked = questions["predict"]
    is_known = all(question.answer is not None for question in asked)
    measure = partial(measure_choices, asked) if is_known else None
    return {"test": Split(features["predict"], measure, partial(write_choices, asked, with_letters))}


def measure_choices(questions: Sequence[Question], outputs: Sequence[Outputs]) -> dict[str, float]:
    """Return ``accuracy``, the share of right choices, and ``accuracy_<group>`` for each group of questions.

    Args:
        questions: with answers.
        outputs: ``logits`` (options,) of each, in the same order.
    """
    right = defaultdict(list)
    for question, choice in zip(questions, _choices(outputs), strict=True):
        for name in ("accuracy", f"accuracy_{question.group}") if question.group else ("accuracy",):
            right[name].append(choice == question.answer)
    return {name: float(np.mean(values)) for name, values in right.items()}


def write_choices(
    questions: Sequence[Question], as_letters: bool, outputs: Sequence[Outputs], folder: Path
) -> list[Path]:
    """Write ``predictions.json``: each question's id and the chosen option's letter from A, or its number from 0."""
    choices = _choices(outputs)
    named = [chr(ord("A") + choice) for choice in choices] if as_letters else choices
    path = folder / "predictions.json"
    write_json(path, dict(zip((question.id for question in questions), named, strict=True)))
    return [path]


def _choices(outputs: Sequence[Outputs]) -> list[int]:
    return [int(output["logits"].argmax()) for output in outputs]


def _levels(options: MultipleChoiceOptions) -> tuple[str, ...]:
    if options.high_only and options.middle_only:
        raise UserError("--high_only and --middle_only exclude each other, at most one can be given")
    having = [name for name, benchmark in BENCHMARKS.items() if benchmark.has_levels]
    if (options.high_only or options.middle_only) and options.task_name not in having:
        flag = "--high_only" if options.high_only else "--middle_only"
        found = options.task_name or "one of own files"
        raise UserError(f"{flag} is for --task_name {' or '.join(having)}, but the task is {found}")
    return ("high",) if options.high_only else ("middle",) if options.middle_only else LEVELS


def _reader(options: MultipleChoiceOptions, levels: Sequence[str]) -> Callable[[str], list[Question]]:
    """Return a function that reads a split, one of `SPLITS`."""
    name, files, benchmark = options.task_name, options.files, options.benchmark
    if name not in (*BENCHMARKS, "custom", None):
        known = " and ".join(BENCHMARKS)
        raise UserError(f"--task_name {name}: there are {known}; leave it out for files of your own")
    if benchmark:
        given = next((split for split in files if files[split]), None)
        if given:
            raise UserError(f"--{_FLAGS[given]} is for own files, but --task_name is {name}; leave one out")
        if options.data_dir is None:
            raise UserError(f"--data_dir is missing: {name} needs the folder of its files")
        folder = Path(options.data_dir)
        return lambda split: benchmark.read(folder, _FILES[split], split != "predict", levels)

    def read_own(split: str) -> list[Question]:
        path = files[split]
        if path is None:
            raise UserError(f"--{_FLAGS[split]} is missing: a file of JSON lines is needed to {split}")
        return read_own_questions(Path(path), split != "predict")

    return read_own


def _num_options(questions: Mapping[str, Sequence[Question]]) -> int:
    counts = {split: len(found[0].options) for split, found in questions.items()}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{count} to {split}" for split, count in counts.items())
        raise UserError(f"the questions have different numbers of options ({found}), all splits need the same number")
    return next(iter(counts.values()))
