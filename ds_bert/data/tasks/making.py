"""From text to tasks: tokenise, index the words, group the sentences, and make tasks of them in parallel."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from ds_bert.data.arrays import shard_name
from ds_bert.data.prepare import PrepareSettings, prepare
from ds_bert.data.shards import ShardedCorpus
from ds_bert.data.tasks.clusters import sentence_clusters, with_clusters
from ds_bert.data.tasks.groups import Groups, word_groups
from ds_bert.data.tasks.maker import CORPUS, TRAIN, Job, TaskMaker, parts_of
from ds_bert.data.tasks.settings import LAYOUTS, PAIRS, SMLMT, TaskSettings
from ds_bert.data.tasks.task_set import write_task_manifest
from ds_bert.data.tasks.text_index import TextIndex, build_index
from ds_bert.data.tasks.vectors import model_word_vectors, text_word_vectors
from ds_bert.data.tasks.workers import map_in_order
from ds_bert.errors import UserError
from ds_bert.files import read_json, write_json

FILE_LIST = "data.json"
_WORK = ".work"
_CLASSES_OF_A_CLUSTER = 20


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
        jobs = [Job(part, span, folder / shard_name(number)) for number, span in enumerate(spans)]
        entries = list(_run(settings, work, maker, jobs))
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
            jobs = [Job(part, span, None) for span in _spans(numbers, settings.tasks_per_shard)]
            with open(path, "wb") as file:
                for content in _run(settings, work, maker, jobs):
                    file.write(content)
            listed[str(path)] = len(numbers) * int(sum(map(np.sum, settings.sizes.of_classes(ways))))
        corpus.tokenizer.save(folder / "tokenizer")
        write_json(folder / FILE_LIST, listed)
        summaries.append(_summary(settings, maker, part, folder, sum(listed.values())))
    return summaries[::-1]


def _spans(numbers: range, size: int) -> list[range]:
    return [numbers[first : first + size] for first in range(0, len(numbers), size)]


def _run(settings: TaskSettings, work: Path, maker: TaskMaker, jobs: list[Job]) -> Iterator[Any]:
    """Do the jobs, in order, in as many processes as there are jobs for."""
    workers = min(settings.workers, len(jobs))
    start: Callable[..., Any] = TaskMaker if workers > 1 else lambda *_: maker
    with tqdm(total=sum(len(job.numbers) for job in jobs), desc="tasks", unit="task", disable=None) as bar:
        for job, result in zip(jobs, map_in_order(TaskMaker.run, jobs, workers, start, work, settings), strict=True):
            yield result
            bar.update(len(job.numbers))


def _summary(settings: TaskSettings, maker: TaskMaker, part: str, folder: Path, num_examples: int) -> PartSummary:
    classes = None if settings.kind == PAIRS else len(maker.classes(part))
    return PartSummary(folder, parts_of(settings)[part], num_examples, classes)
