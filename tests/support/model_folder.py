"""Small Hugging Face folders, as users have them on disk, written by transformers itself."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import BertConfig, BertModel, PreTrainedModel

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = [mark + letter for mark in ("", "##") for letter in "abcdefghijklmnopqrstuvwxyz0123456789.,?!'-"]


def write_vocabulary(folder: Path, words: Sequence[str]) -> int:
    """Write vocab.txt with these words and what spells any other; return its size."""
    tokens = list(dict.fromkeys([*SPECIAL, *LETTERS, *words, *(f"[unused{n}]" for n in range(30))]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    return len(tokens)


def write_bert_folder(
    folder: Path, words: Sequence[str], kind: type[PreTrainedModel] = BertModel, layers: int = 2, **fields: object
) -> Path:
    """Write a BERT of width 32 with random weights and its vocabulary; return the folder."""
    size = write_vocabulary(folder, words)
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64}
    config = BertConfig(vocab_size=size, num_hidden_layers=layers, **(sizes | fields))
    kind(config).save_pretrained(folder)
    return folder
