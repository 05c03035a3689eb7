"""The tokenizer of a folder that a command writes beside a model."""

from pathlib import Path
from typing import TYPE_CHECKING

from ds_bert.errors import UserError

if TYPE_CHECKING:
    from ds_bert.data.vocabulary import Tokenizer


def write_tokenizer(tokenizer: "Tokenizer | Path", folder: Path, positions: int) -> str:
    """Write a tokenizer; say what it is.

    Args:
        tokenizer: or a folder that may hold one. One that this project cannot use is copied, so that transformers can.
        folder: to write to.
        positions: that the model has.
    """
    from ds_bert.checkpoint.convert.model_folder import copy_tokenizer
    from ds_bert.data.vocabulary import load_tokenizer

    if isinstance(tokenizer, Path):
        source = tokenizer
        try:
            tokenizer = load_tokenizer(source)
        except UserError as error:
            found = copy_tokenizer(source, folder, positions)
            return f"{', '.join(found)} as they are ({error})" if found else NO_TOKENIZER
    tokenizer.save(folder, positions)
    return f"a tokenizer of {tokenizer.size} tokens"


NO_TOKENIZER = "no tokenizer (name one with --tokenizer_name)"
