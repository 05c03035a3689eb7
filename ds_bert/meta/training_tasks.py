"""The tasks that a meta-training job names: opened, checked against the model, and mixed."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ds_bert.checkpoint import folders
from ds_bert.checkpoint.training_state import read_state
from ds_bert.command_line import launcher_world
from ds_bert.data.feature_cache import cache_folder
from ds_bert.data.features import Features
from ds_bert.data.vocabulary import Tokenizer
from ds_bert.errors import UserError
from ds_bert.files import file_fingerprint
from ds_bert.meta.arguments import MetaTrainArguments
from ds_bert.meta.tasks.episode import EpisodeSource, TaskSource, fits_batches, misfit
from ds_bert.meta.tasks.episode_sources import Divided, OpenedFile, RecordTasks, SupervisedTasks, mix
from ds_bert.meta.tasks.published_files import ListedFile, files_of, num_classes_of, read_listed
from ds_bert.meta.tasks.task_set import MANIFEST, TaskSet
from ds_bert.modeling.config import refuse_pairs
from ds_bert.tasks.glue.task import GlueOptions, glue_task
from ds_bert.tasks.task import DataOptions
from ds_bert.terminal import fact
from ds_bert.training.starting_model import StartingModel


def open_tasks(arguments: MetaTrainArguments, model: StartingModel) -> tuple[EpisodeSource, str]:
    """Open all tasks as one source; return it and the fingerprint of the data.

    Raises:
        UserError: there are none, one cannot be read, or the model cannot learn from them.
    """
    data_dir = Path(arguments.data_dir) if arguments.data_dir else None
    unlabelled, labelled = (
        [file for path in paths for file in files_of(Path(path), data_dir)]
        for paths in (arguments.task_train_files, arguments.supervised_train_files)
    )
    query = arguments.train_batch_size - arguments.meta_batchsz
    data = DataOptions(arguments.max_seq_length, {"train"}, cache_folder(arguments.cache_dir))
    reader = TaskReader(model.tokenizer, arguments.meta_batchsz, query, data)
    self_supervised = [reader.self_supervised(file) for file in unlabelled]
    supervised = [reader.supervised(file) for file in labelled]
    for file in (*self_supervised, *supervised):
        _check(file.tasks, arguments, model.fields)
    fingerprint = _fingerprint([file.path for file in (*unlabelled, *labelled)])
    return _mixed(arguments, self_supervised, supervised), fingerprint


@dataclass(frozen=True)
class TaskReader:
    """Opens files of tasks and of supervised data.

    Args:
        tokenizer: of the model.
        support, query: examples of a task, where that does not follow from the file: ``meta_batchsz``, and the rest
            of ``train_batch_size``.
        data: how a GLUE task's texts are read.
    """

    tokenizer: Tokenizer
    support: int
    query: int
    data: DataOptions

    def self_supervised(self, file: ListedFile) -> OpenedFile:
        """Open self-supervised tasks: a folder of `ds-bert tasks`, or a file of examples.

        Raises:
            UserError: it is missing, damaged or made with another tokenizer, or too small.
        """
        if file.path.is_dir():
            return self._made(file.path)
        examples = self._read(file)
        tasks = RecordTasks(examples, num_classes_of(file.path), self.support, self.query, str(file.path))
        return OpenedFile(tasks, len(examples))

    def supervised(self, file: ListedFile) -> OpenedFile:
        """Open supervised data: a folder of a GLUE task or of `ds-bert tasks`, or a file of examples.

        Raises:
            UserError: as `self_supervised`, or as `glue_task`.
        """
        if (file.path / MANIFEST).is_file():
            return self._made(file.path)
        if file.path.is_dir():
            examples, classes = self._texts(file.path)
        else:
            examples, classes = self._read(file), num_classes_of(file.path)
        tasks = SupervisedTasks(examples, classes, self.support, self.query, str(file.path))
        return OpenedFile(tasks, len(examples))

    def _made(self, folder: Path) -> OpenedFile:
        tasks = TaskSet.open(folder)
        if tasks.tokenizer.fingerprint != self.tokenizer.fingerprint:
            raise UserError(f"{folder / MANIFEST}: made with another tokenizer than the model's; make tasks with that")
        return OpenedFile(tasks, tasks.num_examples)

    def _read(self, file: ListedFile) -> Features:
        return read_listed(file, self.tokenizer.size, self.tokenizer.pad_id, self.data.cache_dir)

    def _texts(self, folder: Path) -> tuple[Features, int]:
        """Encode the training examples of a GLUE task's folder; return the number of its classes, too."""
        task = glue_task(GlueOptions(self.data, folder.name, folder), self.tokenizer)
        for note in task.all_notes if launcher_world()[0] == 0 else ():
            print(fact("note", note), flush=True)
        assert isinstance(task.train, Features)
        return task.train, task.config["num_labels"]


def _check(tasks: TaskSource, arguments: MetaTrainArguments, model: Mapping[str, Any]) -> None:
    """Refuse tasks that the model, or the cut of a support set into batches, is too small for."""
    shapes, positions = tasks.shapes(), model["max_position_embeddings"]
    limit = min(arguments.max_seq_length, positions)
    for row in np.flatnonzero(shapes.has_pairs)[:1].tolist():
        refuse_pairs(tasks.title(row), model["type_vocab_size"])
    too_long = np.flatnonzero(shapes.longest > limit)
    if len(too_long):
        row = int(too_long[0])
        bound = f"--max_seq_length is {limit}" if limit < positions else f"the model has {positions} positions"
        raise UserError(f"{tasks.title(row)}: a sequence has {shapes.longest[row]} tokens, but {bound}")
    misfits = np.flatnonzero(~fits_batches(shapes.support, shapes.classes, arguments.num_batches))
    if len(misfits):
        row = int(misfits[0])
        raise UserError(misfit(tasks.title(row), shapes.support[row], shapes.classes[row], arguments.num_batches))


def _mixed(
    arguments: MetaTrainArguments, self_supervised: list[OpenedFile], supervised: list[OpenedFile]
) -> EpisodeSource:
    """With ``num_supervised_shards``, as if each process that the run began on read one task after another."""
    by_root, shards = arguments.data_sqrt_sampling, arguments.num_supervised_shards
    if not shards:
        return mix(self_supervised, supervised, arguments.pretrain_task_weight, by_root)
    if not self_supervised or not supervised:
        raise UserError("--num_supervised_shards needs both --task_train_files and --supervised_train_files")
    parts = mix([], supervised), mix(self_supervised, [], square_root=by_root)
    return Divided(*parts, shards, processes_of_run(arguments))


def processes_of_run(arguments: MetaTrainArguments) -> int:
    """Return on how many processes the run began: those that there are, or what the checkpoint to go on from says."""
    _, processes = launcher_world()
    if not arguments.resume or not arguments.run_dir:
        return processes
    checkpoint = folders.newest_checkpoint(arguments.run_dir)
    return read_state(checkpoint).get("processes", processes) if checkpoint else processes


def _fingerprint(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        files = (
            [path / MANIFEST] if (path / MANIFEST).is_file() else sorted(path.glob("*")) if path.is_dir() else [path]
        )
        for file in filter(Path.is_file, files):
            digest.update(f"{file.name} {file_fingerprint(file)} ".encode())
    return digest.hexdigest()
