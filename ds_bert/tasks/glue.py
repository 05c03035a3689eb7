"""Text classification and regression: the GLUE tasks, and a user's own data in the same manner."""

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ds_bert.data.features import Features
from ds_bert.data.glue import SPLITS, GlueTask, find_task, glue_data
from ds_bert.data.glue_features import Encoder, Source, TextData
from ds_bert.data.glue_hub import hub_table
from ds_bert.data.glue_own import FLAGS, Columns, Settings, own_data
from ds_bert.data.labels import are_numbered, describe_classes, in_order_of_head
from ds_bert.data.tables import Table, open_table
from ds_bert.data.vocabulary import Tokenizer
from ds_bert.errors import UserError
from ds_bert.files import write_atomically
from ds_bert.tasks.classification import ClassificationObjective
from ds_bert.tasks.glue_metrics import CLASSIFICATION, METRICS, REGRESSION
from ds_bert.tasks.task import SCORE, Outputs, Split, Task

_HUB_SPLITS = {"train": "train", "eval": "validation", "predict": "test"}


def glue_task(
    task_name: str | None,
    data_dir: Path | None,
    tokenizer: Tokenizer,
    max_seq_length: int,
    *,
    splits: Collection[str] = ("train", "eval"),
    cache_dir: Path | None = None,
    overwrite_cache: bool = False,
    max_train_samples: int | None = None,
    max_eval_samples: int | None = None,
    max_predict_samples: int | None = None,
    train_file: Path | None = None,
    validation_file: Path | None = None,
    test_file: Path | None = None,
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    label_names: Sequence[str] | None = None,
    regression: bool | None = None,
    settings: Settings = FLAGS,
    declared: Sequence[str] | None = None,
) -> Task:
    """Build a task of text classification or regression: a GLUE task, or the same with a user's own data.

    Args:
        task_name: one of `ds_bert.data.glue.TASKS`; None for other data.
        data_dir: GLUE's folder, or the task's own; None: the hub.
        tokenizer: of the model.
        max_seq_length: tokens of an example at most, special ones included; longer ones are cut.
        splits: what to read, of "train", "eval" and "predict".
        cache_dir: where encoded examples are kept; None keeps none.
        overwrite_cache: encode anew.
        max_train_samples, max_eval_samples, max_predict_samples: use the first so many examples.
        train_file, validation_file, test_file: a user's own .tsv, .csv or .jsonl with named columns. ``train_file``
            gives the labels even where "train" is not in ``splits``.
        dataset_name, dataset_config_name: a data set of the hub, in the place of files.
        text_column, text_pair_column, label_column: of own data; None: guessed where only one guess is possible.
        label_names: of a trained model's head, in the order of its rows: labels are numbered as there, by their names.
            None: the head is fresh.
        regression: whether own labels are numbers; None: guessed.
        settings: what messages call those of own data.
        declared: own labels in the order of their ids; None: those of the training file.

    Raises:
        UserError: something is missing, contradicts itself, or is not as it should be in a file.
    """
    limits = _limits(train=max_train_samples, eval=max_eval_samples, predict=max_predict_samples)
    wanted = [split for split in SPLITS if split in splits]
    files = {"train": train_file, "eval": validation_file, "predict": test_file}
    own_files = {split: path for split, path in files.items() if path is not None}
    _refuse_two_sources(task_name, data_dir, dataset_name, bool(own_files))
    if task_name is not None:
        task = find_task(task_name)
        data = _reordered(glue_data(task, data_dir, wanted), task, label_names)
    else:
        needs_labels = label_names is None or are_numbered(label_names)
        tables = _own_tables(own_files, dataset_name, dataset_config_name, wanted, needs_labels)
        columns = Columns(text_column, text_pair_column, label_column)
        data = own_data(tables, wanted, columns, label_names, regression, settings, declared)
    return _assemble(data, Encoder(tokenizer, max_seq_length, data.labels, cache_dir, overwrite_cache), limits)


def _limits(**limits: int | None) -> dict[str, int | None]:
    for split, limit in limits.items():
        if limit is not None and limit < 1:
            raise UserError(f"--max_{split}_samples {limit}: needs at least 1")
    return limits


def _refuse_two_sources(task: str | None, data_dir: Path | None, dataset: str | None, has_files: bool) -> None:
    given = {
        "--task_name": task is not None,
        "--dataset_name": dataset is not None,
        "--train_file and others": has_files,
    }
    sources = [name for name, is_given in given.items() if is_given]
    if len(sources) != 1:
        found = " and ".join(sources) or "nothing"
        raise UserError(f"{found} says where the data are; needs one of --task_name, --dataset_name, or --train_file")
    if data_dir is not None and task is None:
        raise UserError(f"--data_dir {data_dir} without a GLUE task; needs --task_name, or --train_file in its place")


def _own_tables(
    files: Mapping[str, Path], name: str | None, config: str | None, splits: Sequence[str], needs_labels: bool
) -> dict[str, Table]:
    """Open own files, or splits of the hub: those asked for, and the training split for its labels."""
    if name is None:
        return {split: open_table(path) for split, path in files.items()}
    needed = [split for split in SPLITS if split in splits or (split == "train" and needs_labels)]
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
        name: _evaluation(encoder.features(source, limits["eval"]), "ax" if name == "diagnostic" else metric, order)
        for name, source in data.evaluation.items()
    }
    prediction = {
        name: _prediction(source, encoder, limits["predict"], metric) for name, source in data.prediction.items()
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


def _prediction(source: Source, encoder: Encoder, limit: int | None, metric: str) -> Split:
    features = encoder.features(source, limit)
    index = [str(number) for number in range(len(features))]
    if source.index is not None:
        index = [str(cell) for _, (cell,) in islice(source.table.read([source.index]), limit)]
    score = "{:.3f}" if metric == "stsb" else "{:.6g}"
    bounds = (0.0, 5.0) if metric == "stsb" else (-np.inf, np.inf)

    def predictions(outputs: Sequence[Outputs]) -> list[str]:
        predicted = _predictions(outputs, is_regression=not encoder.labels)
        if encoder.labels:
            return [encoder.labels[number] for number in predicted]
        return [score.format(value) for value in np.clip(predicted, *bounds)]

    def write(outputs: Sequence[Outputs], folder: Path) -> list[Path]:
        path = folder / source.predictions
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
