"""The tasks that a meta-training job names: opened, checked against the model, and mixed."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ds_bert.checkpoint import folders
from ds_bert.checkpoint.training_state import read_state
from ds_bert.data.feature_cache import cache_folder
from ds_bert.data.features import refuse_pairs
from ds_bert.data.tasks.episodes import EpisodeSource, TaskSource, fits_batches, misfit
from ds_bert.data.tasks.opening import OpenedFile, TaskReader, mix
from ds_bert.data.tasks.sources import Divided, SupervisedTasks
from ds_bert.data.tasks.task_set import MANIFEST
from ds_bert.engine.process_group import launcher_world
from ds_bert.errors import UserError
from ds_bert.files import file_fingerprint
from ds_bert.meta.arguments import MetaTrainArguments
from ds_bert.tasks.glue import glue_task
from ds_bert.training.model_source import Source


def open_tasks(arguments: MetaTrainArguments, model: Source) -> tuple[EpisodeSource, str]:
    """Open all tasks as one source; return it and the fingerprint of the data.

    Raises:
        UserError: there are none, one cannot be read, or the model cannot learn from them.
    """
    unlabelled, labelled = arguments.task_train_files, arguments.supervised_train_files
    cache_dir = cache_folder(arguments.cache_dir)
    data_dir = Path(arguments.data_dir) if arguments.data_dir else None
    query = arguments.train_batch_size - arguments.meta_batchsz
    reader = TaskReader(model.tokenizer, arguments.meta_batchsz, query, cache_dir, data_dir)
    self_supervised = [file for path in unlabelled for file in reader.self_supervised(Path(path))]
    supervised = [file for path in labelled for file in _supervised(Path(path), reader, arguments.max_seq_length)]
    for file in (*self_supervised, *supervised):
        _check(file.source, arguments, model.fields)
    files = [file.path for path in (*unlabelled, *labelled) for file in reader.files(Path(path))]
    return _mixed(arguments, self_supervised, supervised), _fingerprint(files)


def processes_of_run(arguments: MetaTrainArguments) -> int:
    """Return on how many processes the run began: those that there are, or what the checkpoint to go on from says."""
    _, processes = launcher_world()
    if not arguments.resume or not arguments.run_dir:
        return processes
    checkpoint = folders.newest_checkpoint(arguments.run_dir)
    return read_state(checkpoint).get("processes", processes) if checkpoint else processes


def _supervised(path: Path, reader: TaskReader, max_seq_length: int) -> list[OpenedFile]:
    if not path.is_dir():
        return reader.supervised(path)
    if (path / MANIFEST).is_file():
        return reader.self_supervised(path)
    task = glue_task(path.name, path, reader.tokenizer, max_seq_length, splits={"train"}, cache_dir=reader.cache_dir)
    for note in task.all_notes if launcher_world()[0] == 0 else ():
        print(f"note:   {note}", flush=True)
    examples, classes = task.train, task.config["num_labels"]
    assert examples is not None
    source = SupervisedTasks(examples, classes, reader.support, reader.query, str(path))  # type: ignore[arg-type]
    return [OpenedFile(source, len(examples))]


def _mixed(
    arguments: MetaTrainArguments, self_supervised: list[OpenedFile], supervised: list[OpenedFile]
) -> EpisodeSource:
    """With ``num_supervised_shards``, as if each process that the run began on read one task after another."""
    by_root, shards = arguments.data_sqrt_sampling, arguments.num_supervised_shards
    if not shards:
        return mix(self_supervised, supervised, arguments.pretrain_task_weight, by_root)
    if not self_supervised or not supervised:
        raise UserError("--num_supervised_shards needs both --task_train_files and --supervised_train_files")
    parts = mix([], supervised, square_root=by_root), mix(self_supervised, [], square_root=by_root)
    return Divided(*parts, shards, processes_of_run(arguments))


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


def _fingerprint(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        files = (
            [path / MANIFEST] if (path / MANIFEST).is_file() else sorted(path.glob("*")) if path.is_dir() else [path]
        )
        for file in filter(Path.is_file, files):
            digest.update(f"{file.name} {file_fingerprint(file)} ".encode())
    return digest.hexdigest()
