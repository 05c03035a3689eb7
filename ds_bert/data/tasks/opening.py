"""The episodes of a meta-training run, from the files that its flags name."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ds_bert.data.features import Features
from ds_bert.data.tasks.episodes import EpisodeSource, TaskSource
from ds_bert.data.tasks.sources import Mixture, RecordTasks, SupervisedTasks
from ds_bert.data.tasks.task_files import JSON, ListedFile, num_classes_of, read_file_list, read_listed
from ds_bert.data.tasks.task_set import MANIFEST, TaskSet
from ds_bert.data.vocabulary import Tokenizer
from ds_bert.errors import UserError


@dataclass(frozen=True)
class OpenedFile:
    """A source and what it weighs in a mixture."""

    source: TaskSource
    num_examples: int


@dataclass(frozen=True)
class TaskReader:
    """Opens files of tasks and of supervised data.

    Args:
        tokenizer: of the model.
        support, query: examples of a task, where that does not follow from the file: ``meta_batchsz``, and the rest
            of ``train_batch_size``.
        cache_dir: where encoded examples are kept as memory-mapped arrays; None keeps none.
        data_dir: where listed files are looked for; None: beside their list.
    """

    tokenizer: Tokenizer
    support: int = 80
    query: int = 10
    cache_dir: Path | None = None
    data_dir: Path | None = None

    def self_supervised(self, path: Path) -> list[OpenedFile]:
        """Open self-supervised tasks: a folder of `ds-bert tasks`, a file of examples, or a list of such.

        Raises:
            UserError: a file is missing, damaged or made with another tokenizer, or too small.
        """
        opened = []
        for file in self.files(path):
            if file.path.is_dir():
                opened.append(self._open_folder(file.path))
                continue
            features = self._read(file)
            tasks = RecordTasks(features, num_classes_of(file.path), self.support, self.query, str(file.path))
            opened.append(OpenedFile(tasks, len(features)))
        return opened

    def supervised(self, path: Path) -> list[OpenedFile]:
        """Open supervised data: a file of examples, or a list of such; raises as `self_supervised`."""
        opened = []
        for file in self.files(path):
            features, classes = self._read(file), num_classes_of(file.path)
            tasks = SupervisedTasks(features, classes, self.support, self.query, str(file.path))
            opened.append(OpenedFile(tasks, len(features)))
        return opened

    def files(self, path: Path) -> list[ListedFile]:
        """Return what a path stands for: itself, or the files and folders that it lists."""
        if path.is_dir() or path.suffix != JSON or _ends_in_number(path):
            return [ListedFile(path, 0)]
        return read_file_list(path, self.data_dir)

    def _read(self, file: ListedFile) -> Features:
        return read_listed(file, self.tokenizer.size, self.tokenizer.pad_id, self.cache_dir)

    def _open_folder(self, folder: Path) -> OpenedFile:
        tasks = TaskSet.open(folder)
        if tasks.tokenizer.fingerprint != self.tokenizer.fingerprint:
            raise UserError(f"{folder / MANIFEST}: made with another tokenizer than the model's; make tasks with that")
        return OpenedFile(tasks, tasks.num_examples)


def _ends_in_number(path: Path) -> bool:
    return path.stem.rpartition("_")[2].isdigit()


def mix(
    self_supervised: list[OpenedFile],
    supervised: list[OpenedFile],
    pretrain_task_weight: float | None = None,
    square_root: bool = True,
) -> EpisodeSource:
    """Mix files: each weighs the square root of its examples (or as many as they are).

    Args:
        self_supervised, supervised: the files, of at least one kind.
        pretrain_task_weight: share of all episodes that is self-supervised; None: as the files weigh.
        square_root: ``data_sqrt_sampling``.

    Raises:
        UserError: there are no files, or the share does not fit the kinds there are.
    """
    kinds = [
        np.array([file.num_examples for file in files], dtype=np.float64) for files in (self_supervised, supervised)
    ]
    weights = [np.sqrt(counts) if square_root else counts for counts in kinds]
    if not self_supervised and not supervised:
        raise UserError("meta-training needs --task_train_files or --supervised_train_files")
    if pretrain_task_weight is not None:
        if not 0 < pretrain_task_weight < 1 or not self_supervised or not supervised:
            raise UserError(
                f"--pretrain_task_weight {pretrain_task_weight}: needs files of both kinds and a share between 0 and 1"
            )
        shares = (pretrain_task_weight, 1.0 - pretrain_task_weight)
        weights = [share * part / part.sum() for share, part in zip(shares, weights, strict=True)]
    files = [*self_supervised, *supervised]
    return (
        files[0].source
        if len(files) == 1
        else Mixture([file.source for file in files], np.concatenate(weights).tolist())
    )
