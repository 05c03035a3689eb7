"""Scoring candidates with the model as it is now: forwards only, pipelined, on all replicas, nothing dropped."""

import numpy as np

from ds_bert.engine.engine import Engine
from ds_bert.multitask.tasks import MultitaskTask
from ds_bert.multitask.uncertainty import entropies, most_uncertain, scores
from ds_bert.training.data_loader import Feed
from ds_bert.training.run import share


class Chooser:
    """Picks the candidates that the model is most uncertain of.

    Which candidates are computed together follows from their lengths alone, so that a pick does not depend on the
    number of replicas.

    Args:
        task: the tasks.
        feed: of their training examples.
        form: of uncertainty, see `ds_bert.multitask.uncertainty`.
        size: candidates of a micro-batch.
    """

    def __init__(self, task: MultitaskTask, feed: Feed, form: str, size: int) -> None:
        assert task.train is not None
        self.engine: Engine = feed.engine
        self.feed, self.form, self.size = feed, form, size
        self.lengths, self.labels = task.train.lengths, task.label_counts
        self.stand_in = task.stand_in()

    def __call__(self, candidates: np.ndarray) -> np.ndarray:
        """Return the places of as many candidates as one task has, the most uncertain first; a collective call.

        Args:
            candidates: numbers of examples, int64 (tasks, candidates of each).
        """
        entropy = self._entropies(candidates.reshape(-1))
        picks = None
        if self.engine.place.rank == 0:
            found = scores(entropy.reshape(candidates.shape), self.labels, self.form, self.stand_in)
            picks = most_uncertain(found, candidates.shape[1])
        chosen = share(self.engine, picks)
        assert chosen is not None
        return chosen

    def _entropies(self, numbers: np.ndarray) -> np.ndarray:
        """Entropies of examples, float64, in their order, on rank 0; nothing elsewhere."""
        order = np.argsort(-self.lengths[numbers], kind="stable")
        parts = np.split(order, range(self.size, len(order), self.size))
        place = self.engine.place
        mine = range(place.replica, len(parts), place.num_replicas)
        batches = [(np.zeros_like(parts[number]), numbers[parts[number]]) for number in mine]
        outputs, _ = self.engine.predict(self.feed.micro_batches(batches, list(mine)))
        found = np.zeros(len(numbers))
        if outputs:
            logits = [outputs[number]["logits"].numpy() for number in range(len(parts))]
            found[order] = entropies(np.concatenate(logits))
        return found
