"""From text to tasks: tokenise, index the words, group the sentences, and make tasks of them in parallel."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from ds_bert.data.prepare import PrepareSettings, prepare
from ds_bert.data.shards import ShardedCorpus, shard_name
from ds_bert.data.workers import map_in_order
from ds_bert.errors import UserError
from ds_bert.files import read_json, write_json
from ds_bert.meta.tasks.group_tasks import Choice, GroupTasks
from ds_bert.meta.tasks.groups import (
    Groups,
    held_out,
    model_word_vectors,
    sentence_clusters,
    text_word_vectors,
    with_clusters,
    word_groups,
)
from ds_bert.meta.tasks.pair_tasks import PairTasks
from ds_bert.meta.tasks.published_files import encode_tasks
from ds_bert.meta.tasks.task_set import TaskExamples, write_task_manifest, write_task_shard
from ds_bert.meta.tasks.task_settings import LAYOUTS, PAIRS, SMLMT, TaskSettings
from ds_bert.meta.tasks.text_index import TextIndex, build_index

FILE_LIST = "data.json"
CORPUS = "corpus"
TRAIN, VALIDATION = "train", "validation"
_PARTS = (TRAIN, VALIDATION)
_WORK = ".work"
_CLASSES_OF_A_CLUSTER = 20


class WorkItem(NamedTuple):
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

    def run(self, item: WorkItem) -> dict[str, Any] | bytes:
        """Make an item's tasks; return their shard's entry, or their bytes in the published layout."""
        settings, tokenizer = self._settings, self._index.corpus.tokenizer
        tasks = [self.make(item.part, number) for number in item.numbers]
        if item.folder is not None:
            return write_task_shard(item.folder, tasks, tokenizer.size)
        return encode_tasks(tasks, LAYOUTS[settings.layout], settings.max_seq_length, tokenizer.pad_id)


def parts_of(settings: TaskSettings) -> dict[str, int]:
    """Return the parts of a run and how many tasks each has."""
    share = settings.validation_share
    parts = {TRAIN: settings.num_tasks}
    return parts | {VALIDATION: max(1, round(settings.num_tasks * share))} if share else parts


@dataclass(frozen=True)
class PartSummary:
    """What was made of a part.

    Attributes:
        folder: where it lies.
        num_tasks, num_examples: counts.
        num_classes: words or clusters that tasks were made of; None for pairs.
    """

    folder: Path
    num_tasks: int
    num_examples: int
    num_classes: int | None


def make_tasks(settings: TaskSettings) -> list[PartSummary]:
    """Make tasks, or finish what the same command began. The result does not depend on the number of workers.

    Returns:
        What was made: the training tasks and, with a validation share, the validation tasks.

    Raises:
        UserError: a setting or the text is wrong, or the output folder is not empty and not of this command.
    """
    settings.check()
    work = _start_or_resume(settings)
    folders = {part: settings.output_dir / ("" if part == TRAIN else part) for part in parts_of(settings)}
    try:
        corpus = _prepare_corpus(settings, work)
    except UserError:
        if not (work / CORPUS).exists():  # else it holds finished shards
            _withdraw(settings.output_dir)
        raise
    try:
        with threadpool_limits(1):  # sums in one order
            _prepare_index(settings, corpus, work)
        maker = TaskMaker(work, settings)
    except UserError:
        _withdraw(settings.output_dir)
        raise
    write = _write_shards if settings.layout == "shards" else _write_files
    summaries = write(settings, work, folders, maker, corpus)
    shutil.rmtree(work)
    return summaries


def _start_or_resume(settings: TaskSettings) -> Path:
    folder, work = settings.output_dir, settings.output_dir / _WORK
    begun = work / "settings.json"
    if begun.is_file():
        if read_json(begun) != settings.decisive():
            raise UserError(f"{folder}: begun with other arguments; give those, or another --output_dir")
        return work
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: is not empty; needs a new --output_dir")
    work.mkdir(parents=True)
    write_json(begun, settings.decisive())
    return work


def _withdraw(folder: Path) -> None:
    """Take away what was begun, so that the command can be given again with other arguments."""
    shutil.rmtree(folder / _WORK)
    if not any(folder.iterdir()):
        folder.rmdir()


def _prepare_corpus(settings: TaskSettings, work: Path) -> ShardedCorpus:
    if settings.prepared is not None:
        return ShardedCorpus.open(settings.prepared)
    prepare(
        PrepareSettings(
            output_dir=work / CORPUS,
            input=settings.input,
            tokenizer_name=settings.tokenizer_name or str(settings.embeddings),
            reading=settings.reading,
            num_workers=settings.workers,
        )
    )
    return ShardedCorpus.open(work / CORPUS)


def _prepare_index(settings: TaskSettings, corpus: ShardedCorpus, work: Path) -> None:
    index = build_index(corpus, settings.min_frequency, settings.max_seq_length - 2)
    index.save(work / "index")
    if settings.kind != PAIRS:
        _make_groups(settings, index).save(work / "groups")


def _make_groups(settings: TaskSettings, index: TextIndex) -> Groups:
    if not len(index.words):
        raise UserError(
            f"--min_frequency {settings.min_frequency}: no word stands in so many different sentences; give more text "
            "or a lower number"
        )
    if settings.kind == SMLMT:
        groups = word_groups(index)
        if settings.needs_vectors:
            groups = replace(groups, vectors=_word_vectors(settings, index))
        num_clusters = settings.num_clusters
    else:
        sentences = min(int(index.usable.sum()), settings.max_sentences)
        count = settings.num_clusters or max(2, min(1000, sentences // (4 * settings.most_of_a_class)))
        groups = sentence_clusters(index, _word_vectors(settings, index), count, settings.max_sentences, settings.seed)
        num_clusters = None
    if settings.sampling == "cluster":
        count = num_clusters or max(1, len(groups.names) // _CLASSES_OF_A_CLUSTER)
        groups = with_clusters(groups, count, settings.seed)
    return groups


def _word_vectors(settings: TaskSettings, index: TextIndex) -> np.ndarray:
    if settings.embeddings is not None:
        return model_word_vectors(index, settings.embeddings)
    return text_word_vectors(index, settings.max_sentences, settings.seed)


_Folders = dict[str, Path]


def _write_shards(
    settings: TaskSettings, work: Path, folders: _Folders, maker: TaskMaker, corpus: ShardedCorpus
) -> list[PartSummary]:
    summaries = []
    for part, folder in reversed(folders.items()):  # training last: its manifest says that all is complete
        spans = _spans(range(parts_of(settings)[part]), settings.tasks_per_shard)
        items = [WorkItem(part, span, folder / shard_name(number)) for number, span in enumerate(spans)]
        entries = list(_run(settings, work, maker, items))
        about = {"part": part, **settings.decisive()}
        write_task_manifest(folder, corpus.tokenizer, entries, settings.curriculum, about)
        summaries.append(_summary(settings, maker, part, folder, sum(entry["num_examples"] for entry in entries)))
    return summaries[::-1]


def _write_files(
    settings: TaskSettings, work: Path, folders: _Folders, maker: TaskMaker, corpus: ShardedCorpus
) -> list[PartSummary]:
    summaries = []
    for part, folder in reversed(folders.items()):
        folder.mkdir(exist_ok=True)
        listed = {}
        for place, ways in enumerate(settings.ways):
            path = folder / f"meta_{settings.kind.replace('-', '_')}_{ways}{LAYOUTS[settings.layout]}"
            numbers = range(place, parts_of(settings)[part], len(settings.ways))
            if not numbers:
                continue
            items = [WorkItem(part, span, None) for span in _spans(numbers, settings.tasks_per_shard)]
            with open(path, "wb") as file:
                for content in _run(settings, work, maker, items):
                    file.write(content)
            listed[str(path)] = len(numbers) * int(sum(map(np.sum, settings.sizes.of_classes(ways))))
        corpus.tokenizer.save(folder / "tokenizer")
        write_json(folder / FILE_LIST, listed)
        summaries.append(_summary(settings, maker, part, folder, sum(listed.values())))
    return summaries[::-1]


def _spans(numbers: range, size: int) -> list[range]:
    return [numbers[first : first + size] for first in range(0, len(numbers), size)]


def _run(settings: TaskSettings, work: Path, maker: TaskMaker, items: list[WorkItem]) -> Iterator[Any]:
    """Make the items' tasks, in order, in as many processes as there are items for."""
    workers = min(settings.workers, len(items))
    start: Callable[..., Any] = TaskMaker if workers > 1 else lambda *_: maker
    made = map_in_order(TaskMaker.run, items, workers, "--workers", start, work, settings)
    total = sum(len(item.numbers) for item in items)
    with tqdm(total=total, desc="tasks", unit="task", leave=False, disable=None) as bar:
        for item, result in zip(items, made, strict=True):
            yield result
            bar.update(len(item.numbers))


def _summary(settings: TaskSettings, maker: TaskMaker, part: str, folder: Path, num_examples: int) -> PartSummary:
    classes = None if settings.kind == PAIRS else len(maker.classes(part))
    return PartSummary(folder, parts_of(settings)[part], num_examples, classes)
