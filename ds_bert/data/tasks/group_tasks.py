"""Tasks whose classes are groups of sentences: which word is masked (SMLMT), or which cluster a sentence is from."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ds_bert.data.randomness import below, permutation, random_bits
from ds_bert.data.tasks.choice import Choice
from ds_bert.data.tasks.sentences import Sentences
from ds_bert.data.tasks.task_set import TaskExamples
from ds_bert.data.tasks.text_index import TextIndex, WordSplitter
from ds_bert.errors import UserError

_ATTEMPTS = 100  # to find classes with enough sentences of their own
_GROUPS, _SENTENCES, _ORDER, _EXTRA = range(4)  # streams of random numbers


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
