"""Text classification and regression: the GLUE tasks, and a user's own data in the same manner."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ds_bert.data.features import Features
from ds_bert.data.labels import are_numbered, describe_classes, in_order_of_head
from ds_bert.data.tables import Table, open_table
from ds_bert.data.vocabulary import Tokenizer
from ds_bert.errors import UserError
from ds_bert.files import write_atomically
from ds_bert.tasks.classification import ClassificationObjective
from ds_bert.tasks.glue.benchmark import GlueTask, find_task, glue_data
from ds_bert.tasks.glue.features import Encoder, TextData, TextSplit
from ds_bert.tasks.glue.hub import hub_table
from ds_bert.tasks.glue.metrics import CLASSIFICATION, METRICS, REGRESSION
from ds_bert.tasks.glue.own_data import FLAGS, Columns, SettingNames, own_data
from ds_bert.tasks.task import SCORE, SPLITS, Outputs, Split, Task, TaskOptions

_HUB_SPLITS = {"train": "train", "eval": "validation", "predict": "test"}


@dataclass(frozen=True)
class GlueOptions(TaskOptions):
    """A GLUE task, or a user's own data of the same kind: where they are, and what is known of them.

    Args:
        task_name: one of `ds_bert.tasks.glue.benchmark.TASKS`, or of `OTHER_TASKS`; None for own data.
        data_dir: GLUE's folder, or the task's own; None: the hub.
        train_file, validation_file, test_file: a user's own .tsv, .csv or .jsonl with named columns. ``train_file``
            gives the labels even where "train" is not among the splits.
        dataset_name, dataset_config_name: a data set of the hub, in the place of files.
        text_column, text_pair_column, label_column: of own data; None: guessed where only one guess is possible.
        regression: whether own labels are numbers; None: guessed.
        declared_labels: own labels in the order of their ids; None: those of the training file.
        setting_names: what messages call the settings of own data.
    """

    task_name: str | None = None
    data_dir: str | Path | None = None
    train_file: str | Path | None = None
    validation_file: str | Path | None = None
    test_file: str | Path | None = None
    dataset_name: str | None = None
    dataset_config_name: str | None = None
    text_column: str | None = None
    text_pair_column: str | None = None
    label_column: str | None = None
    regression: bool | None = None
    declared_labels: Sequence[str] | None = None
    setting_names: SettingNames = FLAGS

    @property
    def own_files(self) -> dict[str, Path]:
        """A user's own files, by split."""
        files = zip(SPLITS, (self.train_file, self.validation_file, self.test_file), strict=True)
        return {split: Path(file) for split, file in files if file is not None}


def glue_task(options: GlueOptions, tokenizer: Tokenizer, label_names: Sequence[str] | None = None) -> Task:
    """Build a task of text classification or regression: a GLUE task, or the same with a user's own data.

    Args:
        options: where the data are, and what is known of them.
        tokenizer: of the model.
        label_names: of a trained model's head, in the order of its rows: labels are numbered as there, by their names.
            None: the head is fresh.

    Raises:
        UserError: something is missing, contradicts itself, or is not as it should be in a file.
    """
    told = options.data
    wanted = [split for split in SPLITS if split in told.splits]
    _refuse_two_sources(options)
    if options.task_name is not None:
        task = find_task(options.task_name)
        folder = None if options.data_dir is None else Path(options.data_dir)
        data = _reordered(glue_data(task, folder, wanted), task, label_names)
    else:
        tables = _own_tables(options, wanted, needs_labels=label_names is None or are_numbered(label_names))
        columns = Columns(options.text_column, options.text_pair_column, options.label_column)
        names, declared = options.setting_names, options.declared_labels
        data = own_data(tables, wanted, columns, label_names, options.regression, names, declared)
    encoder = Encoder(tokenizer, told.max_seq_length, data.labels, told.cache_dir, told.overwrite_cache)
    return _assemble(data, encoder, told.limits)


def _refuse_two_sources(options: GlueOptions) -> None:
    given = {
        "--task_name": options.task_name is not None,
        "--dataset_name": options.dataset_name is not None,
        "--train_file and others": bool(options.own_files),
    }
    sources = [name for name, is_given in given.items() if is_given]
    if len(sources) != 1:
        found = " and ".join(sources) or "nothing"
        raise UserError(f"{found} says where the data are; needs one of --task_name, --dataset_name, or --train_file")
    if options.data_dir is not None and options.task_name is None:
        raise UserError(
            f"--data_dir {options.data_dir} without a GLUE task; needs --task_name, or --train_file in its place"
        )


def _own_tables(options: GlueOptions, splits: Sequence[str], needs_labels: bool) -> dict[str, Table]:
    """Open own files, or splits of the hub: those asked for, and the training split for its labels."""
    if options.dataset_name is None:
        return {split: open_table(path) for split, path in options.own_files.items()}
    needed = [split for split in SPLITS if split in splits or (split == "train" and needs_labels)]
    name, config = options.dataset_name, options.dataset_config_name
    return {split: hub_table(name, config, _HUB_SPLITS[split]) for split in needed}


def _reordered(data: TextData, task: GlueTask, label_names: Sequence[str] | None) -> TextData:
    """Number an official task's labels as a trained head does; see `in_order_of_head`."""
    if label_names is None or not data.labels:
        return data
    labels = in_order_of_head(data.labels, label_names, f"{task.name} needs", task.also)
    return replace(data, labels=labels, notes=(describe_classes(labels, label_names),))


def _assemble(data: TextData, encoder: Encoder, limits: Mapping[str, int | None]) -> Task:
    metric = data.name or (CLASSIFICATION if data.labels else REGRESSION)
    order = _official_order(data)
    evaluation = {
        name: _evaluation(encoder.features(split, limits["eval"]), "ax" if name == "diagnostic" else metric, order)
        for name, split in data.evaluation.items()
    }
    prediction = {
        name: _prediction(split, encoder, limits["predict"], metric) for name, split in data.prediction.items()
    }
    return Task(
        name=data.name or "own data",
        head="sequence-classification",
        config=_config(data),
        objective=ClassificationObjective(max(1, len(data.labels)), regression=not data.labels),
        train=encoder.features(data.train, limits["train"]) if data.train else None,
        evaluation=evaluation,
        prediction=prediction,
        best_metric=METRICS[metric].best,
        measures=tuple(METRICS[metric](np.arange(2), np.arange(2))),
        unit=SCORE,
        loss_unit="nats" if data.labels else "squared error",
        fingerprint=encoder.fingerprint(data.train, limits["train"]) if data.train else "",
        notes=data.notes,
    )


def _official_order(data: TextData) -> np.ndarray:
    """The number that each label has in the task's own order, which F1 goes by: it is that of the label "1"."""
    official = find_task(data.name).labels if data.name else data.labels
    return np.array([official.index(name) for name in data.labels], dtype=np.int64)


def _config(data: TextData) -> dict[str, Any]:
    """Return what the model's configuration says of the labels."""
    names = data.labels or ("score",)
    config: dict[str, Any] = {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: number for number, name in enumerate(names)},
        "problem_type": "single_label_classification" if data.labels else "regression",
    }
    return config | ({"finetuning_task": data.name} if data.name else {})


def _evaluation(features: Features, metric: str, order: np.ndarray) -> Split:
    labels = np.array(features.columns["labels"])
    is_regression = labels.dtype.kind == "f"

    def measure(outputs: Sequence[Outputs]) -> dict[str, float]:
        found = _predictions(outputs, is_regression)
        return METRICS[metric](found, labels) if is_regression else METRICS[metric](order[found], order[labels])

    return Split(features, measure=measure)


def _prediction(split: TextSplit, encoder: Encoder, limit: int | None, metric: str) -> Split:
    features = encoder.features(split, limit)
    index = [str(number) for number in range(len(features))]
    if split.index is not None:
        index = [str(cell) for _, (cell,) in islice(split.table.read([split.index]), limit)]
    score = "{:.3f}" if metric == "stsb" else "{:.6g}"
    bounds = (0.0, 5.0) if metric == "stsb" else (-np.inf, np.inf)

    def predictions(outputs: Sequence[Outputs]) -> list[str]:
        predicted = _predictions(outputs, is_regression=not encoder.labels)
        if encoder.labels:
            return [encoder.labels[number] for number in predicted]
        return [score.format(value) for value in np.clip(predicted, *bounds)]

    def write(outputs: Sequence[Outputs], folder: Path) -> list[Path]:
        path = folder / split.predictions
        _write_predictions(path, index, predictions(outputs))
        return [path]

    return Split(features, write=write)


def _predictions(outputs: Sequence[Outputs], is_regression: bool) -> np.ndarray:
    """Return the class of each example, int64 (N,), or its number, float32 (N,)."""
    logits = np.stack([output["logits"] for output in outputs])
    return logits[:, 0] if is_regression else logits.argmax(1)


def _write_predictions(path: Path, index: Sequence[str], predictions: Sequence[str]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(["index", "prediction"])
    writer.writerows(zip(index, predictions, strict=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.getvalue())
