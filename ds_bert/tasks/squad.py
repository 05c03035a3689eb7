"""Extractive question answering on SQuAD v1.1 and v2.0, and files in their layouts."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ds_bert.data.feature_cache import cached_features, key_fingerprint
from ds_bert.data.features import Features
from ds_bert.data.squad import SquadFile, read_squad
from ds_bert.data.squad_windows import WindowSizes, encode_squad
from ds_bert.data.vocabulary import Tokenizer
from ds_bert.errors import UserError
from ds_bert.files import file_fingerprint
from ds_bert.tasks.question_answering import BeamSpanObjective, SpanObjective
from ds_bert.tasks.squad_answers import AnswerSettings, QuestionAnswers, find_answers, write_answers
from ds_bert.tasks.squad_metrics import measure_v1, measure_v2
from ds_bert.tasks.task import Outputs, Split, Task

_ENCODING = 2  # to be raised when `encode_squad` gives other features
HEADS = {"span": "question-answering", "beam": "beam-question-answering"}


def squad_task(
    train_file: Path | None,
    predict_file: Path | None,
    test_file: Path | None = None,
    *,
    tokenizer: Tokenizer,
    version_2: bool = False,
    head: str = "span",
    max_seq_length: int = 384,
    doc_stride: int = 128,
    max_query_length: int = 64,
    n_best_size: int = 20,
    max_answer_length: int = 30,
    start_n_top: int = 5,
    end_n_top: int = 5,
    null_score_threshold: float = 0.0,
    splits: Collection[str] = ("train", "eval"),
    cache_dir: Path | None = None,
    overwrite_cache: bool = False,
    max_train_samples: int | None = None,
    max_eval_samples: int | None = None,
    max_predict_samples: int | None = None,
) -> Task:
    """Read and encode questions.

    Args:
        train_file: to train on.
        predict_file: to evaluate on, as the split "validation".
        test_file: to predict, as the split "test"; its answers, where it has any, are not looked at.
        tokenizer: of the model.
        version_2: whether questions may have no answer.
        head: "span" (start and end) or "beam" (XLNet's, for v2.0).
        max_seq_length, doc_stride, max_query_length: see `WindowSizes`.
        n_best_size, max_answer_length, null_score_threshold: see `AnswerSettings`.
        start_n_top, end_n_top: the beam head's starts, and its ends for each.
        splits: what to read, of "train", "eval" and "predict".
        cache_dir, overwrite_cache: see `cached_features`.
        max_train_samples, max_eval_samples, max_predict_samples: questions to take of a file, its first; None: all.

    Raises:
        UserError: a file is missing or not of SQuAD's layout, or an option is out of its range.
    """
    config = _head_config(head, start_n_top, end_n_top)
    settings = AnswerSettings(head == "beam", version_2, n_best_size, max_answer_length, null_score_threshold)
    sizes = WindowSizes(max_seq_length, doc_stride, max_query_length)
    reader = _Reader(tokenizer, sizes, settings, cache_dir, overwrite_cache)
    train, fingerprint, evaluation, prediction = None, "", {}, {}
    if "train" in splits:
        train, fingerprint = reader.training(train_file, max_train_samples)
    if "eval" in splits:
        evaluation["validation"] = reader.validation(predict_file, max_eval_samples)
    if "predict" in splits:
        prediction["test"] = reader.test(test_file, max_predict_samples)
    objective = BeamSpanObjective() if settings.beam else SpanObjective()
    name = "squad_v2" if version_2 else "squad"
    measures = ("f1", "exact_match", *(("best_f1", "best_exact") if version_2 else ()))
    return Task(
        name,
        HEADS[head],
        config,
        objective,
        train,
        evaluation,
        prediction,
        best_metric="f1",
        measures=measures,
        unit="percent",
        fingerprint=fingerprint,
    )


def _head_config(head: str, start_n_top: int, end_n_top: int) -> dict[str, int]:
    if head not in HEADS:
        raise UserError(f"--head {head}: there are {', '.join(HEADS)}")
    if head == "span":
        return {"num_labels": 2}
    config = {"start_n_top": start_n_top, "end_n_top": end_n_top}
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

    def training(self, path: Path | None, count: int | None) -> tuple[Features, str]:
        """Features to train on, and the fingerprint of all that they follow from."""
        file = _needed(path, "train_file")

        def build() -> Features:
            questions = read_squad(file, self.settings.version_2, with_ids=False).first(count)
            return encode_squad(questions, self.tokenizer, self.sizes, training=True)

        key = self._key(file, count, training=True, with_answers=True)
        features = cached_features(self.cache_dir, key, build, self.overwrite_cache, str(file))
        return features, key_fingerprint(key)

    def validation(self, path: Path | None, count: int | None) -> Split:
        """A split with known answers."""
        questions = self._questions(_needed(path, "predict_file"), count, with_answers=True, prefix="")
        return Split(questions.features, questions.measure, questions.write, questions.decode)

    def test(self, path: Path | None, count: int | None) -> Split:
        """A split without known answers."""
        questions = self._questions(_needed(path, "test_file"), count, with_answers=False, prefix="test_")
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


def _needed(path: Path | None, flag: str) -> Path:
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
