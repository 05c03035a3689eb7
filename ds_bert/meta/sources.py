"""Opening what a user names as tasks, and putting the two kinds together."""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

from ds_bert.data.feature_cache import file_fingerprint
from ds_bert.data.tasks.episodes import EpisodeSource
from ds_bert.data.tasks.sources import Divided, Mixture, RecordTasks, SupervisedTasks
from ds_bert.data.tasks.task_files import ListedFile, num_classes_of, read_file_list, read_listed
from ds_bert.data.tasks.task_set import MANIFEST, TaskSet
from ds_bert.errors import UserError
from ds_bert.tasks.glue import glue_task
from ds_bert.training.model_source import Source


class Opener:
    """Opens files and folders of tasks for a model.

    Args:
        model: whose tokenizer and vocabulary the tasks must be made of.
        max_seq_length: of GLUE's sentences.
        task_size, support_size: how records of published files, and GLUE's examples, are dealt into tasks.
        cache_dir: where encoded data is kept.
    """

    def __init__(
        self, model: Source, max_seq_length: int, task_size: int, support_size: int, cache_dir: Path | None
    ) -> None:
        self.model, self.max_seq_length, self.cache_dir = model, max_seq_length, cache_dir
        self.sizes = support_size, task_size - support_size

    def open(self, paths: Sequence[str], supervised: bool) -> list[EpisodeSource]:
        """Open folders of `ds-bert tasks`, GLUE's folders, and published lists such as data.json.

        Args:
            paths: of one kind of tasks.
            supervised: whether records of a list are shuffled, or lie task by task.

        Raises:
            UserError: one is missing, damaged, or made with another tokenizer.
        """
        sources: list[EpisodeSource] = []
        for path in map(Path, paths):
            if path.is_dir():
                sources.append(self._folder(path, supervised))
            else:
                sources += [self._listed(file, supervised) for file in read_file_list(path)]
        return sources

    def _folder(self, path: Path, supervised: bool) -> EpisodeSource:
        if supervised and not (path / MANIFEST).is_file():
            return self._glue(path)
        tasks = TaskSet.open(path)
        if tasks.tokenizer_fingerprint != self.model.tokenizer.fingerprint:
            raise UserError(f"{path}: was made with another tokenizer than the model's; make the tasks anew with that")
        return tasks

    def _glue(self, path: Path) -> EpisodeSource:
        task = glue_task(
            path.name,
            path,
            self.model.tokenizer,
            splits={"train"},
            max_seq_length=self.max_seq_length,
            cache_dir=self.cache_dir,
        )
        examples, classes = task.train, task.config["num_labels"]
        return SupervisedTasks(examples, classes, *self.sizes, name=str(path))  # type: ignore[arg-type]

    def _listed(self, file: ListedFile, supervised: bool) -> EpisodeSource:
        if file.path.is_dir():
            return self._folder(file.path, supervised)
        model = self.model
        features = read_listed(file, model.fields["vocab_size"], model.tokenizer.pad_id, self.cache_dir)
        if features.lengths.max() > model.fields["max_position_embeddings"]:
            raise UserError(
                f"{file.path}: has a sequence of {features.lengths.max()} tokens, the model has "
                f"{model.fields['max_position_embeddings']} positions"
            )
        kind = SupervisedTasks if supervised else RecordTasks
        return kind(features, num_classes_of(file.path), *self.sizes, name=str(file.path))


def mixed(sources: Sequence[EpisodeSource], by_root: bool) -> EpisodeSource:
    """Sources as one, each drawn by the number of its tasks, or by the root of that."""
    return Mixture(sources, [math.sqrt(len(source)) if by_root else len(source) for source in sources])


def hybrid(
    self_supervised: Sequence[EpisodeSource],
    supervised: Sequence[EpisodeSource],
    self_supervised_share: float,
    by_root: bool,
    shards: tuple[int, int],
) -> EpisodeSource:
    """Put the two kinds of tasks together.

    Args:
        self_supervised, supervised: sources of each kind; one of them may be empty.
        self_supervised_share: probability of that kind, where both are sampled.
        by_root: see `mixed`.
        shards: (s, n): of every n tasks s are supervised; not so where s is 0.
    """
    kinds = [mixed(kind, by_root) for kind in (self_supervised, supervised) if kind]
    if len(kinds) == 1:
        return kinds[0]
    if shards[0]:
        return Divided(kinds[1], kinds[0], *shards)
    return Mixture(kinds, [self_supervised_share, 1.0 - self_supervised_share])


def fingerprint(paths: Sequence[str]) -> str:
    """What tells these tasks from others."""
    digest = hashlib.sha256()
    for path in map(Path, paths):
        files = (
            [path / MANIFEST] if (path / MANIFEST).is_file() else sorted(path.glob("*")) if path.is_dir() else [path]
        )
        for file in filter(Path.is_file, files):
            digest.update(f"{file.name} {file_fingerprint(file)} ".encode())
    return digest.hexdigest()
