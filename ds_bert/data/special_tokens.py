"""The special tokens that a model needs: of padding, of what is unknown, [CLS], [SEP] and [MASK], in this order."""

from collections.abc import Collection, Sequence
from pathlib import Path

from ds_bert.errors import UserError

ROLES = ("pad", "unk", "cls", "sep", "mask")
WORDPIECE = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SENTENCEPIECE = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")


def refuse_missing(vocabulary: Collection[str], needed: Sequence[str], origin: str | Path) -> None:
    """Raise `UserError` naming the special tokens that a vocabulary lacks, if it does."""
    missing = [token for token in needed if token not in vocabulary]
    if missing:
        kind = "SentencePiece" if needed[0] == SENTENCEPIECE[0] else "WordPiece"
        raise UserError(f"{origin}: lacks {', '.join(missing)}, but a {kind} tokenizer needs {', '.join(needed)}")
