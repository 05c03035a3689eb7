"""Small folders of tasks, in which a word tells the class."""

from pathlib import Path

import numpy as np

from ds_bert.data.vocabulary import load_tokenizer
from ds_bert.meta.tasks.task_set import TaskExamples, write_task_manifest, write_task_shard


def write_tasks(folder: Path, model: Path, count: int = 24, support: int = 12, query: int = 6, seed: int = 0) -> Path:
    """Write 2- and 3-way tasks: each class of a task has a token of its own among others."""
    tokenizer, random = load_tokenizer(model), np.random.default_rng(seed)
    tasks = []
    for number in range(count):
        ways = 2 + number % 2
        words = random.permutation(np.arange(10, 40))[:ways]
        labels = np.concatenate([random.permutation(np.arange(size) % ways) for size in (support, query)])
        rows = [_row(random, int(words[label]), tokenizer.cls_id, tokenizer.sep_id) for label in labels]
        tasks.append(TaskExamples(rows, [len(row) for row in rows], labels, support, ways, f"task {number}"))
    shard = write_task_shard(folder / "shard-00000", tasks, tokenizer.size)
    write_task_manifest(folder, tokenizer, [shard], is_ordered=False, about={})
    return folder


def _row(random: np.random.Generator, word: int, cls_id: int, sep_id: int) -> np.ndarray:
    others = random.integers(40, 60, random.integers(1, 5))
    return np.array([cls_id, *random.permutation([word, *others]), sep_id])
