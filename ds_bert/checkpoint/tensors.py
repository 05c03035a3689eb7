"""Named tensors spread over safetensors files, in the layout that Hugging Face reads."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ds_bert.errors import UserError
from ds_bert.files import read_json, write_json

WEIGHTS = "model"
INDEX = "model.safetensors.index.json"


def part_name(kind: str, part: int, parts: int) -> str:
    """Name of the file with part ``part`` (from 0) of ``parts``: `model.safetensors` where there is one only."""
    return f"{kind}.safetensors" if parts == 1 else f"{kind}-{part + 1:05d}-of-{parts:05d}.safetensors"


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write named tensors to a safetensors file."""
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


def write_index(folder: Path, files: Mapping[str, str], total_bytes: int) -> None:
    """Write which weight lies in which file, as Hugging Face's loaders expect where there are several."""
    write_json(folder / INDEX, {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(files.items()))})


class TensorFolder:
    """Reads named tensors of one kind from all safetensors files of a folder, each only when asked for.

    Raises:
        UserError: there are none, or a file is damaged.
    """

    def __init__(self, folder: Path, kind: str = WEIGHTS) -> None:
        self.folder, self.kind = folder, kind
        files = sorted(folder.glob(f"{kind}.safetensors")) or sorted(folder.glob(f"{kind}-*-of-*.safetensors"))
        if not files:
            raise UserError(f"{folder}: has no {kind}.safetensors; needed is a folder with weights in that format")
        if kind == WEIGHTS and (folder / INDEX).is_file():
            missing = _listed_files(folder / INDEX) - {file.name for file in files}
            if missing:
                raise UserError(f"{folder}: {', '.join(sorted(missing))} is missing, but {INDEX} lists it")
        self._readers: dict[str, Any] = {}
        for file in files:
            try:
                reader = safe_open(file, framework="pt")
            except (SafetensorError, OSError) as error:
                raise UserError(f"{file}: not a readable safetensors file: {error}") from None
            self._readers.update(dict.fromkeys(reader.keys(), reader))

    def __contains__(self, name: str) -> bool:
        """Whether there is a tensor of that name."""
        return name in self._readers

    def names(self) -> list[str]:
        """All names."""
        return list(self._readers)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, without reading it."""
        return tuple(self._readers[name].get_slice(name).get_shape())

    def read(self, name: str) -> torch.Tensor:
        """One tensor."""
        return self._readers[name].get_tensor(name)

    def read_all(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Several tensors by name.

        Raises:
            UserError: one is missing.
        """
        names = list(names)
        for name in names:
            if name not in self:
                raise UserError(f"{self.folder}: its {self.kind} files have no tensor {name}")
        return {name: self.read(name) for name in names}


def _listed_files(index: Path) -> set[str]:
    data = read_json(index)
    places = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise UserError(f"{index}: has no weight_map from names to files; needed is Hugging Face's index")
    return set(places.values())
