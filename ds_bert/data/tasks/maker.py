"""Making any task of a run, given its number: what every worker process does."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ds_bert.data.shards import ShardedCorpus
from ds_bert.data.tasks.choice import Choice
from ds_bert.data.tasks.group_tasks import GroupTasks
from ds_bert.data.tasks.groups import Groups, held_out
from ds_bert.data.tasks.pair_tasks import PairTasks
from ds_bert.data.tasks.settings import LAYOUTS, PAIRS, SMLMT, TaskSettings
from ds_bert.data.tasks.task_files import encode_tasks
from ds_bert.data.tasks.task_set import TaskExamples, write_task_shard
from ds_bert.data.tasks.text_index import TextIndex

CORPUS = "corpus"
TRAIN, VALIDATION = "train", "validation"
_PARTS = (TRAIN, VALIDATION)


class Job(NamedTuple):
    """Tasks to make in one go; ``folder`` is their shard's, None where their bytes are wanted."""

    part: str
    numbers: range
    folder: Path | None


class TaskMaker:
    """Makes any task of a run, given its number; every process has one.

    Args:
        work: the folder with corpus, index and groups.
        settings: of the run.
    """

    def __init__(self, work: Path, settings: TaskSettings) -> None:
        self._settings = settings
        self._index = TextIndex.open(work / "index", ShardedCorpus.open(settings.prepared or work / CORPUS))
        self._groups = None if settings.kind == PAIRS else Groups.open(work / "groups")
        self._makers = {part: self._maker(part) for part in parts_of(settings)}

    def _maker(self, part: str) -> GroupTasks | PairTasks:
        settings, share = self._settings, self._settings.validation_share
        if self._groups is None:
            documents = held_out(self._index.corpus.num_documents, share) == (part == VALIDATION)
            pairs = PairTasks(self._index, documents, settings.sizes, settings.max_seq_length)
            for ways in settings.ways:
                pairs.require(ways)
            return pairs
        choice = Choice(self._groups, self.classes(part), settings.sampling, settings.curriculum)
        for ways in settings.ways:
            choice.require(ways)
        return GroupTasks(self._index, choice, settings.sizes, masks_words=settings.kind == SMLMT)

    def classes(self, part: str) -> np.ndarray:
        """Return the groups that a part's tasks are made of."""
        assert self._groups is not None
        is_held_out = held_out(len(self._groups.names), self._settings.validation_share)
        enough = self._groups.sizes >= self._settings.most_of_a_class
        return np.flatnonzero(enough & (is_held_out == (part == VALIDATION)))

    def make(self, part: str, number: int) -> TaskExamples:
        """Make task ``number`` of a part."""
        settings = self._settings
        progress = number / max(1, parts_of(settings)[part] - 1)
        ways = settings.ways[number % len(settings.ways)]
        return self._makers[part].make(ways, progress, settings.seed, _PARTS.index(part), number)

    def run(self, job: Job) -> dict[str, Any] | bytes:
        """Make a job's tasks; return their shard's entry, or their bytes in the published layout."""
        settings, tokenizer = self._settings, self._index.corpus.tokenizer
        tasks = [self.make(job.part, number) for number in job.numbers]
        if job.folder is not None:
            return write_task_shard(job.folder, tasks, tokenizer.size)
        return encode_tasks(tasks, LAYOUTS[settings.layout], settings.max_seq_length, tokenizer.pad_id)


def parts_of(settings: TaskSettings) -> dict[str, int]:
    """Return the parts of a run and how many tasks each has."""
    share = settings.validation_share
    parts = {TRAIN: settings.num_tasks}
    return parts | {VALIDATION: max(1, round(settings.num_tasks * share))} if share else parts
