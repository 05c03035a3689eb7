"""Files of `torch.save`, of which tensors and plain containers are read and no code is ever run."""

import pickle
import re
from pathlib import Path
from typing import Any

import torch

from ds_bert.errors import UserError
from ds_bert.files import reading


def load_pickle(path: Path) -> Any:
    """Read such a file onto the CPU.

    Raises:
        UserError: it is missing or damaged, or holds anything but tensors, numbers, text, lists and dictionaries.
    """
    with reading(path):
        pass  # what cannot be opened is not damaged
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code:
            raise UserError(
                f"{path}: asks for {code[1]}, which is code and is not run; needed is a file with tensors, numbers, "
                "text, lists and dictionaries only"
            ) from None
        raise UserError(f"{path}: not a file of torch.save") from None
    except Exception as error:  # a damaged pickle makes its reader stumble in any way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a file of torch.save, or damaged: {reason}") from None


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a file that holds named tensors, as `load_pickle` does."""
    return named_tensors(load_pickle(path), str(path))


def named_tensors(data: Any, origin: str) -> dict[str, torch.Tensor]:
    """Return ``data`` if it is a dictionary of named tensors. Raises `UserError` if not."""
    if not isinstance(data, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in data.items()
    ):
        raise UserError(f"{origin}: holds no dictionary of named tensors, which is what a model's weights are")
    return {name: tensor.detach() for name, tensor in data.items()}
