"""Folders by name: a path, or the name of a model on the hub, which is downloaded."""

import re
from pathlib import Path

from ds_bert.checkpoint.run_model import model_in
from ds_bert.errors import UserError

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")


def local_folder(name_or_path: str) -> Path:
    """Return the folder that ``name_or_path`` means: a path, or a hub model's, downloaded into the hub's cache.

    Of a run's folder, that is a checkpoint, see `model_in`.

    Raises:
        UserError: no such folder, and no such model on the hub, or the hub cannot be reached.
    """
    path = Path(name_or_path)
    if path.is_dir():
        return model_in(path)
    if path.is_file():
        raise UserError(f"{name_or_path}: is a file; needed is its folder, with config.json and weights")
    if path.exists() or path.is_absolute() or name_or_path.endswith("/") or not _HUB_NAME.fullmatch(name_or_path):
        raise UserError(f"{name_or_path}: no such folder; needed is a folder with config.json and weights")
    from huggingface_hub import snapshot_download

    try:
        downloaded = snapshot_download(name_or_path, allow_patterns=list(_FILES))
    except Exception as error:  # the library and what lies below it raise many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{name_or_path}: no such folder, and not to be had from the hub ({reason})") from None
    return model_in(Path(downloaded))
