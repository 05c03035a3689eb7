"""The tasks of a few-shot job: one pair of files, or all splits of a LEOPARD task."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ds_bert.data.features import Features
from ds_bert.data.vocabulary import Tokenizer
from ds_bert.errors import UserError
from ds_bert.meta.arguments import FewShotArguments
from ds_bert.meta.tasks.episode import Episode
from ds_bert.meta.tasks.episode_sources import subset
from ds_bert.meta.tasks.leopard import LeopardTask
from ds_bert.meta.tasks.published_files import labels_in, read_examples
from ds_bert.meta.tasks.shortening import shortened
from ds_bert.modeling.config import refuse_pairs


@dataclass(frozen=True)
class FewShotTasks:
    """What is to be learned.

    Args:
        name: of the task.
        episodes: by (k, split).
        left_out: one sentence for each split that cannot be used.
    """

    name: str
    episodes: Mapping[tuple[int, int], Episode]
    left_out: tuple[str, ...] = ()


def open_few_shot(arguments: FewShotArguments, tokenizer: Tokenizer, model: Mapping[str, Any]) -> FewShotTasks:
    """Read what the arguments name.

    Raises:
        UserError: neither files nor a folder were named, or both, or they are not as they should be, or not for this
            model.
    """
    files = (arguments.support_file, arguments.test_file)
    if bool(arguments.task_dir) == any(files) or (any(files) and not all(files)):
        raise UserError("needed is --support_file with --test_file, or --task_dir")
    if arguments.task_dir:
        tasks = _all_splits(arguments, tokenizer)
    else:
        tasks = _one_split(arguments, tokenizer, model["vocab_size"])
    for episode in tasks.episodes.values():
        if episode.support.has_pairs.any() or episode.query.has_pairs.any():
            refuse_pairs(episode.name, model["type_vocab_size"])
    return tasks


def _all_splits(arguments: FewShotArguments, tokenizer: Tokenizer) -> FewShotTasks:
    task = LeopardTask.open(arguments.task_dir or "")
    if arguments.num_labels not in (0, len(task.labels)):
        raise UserError(f"{task.folder}: has {len(task.labels)} classes, but --num_labels is {arguments.num_labels}")
    test = task.evaluation(tokenizer, arguments.max_seq_length, arguments.max_test_samples or None)
    episodes, left_out = {}, []
    for k in arguments.k:
        usable, reasons = task.usable_splits(k)
        left_out += reasons
        for split in usable[: arguments.splits]:
            support = task.support(split, k, tokenizer, arguments.max_seq_length)
            episodes[k, split] = Episode(support, test, len(task.labels), f"{task.name}, k = {k}, split {split}")
    return FewShotTasks(task.name, episodes, tuple(left_out))


def _one_split(arguments: FewShotArguments, tokenizer: Tokenizer, vocab_size: int) -> FewShotTasks:
    support_path, test_path = Path(arguments.support_file or ""), Path(arguments.test_file or "")
    if len(arguments.k) != 1:
        raise UserError(f"--k {' '.join(map(str, arguments.k))}: one --support_file has one k; several need --task_dir")
    classes, k = arguments.num_labels or _classes_in(support_path), arguments.k[0]
    support, test = (
        shortened(read_examples(path, classes, vocab_size, tokenizer.pad_id), arguments.max_seq_length)
        for path in (support_path, test_path)
    )
    counts = np.bincount(np.asarray(support.columns["labels"]), minlength=classes)
    if (counts != k).any():
        wrong = int(np.flatnonzero(counts != k)[0])
        raise UserError(f"{support_path}: {counts[wrong]} examples of class {wrong}, but --k is {k}")
    test = _first(test, arguments.max_test_samples)
    return FewShotTasks(support_path.stem, {(k, 0): Episode(support, test, classes, str(support_path))})


def _classes_in(path: Path) -> int:
    """Count the classes of a support set, which has examples of each; what ends the file's name may be its k."""
    classes = int(labels_in(path).max(initial=-1)) + 1
    if classes < 2:
        found = "is empty" if not classes else "all its examples are of class 0"
        raise UserError(f"{path}: {found}; needs examples of two classes at least, or --num_labels says how many")
    return classes


def _first(features: Features, limit: int) -> Features:
    return subset(features, np.arange(limit)) if 0 < limit < len(features) else features
