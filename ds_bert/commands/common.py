"""What several commands share: making a folder that can be interrupted, and writing a tokenizer beside a model."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ds_bert.errors import UserError

if TYPE_CHECKING:
    from ds_bert.data.vocabulary import Tokenizer


INTERRUPTED = 130  # a shell's status for Ctrl-C
Result = TypeVar("Result")


def num_cores() -> int:
    """Return the processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def made(make: Callable[[], Result], output_dir: Path) -> Result | None:
    """Return what ``make`` returns; None where Ctrl-C came before, which is said.

    Args:
        make: fills the folder; started again, it goes on where it was.
        output_dir: the folder.

    Raises:
        UserError: a file cannot be read or written.
    """
    try:
        return make()
    except KeyboardInterrupt:
        print(f"\ninterrupted; the same command again goes on in {output_dir}", file=sys.stderr)
        return None
    except OSError as error:
        where = error.filename or output_dir
        raise UserError(f"{where}: {error.strerror or error}; mend that and run the same command again") from None


def write_tokenizer(tokenizer: "Tokenizer | Path", folder: Path, positions: int) -> str:
    """Write a tokenizer; say what it is.

    Args:
        tokenizer: or a folder that may hold one. One that this project cannot use is copied, so that transformers can.
        folder: to write to.
        positions: that the model has.
    """
    from ds_bert.checkpoint.convert.export import copy_tokenizer
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
