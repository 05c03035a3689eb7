"""What `ds-bert tasks` is told."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ds_bert.data.corpus import DEFAULT_READING, Reading
from ds_bert.data.shards import MANIFEST
from ds_bert.errors import UserError
from ds_bert.meta.tasks.published_files import JSON_LINES, TFRECORD

SMLMT, SENTENCE_CLUSTERS, PAIRS = "smlmt", "sentence-clusters", "pairs"
KINDS = (SMLMT, SENTENCE_CLUSTERS, PAIRS)
LAYOUTS = {"shards": "", "tfrecord": TFRECORD, "json": JSON_LINES}
SAMPLINGS = ("uniform", "log-frequency", "cluster")
_SHORTEST = 16  # tokens


@dataclass(frozen=True)
class Sizes:
    """How many examples a task has.

    Args:
        support, query: in all; classes differ by one example at most.
        shots, queries: of each class, where given, instead.
    """

    support: int = 80
    query: int = 10
    shots: int | None = None
    queries: int | None = None

    def of_classes(self, ways: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the support and query examples of each class, two int64 (ways,)."""
        return _shares(self.support, self.shots, ways), _shares(self.query, self.queries, ways)


DEFAULT_SIZES = Sizes()


def _shares(total: int, each: int | None, ways: int) -> np.ndarray:
    if each is not None:
        return np.full(ways, each)
    return total // ways + (np.arange(ways) < total % ways)


@dataclass(frozen=True)
class TaskSettings:
    """What `ds-bert tasks` is told; see its help for the fields."""

    output_dir: Path
    input: tuple[str, ...]
    tokenizer_name: str | None = None
    kind: str = SMLMT
    ways: tuple[int, ...] = (2, 3, 4)
    num_tasks: int = 10_000
    validation_share: float = 0.0
    sizes: Sizes = DEFAULT_SIZES
    min_frequency: int = 50
    sampling: str = "uniform"
    num_clusters: int | None = None
    max_sentences: int = 200_000
    embeddings: Path | None = None
    curriculum: bool = False
    max_seq_length: int = 128
    layout: str = "shards"
    reading: Reading = DEFAULT_READING
    seed: int = 0
    workers: int = 1
    tasks_per_shard: int = 1000

    @property
    def prepared(self) -> Path | None:
        """The folder of `ds-bert prepare` that is the input; None where that is text."""
        only = Path(self.input[0]) if len(self.input) == 1 else None
        return only if only is not None and (only / MANIFEST).is_file() else None

    def check(self) -> None:
        """Refuse settings that contradict each other or make nothing.

        Raises:
            UserError: naming the first such flag.
        """
        if not self.ways or min(self.ways) < 2 or len(set(self.ways)) < len(self.ways):
            raise UserError(f"--ways {' '.join(map(str, self.ways))}: needs different numbers of classes, 2 at least")
        if min(self.num_tasks, self.workers, self.tasks_per_shard, self.min_frequency, self.max_sentences) < 1:
            raise UserError(
                "--num_tasks, --workers, --tasks_per_shard, --min_frequency and --max_sentences must be at least 1"
            )
        if not 0.0 <= self.validation_share < 1.0:
            raise UserError(f"--validation_share {self.validation_share}: must be at least 0 and below 1")
        if self.max_seq_length < _SHORTEST:
            raise UserError(f"--max_seq_length {self.max_seq_length}: needs at least {_SHORTEST}")
        for ways in self.ways:
            support, query = self.sizes.of_classes(ways)
            if support.min() < 1 or query.sum() < 1 or query.min() < 0:
                raise UserError(
                    f"--ways {ways}: {support.sum()} support and {query.sum()} query examples; needs a support "
                    "example of each class and a query at least"
                )
        self._check_tokenizer()
        self._check_kind()

    def _check_tokenizer(self) -> None:
        if self.prepared is not None and self.tokenizer_name is not None:
            raise UserError(f"--tokenizer_name: {self.prepared} is tokenised already; leave one of them out")
        if self.prepared is None and self.tokenizer_name is None and self.embeddings is None:
            raise UserError("--tokenizer_name: needs the tokenizer of the model that is to learn the tasks")

    def _check_kind(self) -> None:
        if self.kind not in KINDS or self.sampling not in SAMPLINGS or self.layout not in LAYOUTS:
            raise UserError(f"--kind {self.kind} --sampling {self.sampling} --layout {self.layout}: no such choice")
        if self.kind == PAIRS:
            if self.curriculum or self.sampling != "uniform":
                raise UserError("--kind pairs: its classes are always the same; leave out --sampling and --curriculum")
            if not set(self.ways) <= {2, 3}:
                raise UserError(f"--ways {max(self.ways)}: --kind pairs has 2 or 3 classes")
        if self.num_clusters is not None and self.num_clusters < 1:
            raise UserError(f"--num_clusters {self.num_clusters}: must be at least 1")

    @property
    def needs_vectors(self) -> bool:
        """Whether classes are compared with each other."""
        return self.sampling == "cluster" or self.curriculum

    @property
    def most_of_a_class(self) -> int:
        """The most examples that any class of a task has."""
        sizes = (self.sizes.of_classes(ways) for ways in self.ways)
        return max(int((support + query).max()) for support, query in sizes)

    def decisive(self) -> dict[str, Any]:
        """Return all that decides the result, except the content of files, as JSON values."""
        values = asdict(self) | {"reading": list(self.reading), "embeddings": str(self.embeddings or "") or None}
        for name in ("output_dir", "workers"):
            del values[name]
        return values | {"input": list(self.input), "ways": list(self.ways)}
