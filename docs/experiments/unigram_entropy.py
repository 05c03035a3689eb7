"""Entropy of the masked tokens' unigram distribution: the loss of a model that looks at no context.

    python docs/experiments/unigram_entropy.py runs/wikipedia

Masked tokens are drawn evenly from all tokens, so their distribution is that of the corpus. Prints two figures in nats:
the entropy of the training tokens' distribution, and its cross-entropy on the held-out set's own masked tokens (every
token counted once more than it occurs, so that none is impossible).
"""

import argparse
from pathlib import Path

import numpy as np

from ds_bert.data.pretraining import PretrainingDataset
from ds_bert.data.shards import ShardedCorpus, unigram_entropy


def main() -> None:
    """Print the two figures for a data folder with a `validation` folder in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="data folder written by `ds-bert prepare --validation_share …`")
    parser.add_argument("--seed", type=int, default=42, help="of the held-out masks: the training run's seed")
    arguments = parser.parse_args()

    corpus = ShardedCorpus.open(arguments.folder)
    size = corpus.tokenizer.size
    counts = sum(np.bincount(shard.tokens, minlength=size) for shard in corpus.shards)
    counts = np.where(corpus.tokenizer.is_special, 0, counts)
    files = sorted(arguments.folder.glob("shard-*/tokens.npy"))
    print(f"entropy of the training tokens:                {unigram_entropy(files, corpus.tokenizer):.4f} nats")

    held_out = PretrainingDataset(arguments.folder / "validation", seed=arguments.seed, evaluation=True)
    labels = held_out.batch(0, np.arange(len(held_out))).masked_labels
    masked = labels[labels != -100]
    smoothed = np.log((counts + 1) / (counts.sum() + size))
    print(f"its cross-entropy on {len(masked):,} held-out masked tokens: {-smoothed[masked].mean():.4f} nats")


if __name__ == "__main__":
    main()
