"""The tasks of a few-shot job: one pair of files, or all splits of a LEOPARD task."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ds_bert.data.features import Features, join_pair, make_features
from ds_bert.data.vocabulary import Tokenizer
from ds_bert.errors import UserError
from ds_bert.meta.arguments import FewShotArguments
from ds_bert.meta.tasks.episode import Episode
from ds_bert.meta.tasks.episode_sources import subset
from ds_bert.meta.tasks.leopard import LeopardTask
from ds_bert.meta.tasks.published_files import num_classes_of, read_examples
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
    classes, k = arguments.num_labels or num_classes_of(support_path), arguments.k[0]
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


def shortened(features: Features, max_length: int) -> Features:
    """Cut encoded texts and pairs to so many tokens, as `join_pair` would have; those that fit stay as they are."""
    if (features.lengths <= max_length).all():
        return features
    rows = [
        _cut(features.tokens[begin:end].tolist(), first, max_length)
        for (begin, end), first in zip(pairwise(features.starts), features.first_segments.tolist(), strict=True)
    ]
    ids, firsts = zip(*rows, strict=True)
    return make_features(ids, firsts, features.pad_id, features.columns)


def _cut(ids: list[int], first: int, max_length: int) -> tuple[list[int], int]:
    """Cut one sequence, [CLS] … [SEP] or [CLS] … [SEP] … [SEP], whose ``first`` tokens are of type 0."""
    if len(ids) <= max_length:
        return ids, first
    is_pair = 2 <= first < len(ids)
    left, right = (ids[1 : first - 1], ids[first:-1]) if is_pair else (ids[1:-1], None)
    cut, size = join_pair(left, right, ids[0], ids[-1], max_length)
    return cut, size if is_pair else min(first, size)


def _first(features: Features, limit: int) -> Features:
    return subset(features, np.arange(limit)) if 0 < limit < len(features) else features
