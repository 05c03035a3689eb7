"""Tasks whose classes are groups of sentences: which word is masked (SMLMT), or which cluster a sentence is from."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ds_bert.data.sampler import below, permutation, random_bits, uniform
from ds_bert.errors import UserError
from ds_bert.meta.tasks.groups import Groups
from ds_bert.meta.tasks.task_set import TaskExamples
from ds_bert.meta.tasks.task_settings import Sizes
from ds_bert.meta.tasks.text_index import Sentences, TextIndex, WordSplitter

_ATTEMPTS = 100  # to find classes with enough sentences of their own
_FIRST, _OTHERS = 0, 1  # streams of random numbers, of a choice
_GROUPS, _SENTENCES, _ORDER, _EXTRA = range(4)  # and of a task


@dataclass(frozen=True)
class Choice:
    """Chooses N groups for a task.

    Args:
        groups: all there are.
        allowed: numbers of those that may be chosen, ascending.
        sampling: "uniform"; "log-frequency": in proportion to the logarithm of a group's size; "cluster": groups of
            one cluster, which are harder to tell apart.
        curriculum: begin with any groups, and choose them ever more alike as the tasks go on.
    """

    groups: Groups
    allowed: np.ndarray
    sampling: str = "uniform"
    curriculum: bool = False

    def require(self, ways: int) -> None:
        """Refuse a choice of more groups than there are.

        Raises:
            UserError: naming how many there are.
        """
        counts = np.bincount(self.groups.clusters[self.allowed], minlength=1)
        found = int(counts.max() if self.sampling == "cluster" else counts.sum())
        where = " in the largest cluster" if self.sampling == "cluster" else ""
        if found < ways:
            raise UserError(
                f"--ways {ways}: only {found} words or sentence clusters{where} have the sentences that a task needs; "
                "give more text, fewer --ways or a lower --min_frequency, or examples"
            )

    def choose(self, ways: int, progress: float, *counters: int) -> np.ndarray:
        """Return ``ways`` distinct groups in random order, int64.

        Args:
            ways: how many, of which `require` found enough.
            progress: how far on the task is among all, from 0 to 1; it decides how alike the groups are in a
                curriculum.
            counters: what the choice is for.
        """
        candidates = self.allowed
        if self.sampling == "cluster":
            clusters = self.groups.clusters[candidates]
            sizes = np.bincount(clusters)
            cluster = weighted_sample(np.where(sizes >= ways, sizes, 0), 1, *counters, _FIRST)[0]
            candidates = candidates[clusters == cluster]
        if not self.curriculum:
            return candidates[weighted_sample(self._weights(candidates), ways, *counters, _OTHERS)]
        first = candidates[weighted_sample(self._weights(candidates), 1, *counters, _FIRST, 1)[0]]
        near = self._nearest(first, candidates[candidates != first], ways, progress)
        others = near[weighted_sample(self._weights(near), ways - 1, *counters, _OTHERS)]
        return np.concatenate([[first], others])

    def _weights(self, candidates: np.ndarray) -> np.ndarray:
        if self.sampling != "log-frequency":
            return np.ones(len(candidates))
        return np.log(self.groups.starts[candidates + 1] - self.groups.starts[candidates])

    def _nearest(self, first: int, others: np.ndarray, ways: int, progress: float) -> np.ndarray:
        """Of the other groups, keep those most like ``first``: all at the beginning, twice the ways at the end."""
        fewest = min(2 * ways, len(others))
        kept = round(fewest * (len(others) / fewest) ** (1.0 - progress))
        similarity = self.groups.vectors[others] @ self.groups.vectors[first]
        return others[np.sort(np.argsort(-similarity, kind="stable")[:kept])]


def weighted_sample(weights: np.ndarray, count: int, *counters: int) -> np.ndarray:
    """Draw distinct places, one after the other, in proportion to the weights of those that are left.

    Args:
        weights: float (places,), at least ``count`` of them above 0.
        count: how many to draw.
        counters: what they are for.

    Returns:
        int64 (count,), in the order drawn.
    """
    possible = np.flatnonzero(weights > 0)
    waiting = -np.log1p(-uniform(random_bits(*counters, possible))) / weights[possible]  # exponential, of that rate
    return possible[np.argsort(waiting, kind="stable")[:count]]


class GroupTasks:
    """Makes tasks of groups of sentences.

    Args:
        index: the sentences and words.
        choice: chooses the groups.
        sizes: of the tasks.
        masks_words: groups are words: in their sentences, each is replaced by one [MASK] wherever it stands, and no
            sentence holds another of the task's words.
    """

    def __init__(self, index: TextIndex, choice: Choice, sizes: Sizes, masks_words: bool) -> None:
        self._index, self._choice, self._sizes, self._masks_words = index, choice, sizes, masks_words
        self._sentences = Sentences(index.corpus)
        self._tokenizer = index.corpus.tokenizer
        self._splitter = WordSplitter(self._tokenizer)

    def make(self, ways: int, progress: float, *counters: int) -> TaskExamples:
        """Make the task that the counters name; `Choice.choose` says what ``progress`` is.

        Raises:
            UserError: no groups with enough sentences are found.
        """
        support, query = self._sizes.of_classes(ways)
        for attempt in range(_ATTEMPTS):
            groups = self._choice.choose(ways, progress, *counters, _GROUPS, attempt)
            drawn = self._draw(groups, support + query, *counters, _SENTENCES, attempt)
            if drawn is not None:
                names = ", ".join(self._choice.groups.names[group] for group in groups)
                return self._assemble(drawn, support, names, *counters)
        raise UserError(
            f"--ways {ways}: found no words with sentences enough of their own in {_ATTEMPTS} attempts; give more "
            "text, a higher --min_frequency or fewer examples"
        )

    def _draw(self, groups: np.ndarray, needed: np.ndarray, *counters: int) -> list[list[np.ndarray]] | None:
        """Draw each group's sentences, already masked; None where a group has too few."""
        drawn = []
        for place, (group, count) in enumerate(zip(groups.tolist(), needed.tolist(), strict=True)):
            members = self._choice.groups.members(group)
            for tried in (min(2 * count + 8, len(members)), len(members)):
                numbers = members[draw(len(members), tried, *counters, place)]
                kept = self._without(numbers, group, groups)
                if len(kept) >= count:
                    break
            else:
                return None
            drawn.append(kept[:count])
        return drawn

    def _without(self, numbers: np.ndarray, group: int, groups: np.ndarray) -> list[np.ndarray]:
        """Return the sentences' tokens with the group's word masked, leaving out those with another group's word."""
        sentences = [self._sentences.tokens(number) for number in numbers.tolist()]
        return self.mask(sentences, group, groups) if self._masks_words else sentences

    def mask(self, sentences: Sequence[np.ndarray], word: int, words: np.ndarray) -> list[np.ndarray]:
        """Put one [MASK] for every ``word``, whatever its pieces; leave out sentences with any other of ``words``."""
        lengths = np.array([len(sentence) for sentence in sentences])
        starts = np.cumsum(lengths) - lengths
        tokens = np.concatenate(sentences)
        begins, hashes = self._splitter.split(tokens, starts)
        found = self._index.words_of(hashes)
        sentence_of_word = np.searchsorted(starts, begins, side="right") - 1
        foreign = np.isin(found, words) & (found != word)
        is_clean = np.ones(len(sentences), dtype=bool)
        is_clean[sentence_of_word[foreign]] = False
        is_masked = np.repeat(found == word, np.diff(np.append(begins, len(tokens))))
        masked = np.where(is_masked, self._tokenizer.mask_id, tokens)
        kept = ~is_masked
        kept[begins] = True
        ends = starts + lengths
        return [masked[a:b][kept[a:b]] for a, b, clean in zip(starts, ends, is_clean, strict=True) if clean]

    def _assemble(self, drawn: list[list[np.ndarray]], support: np.ndarray, names: str, *counters: int) -> TaskExamples:
        bounds = ([0] * len(drawn), support.tolist(), [len(sentences) for sentences in drawn])
        sequences, labels = [], []
        for part, (firsts, lasts) in enumerate(pairwise(bounds)):
            spans = zip(drawn, firsts, lasts, strict=True)
            examples = [(ids, label) for label, (each, a, b) in enumerate(spans) for ids in each[a:b]]
            for place in permutation(len(examples), *counters, _ORDER, part).tolist():
                ids, label = examples[place]
                sequences.append(np.concatenate([[self._tokenizer.cls_id], ids, [self._tokenizer.sep_id]]))
                labels.append(label)
        lengths = [len(sequence) for sequence in sequences]
        return TaskExamples(sequences, lengths, np.array(labels), int(support.sum()), len(drawn), names)


def draw(limit: int, count: int, *counters: int) -> np.ndarray:
    """Draw ``count`` distinct numbers below ``limit`` in random order, int64."""
    if 4 * count < limit:  # with room to spare, draw with repetition, and drop what is repeated
        drawn = below(random_bits(*counters, _EXTRA, np.arange(2 * count)), limit)
        _, firsts = np.unique(drawn, return_index=True)
        if len(firsts) >= count:
            return drawn[np.sort(firsts)[:count]]
    return permutation(limit, *counters)[:count]
