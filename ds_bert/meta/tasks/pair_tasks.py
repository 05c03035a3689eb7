"""Contrastive tasks: does the second sentence of a pair follow the first, is it from elsewhere there, or neither?"""

import numpy as np

from ds_bert.data.features import join_pair
from ds_bert.data.sampler import below, permutation, random_bits
from ds_bert.errors import UserError
from ds_bert.meta.tasks.task_set import TaskExamples
from ds_bert.meta.tasks.task_settings import Sizes
from ds_bert.meta.tasks.text_index import Sentences, TextIndex

RELATIONS = ("next", "same document", "other document")
_CLASSES, _PAIRS, _ORDER = range(3)  # streams of random numbers
_ATTEMPTS = 100  # for each pair, on average


class PairTasks:
    """Makes tasks of pairs of sentences.

    The first sentences of all classes are alike: each has a usable next one, and another two or more away.

    Args:
        index: the sentences.
        documents: bool (documents,): those that pairs are made of.
        sizes: of the tasks.
        max_seq_length: tokens of a pair at most.
    """

    def __init__(self, index: TextIndex, documents: np.ndarray, sizes: Sizes, max_seq_length: int) -> None:
        self._sizes, self._max_seq_length = sizes, max_seq_length
        self._sentences = Sentences(index.corpus)
        self._tokenizer = index.corpus.tokenizer
        usable = np.flatnonzero(index.usable)
        document_of = self._sentences.documents(usable)
        allowed = documents[document_of]
        self._usable, self._document_of = usable[allowed], document_of[allowed]
        if len(self._usable):
            self._anchors = self._find_anchors()

    def _find_anchors(self) -> np.ndarray:
        """Places among the usable sentences that have a usable next one, and two more in their document."""
        is_next = np.diff(self._usable, append=-1) == 1
        is_next &= np.diff(self._document_of, append=-1) == 0
        per_document = np.bincount(self._document_of)[self._document_of]
        return np.flatnonzero(is_next & (per_document >= 4))

    def require(self, ways: int) -> None:
        """Refuse what pairs cannot give.

        Raises:
            UserError: naming what is needed.
        """
        if ways not in (2, 3):
            raise UserError(f"--ways {ways}: pairs have {', '.join(RELATIONS)} as classes; needs 2 or 3")
        needed = int(sum(map(np.sum, self._sizes.of_classes(ways))))
        if not len(self._usable) or len(self._anchors) < 4 * needed or len(np.unique(self._document_of)) < 2:
            raise UserError(
                f"--kind pairs: the text has too few sentences that follow one another for tasks of {needed} pairs; "
                "give more documents of 4 sentences or more"
            )

    def make(self, ways: int, progress: float, *counters: int) -> TaskExamples:
        """Make the task that the counters name, with labels in random order; no sentence stands there twice.

        Args:
            ways: 2 or 3 relations.
            progress: not used: these tasks are no curriculum.
            counters: what names it.

        Raises:
            UserError: the text has too few sentences.
        """
        relations = permutation(len(RELATIONS), *counters, _CLASSES)[:ways].tolist()
        support, query = self._sizes.of_classes(ways)
        wanted = [np.repeat(np.arange(ways), counts) for counts in (support, query)]
        order = [labels[permutation(len(labels), *counters, _ORDER, part)] for part, labels in enumerate(wanted)]
        labels = np.concatenate(order)
        used: set[int] = set()
        sequences, first_segments, attempt = [], [], 0
        for label in labels.tolist():
            while True:
                attempt += 1
                if attempt > _ATTEMPTS * len(labels):
                    raise UserError(f"--kind pairs: the text has too few sentences for tasks of {len(labels)} pairs")
                pair = self._pair(relations[label], *counters, _PAIRS, attempt)
                if pair is not None and not used & set(pair):
                    break
            used |= set(pair)
            ids, first = self._join(*pair)
            sequences.append(ids)
            first_segments.append(first)
        name = ", ".join(RELATIONS[relation] for relation in relations)
        return TaskExamples(sequences, first_segments, labels, int(support.sum()), ways, name)

    def _pair(self, relation: int, *counters: int) -> tuple[int, int] | None:
        """Draw a pair of sentences; None where the draw does not give one."""
        bits = random_bits(*counters, np.arange(2))
        place = int(self._anchors[below(bits[:1], len(self._anchors))[0]])
        anchor, document = int(self._usable[place]), self._document_of[place]
        if RELATIONS[relation] == "next":
            return anchor, anchor + 1
        if RELATIONS[relation] == "other document":
            other = int(below(bits[1:], len(self._usable))[0])
            return (anchor, int(self._usable[other])) if self._document_of[other] != document else None
        first, last = np.searchsorted(self._document_of, [document, document + 1])
        other = int(self._usable[first + below(bits[1:], int(last - first))[0]])
        return (anchor, other) if abs(other - anchor) > 1 else None

    def _join(self, first: int, second: int) -> tuple[np.ndarray, int]:
        left, right = (self._sentences.tokens(number).tolist() for number in (first, second))
        ids, size = join_pair(left, right, self._tokenizer.cls_id, self._tokenizer.sep_id, self._max_seq_length)
        return np.array(ids), size
