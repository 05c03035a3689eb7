"""A toy BERT and global batches that are awkward on purpose: padded rows, uneven lengths, uneven masked words."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import BertConfig

from ds_bert.modeling.model import build_config
from ds_bert.stage_map import StageMap

ENCODER_LAYERS = 4
LAYERS = ENCODER_LAYERS + 2
VOCABULARY, LENGTH, PREDICTIONS, ROWS = 97, 16, 4, 8
# Four encoder layers of width 32.
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": ENCODER_LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
}
CUTS = {1: (0, 6), 2: (0, 3, 6), 3: (0, 1, 5, 6), 4: (0, 1, 3, 5, 6)}


def toy_config(dropout: float = 0.0, **changes: Any) -> BertConfig:
    """The toy's configuration."""
    return build_config(SIZES | {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout} | changes)


def toy_map(stages: int, replicas: int, ranks: Sequence[Sequence[int]] | None = None) -> StageMap:
    """Map the toy's layers to ``stages`` x ``replicas`` processes, in order unless ``ranks`` says which run what."""
    cuts = CUTS[stages]
    owners = tuple(stage for stage in range(stages) for _ in range(cuts[stage], cuts[stage + 1]))
    ranks = ranks or np.arange(stages * replicas).reshape(stages, replicas).tolist()
    return StageMap(owners, tuple(tuple(row) for row in ranks))


def global_batch(step: int, rows: int = ROWS, seed: int = 0, length: int = LENGTH) -> dict[str, np.ndarray]:
    """Make the global batch of an optimizer step.

    Rows 0 and 1 of every four are full, the others padded; row 3 of every eight has no masked word at all.
    """
    random = np.random.default_rng([seed, step])
    lengths = np.where(np.arange(rows) % 4 < 2, length, random.integers(6, length - 1, rows))
    real = np.arange(length)[None, :] < lengths[:, None]
    positions = np.stack([random.permutation(row)[:PREDICTIONS] for row in lengths])
    words = random.integers(5, VOCABULARY, (rows, PREDICTIONS))
    words[random.random((rows, PREDICTIONS)) < 0.4] = -100
    words[3::8] = -100
    return {
        "input_ids": np.where(real, random.integers(5, VOCABULARY, (rows, length)), 0),
        "token_type_ids": np.where(real, random.integers(0, 2, (rows, length)), 0),
        "attention_mask": real,
        "masked_positions": positions,
        "masked_labels": words,
        "next_sentence_label": random.integers(0, 2, rows),
    }


def part(batch: dict[str, np.ndarray], begin: int, end: int) -> dict[str, np.ndarray]:
    """Take some rows, cut to the longest of them, without a mask where none is padded: what a collator does."""
    rows = {name: array[begin:end] for name, array in batch.items()}
    mask = rows["attention_mask"]
    length = int(mask.sum(axis=1).max())
    for name in ("input_ids", "token_type_ids", "attention_mask"):
        rows[name] = rows[name][:, :length]
    if rows["attention_mask"].all():
        del rows["attention_mask"]
    return rows
