"""Extractive question answering on SQuAD v1.1 and v2.0, and files in their layouts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ds_bert.data.feature_cache import cached_features, key_fingerprint
from ds_bert.data.features import Features
from ds_bert.data.vocabulary import Tokenizer
from ds_bert.errors import UserError
from ds_bert.files import file_fingerprint
from ds_bert.tasks.squad.answers import AnswerSettings, QuestionAnswers, find_answers, write_answers
from ds_bert.tasks.squad.features import WindowSizes, encode_squad
from ds_bert.tasks.squad.metrics import measure_v1, measure_v2
from ds_bert.tasks.squad.objective import BeamSpanObjective, SpanObjective
from ds_bert.tasks.squad.reading import SquadFile, read_squad
from ds_bert.tasks.task import Outputs, Split, Task, TaskOptions

_ENCODING = 2  # to be raised when `encode_squad` gives other features
HEADS = {"span": "question-answering", "beam": "beam-question-answering"}


@dataclass(frozen=True)
class SquadOptions(TaskOptions):
    """Files in SQuAD's layout, how they are cut into windows, and how answers are found.

    Args:
        train_file: to train on.
        predict_file: to evaluate on, as the split "validation".
        test_file: to predict, as the split "test"; its answers, where it has any, are not looked at.
        version_2: whether questions may have no answer.
        head: "span" (start and end) or "beam" (XLNet's, for v2.0).
        doc_stride, max_query_length: see `WindowSizes`.
        n_best_size, max_answer_length: see `AnswerSettings`.
        start_n_top, end_n_top: the beam head's starts, and its ends for each.
        null_score_diff_threshold: see `AnswerSettings`.
    """

    train_file: str | Path | None = None
    predict_file: str | Path | None = None
    test_file: str | Path | None = None
    version_2: bool = False
    head: str = "span"
    doc_stride: int = 128
    max_query_length: int = 64
    n_best_size: int = 20
    max_answer_length: int = 30
    start_n_top: int = 5
    end_n_top: int = 5
    null_score_diff_threshold: float = 0.0

    @property
    def windows(self) -> WindowSizes:
        """How contexts are cut; raises `UserError` as `WindowSizes` does."""
        return WindowSizes(self.data.max_seq_length, self.doc_stride, self.max_query_length)

    @property
    def answers(self) -> AnswerSettings:
        """How answers are found; raises `UserError` as `AnswerSettings` does."""
        return AnswerSettings(
            self.head == "beam",
            self.version_2,
            self.n_best_size,
            self.max_answer_length,
            self.null_score_diff_threshold,
        )


def squad_task(options: SquadOptions, tokenizer: Tokenizer) -> Task:
    """Read and encode questions; of a file, its first ``max_…_samples`` questions.

    Args:
        options: files, windows and answers.
        tokenizer: of the model.

    Raises:
        UserError: a file is missing or not of SQuAD's layout, or an option is out of its range.
    """
    config = _head_config(options)
    reader = _Reader(tokenizer, options.windows, options.answers, options.data.cache_dir, options.data.overwrite_cache)
    splits, limits = options.data.splits, options.data.limits
    train, fingerprint, evaluation, prediction = None, "", {}, {}
    if "train" in splits:
        train, fingerprint = reader.training(_needed(options.train_file, "train_file"), limits["train"])
    if "eval" in splits:
        evaluation["validation"] = reader.validation(_needed(options.predict_file, "predict_file"), limits["eval"])
    if "predict" in splits:
        prediction["test"] = reader.test(_needed(options.test_file, "test_file"), limits["predict"])
    measures = ("f1", "exact_match", *(("best_f1", "best_exact") if options.version_2 else ()))
    return Task(
        name="squad_v2" if options.version_2 else "squad",
        head=HEADS[options.head],
        config=config,
        objective=BeamSpanObjective() if options.head == "beam" else SpanObjective(),
        train=train,
        evaluation=evaluation,
        prediction=prediction,
        best_metric="f1",
        measures=measures,
        unit="percent",
        fingerprint=fingerprint,
    )


def _head_config(options: SquadOptions) -> dict[str, int]:
    if options.head not in HEADS:
        raise UserError(f"--head {options.head}: there are {', '.join(HEADS)}")
    if options.head == "span":
        return {"num_labels": 2}
    config = {"start_n_top": options.start_n_top, "end_n_top": options.end_n_top}
    for name, width in config.items():
        if width < 1:
            raise UserError(f"--{name} {width}: at least 1 is needed")
    return config


@dataclass(frozen=True)
class _Reader:
    """Makes splits of files; takes their features from the cache where they are there."""

    tokenizer: Tokenizer
    sizes: WindowSizes
    settings: AnswerSettings
    cache_dir: Path | None
    overwrite_cache: bool

    def training(self, file: Path, count: int | None) -> tuple[Features, str]:
        """Features to train on, and the fingerprint of all that they follow from."""

        def build() -> Features:
            questions = read_squad(file, self.settings.version_2, with_ids=False).first(count)
            return encode_squad(questions, self.tokenizer, self.sizes, training=True)

        key = self._key(file, count, training=True, with_answers=True)
        features = cached_features(self.cache_dir, key, build, self.overwrite_cache, str(file))
        return features, key_fingerprint(key)

    def validation(self, path: Path, count: int | None) -> Split:
        """A split with known answers."""
        questions = self._questions(path, count, with_answers=True, prefix="")
        return Split(questions.features, questions.measure, questions.write, questions.decode)

    def test(self, path: Path, count: int | None) -> Split:
        """A split without known answers."""
        questions = self._questions(path, count, with_answers=False, prefix="test_")
        return Split(questions.features, None, questions.write, questions.decode)

    def _questions(self, path: Path, count: int | None, with_answers: bool, prefix: str) -> "_Questions":
        file = read_squad(path, self.settings.version_2, with_answers).first(count)

        def build() -> Features:
            return encode_squad(file, self.tokenizer, self.sizes, training=False)

        key = self._key(path, count, training=False, with_answers=with_answers)
        features = cached_features(self.cache_dir, key, build, self.overwrite_cache, str(path))
        return _Questions(file, features, self.tokenizer, self.settings, prefix)

    def _key(self, path: Path, count: int | None, training: bool, with_answers: bool) -> dict[str, Any]:
        return {
            "task": "squad",
            "encoding": _ENCODING,
            "file": file_fingerprint(path),
            "tokenizer": self.tokenizer.fingerprint,
            "version_2": self.settings.version_2,
            "questions": count,
            "training": training,
            "answers": with_answers,
            **asdict(self.sizes),
        }


def _needed(path: str | Path | None, flag: str) -> Path:
    if path is None:
        raise UserError(f"--{flag} is missing: a file in SQuAD's layout is needed here")
    return Path(path)


@dataclass(frozen=True)
class _Questions:
    """What becomes of a model's outputs on a file."""

    file: SquadFile
    features: Features
    tokenizer: Tokenizer
    settings: AnswerSettings
    prefix: str

    def decode(self, outputs: Sequence[Outputs]) -> list[QuestionAnswers]:
        return find_answers(outputs, self.features, self.file, self.tokenizer, self.settings)

    def measure(self, answers: Sequence[QuestionAnswers]) -> dict[str, float]:
        ids = [question.id for question in self.file.questions]
        known = {question.id: [answer.text for answer in question.answers] for question in self.file.questions}
        predictions = {question_id: answer.best for question_id, answer in zip(ids, answers, strict=True)}
        if not self.settings.version_2:
            return measure_v1(predictions, known)
        odds = {question_id: answer.null_odds for question_id, answer in zip(ids, answers, strict=True)}
        return measure_v2(predictions, odds, known, self.settings.null_score_threshold)

    def write(self, answers: Sequence[QuestionAnswers], folder: Path) -> list[Path]:
        return write_answers(answers, self.file, self.settings, folder, self.prefix)
