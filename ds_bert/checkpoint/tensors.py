"""Named tensors spread over safetensors files, in the layout that Hugging Face reads, and which file holds which.

There is a file per layer, `model-00003-of-00014.safetensors`, with the weights that no earlier layer has, and one with
their moments. Under every cut a layer lies on one stage, which can write its files without asking others. So the same
state gives the same bytes on any number of processes.

The parts of a file are brought together on the process that writes it, in the memory of its host: what lies on other
processes travels from host to host, so that no device holds more than it trains with.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open

from ds_bert.checkpoint.manifest import Entry
from ds_bert.errors import UserError
from ds_bert.files import read_json, reading, write_json
from ds_bert.modeling.heads import HEADS

WEIGHTS = "model"
EXTRA = "ds_bert"
"""Weights that Hugging Face has no class for."""
MOMENTS = "optimizer"
INDEX = "model.safetensors.index.json"

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_BLOCK = 2**20  # bytes hashed, then written: they stay in the processor's cache
_PIECE = 2**24  # bytes read at once of a tensor of which a part is wanted


def part_name(kind: str, part: int, parts: int) -> str:
    """Name of the file with part ``part`` (from 0) of ``parts``: `model.safetensors` where there is one only."""
    return f"{kind}.safetensors" if parts == 1 else f"{kind}-{part + 1:05d}-of-{parts:05d}.safetensors"


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> Entry:
    """Write named tensors to a safetensors file and wait until it is on the disk.

    The same tensors give the same bytes. They are hashed on the way, without a second pass over the file.

    Raises:
        OSError: the disk is full, or fails.
    """
    ordered = dict(sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])))
    digest, size = hashlib.sha256(), 0
    try:
        with open(path, "wb", buffering=0) as file:
            for data in (_header(ordered), *map(_bytes, ordered.values())):
                for begin in range(0, len(data), _BLOCK):
                    block = data[begin : begin + _BLOCK]
                    digest.update(block)
                    _write_all(file.fileno(), block)
                size += len(data)
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    return Entry(size, digest.hexdigest())


def _header(tensors: Mapping[str, torch.Tensor]) -> memoryview:
    """The format's beginning: its length, then which tensor lies where; widest types first, so that all are aligned."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, tensor in tensors.items():
        end = position + tensor.numel() * tensor.itemsize
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return memoryview(len(text).to_bytes(8, "little") + text)


def _bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _write_all(descriptor: int, block: memoryview) -> None:
    while block:
        block = block[os.write(descriptor, block) :]


def has_tensors(folder: Path, kind: str) -> bool:
    """Whether a folder has files of a kind."""
    return bool(_files(folder, kind))


def _files(folder: Path, kind: str) -> list[Path]:
    return sorted(folder.glob(f"{kind}.safetensors")) or sorted(folder.glob(f"{kind}-*-of-*.safetensors"))


class TensorFolder:
    """Reads named tensors of one kind from all safetensors files of a folder, each only when asked for.

    Among the weights (`WEIGHTS`) are those that Hugging Face has no class for; `EXTRA` are these alone.

    Raises:
        UserError: there are none, or a file is damaged.
    """

    def __init__(self, folder: Path, kind: str = WEIGHTS) -> None:
        self.folder, self.kind = folder, kind
        files = _files(folder, kind)
        if not files:
            pickled = kind == WEIGHTS and any(folder.glob("pytorch_model*.bin"))
            advice = f"; `ds-bert import --from huggingface {folder} --output_dir …` makes one of its pytorch_model.bin"
            needed = f"needed is a folder with weights in that format{advice if pickled else ''}"
            raise UserError(f"{folder}: has no {kind}.safetensors; {needed}")
        if kind == WEIGHTS and (folder / INDEX).is_file():
            missing = _listed_files(folder / INDEX) - {file.name for file in files}
            if missing:
                raise UserError(f"{folder}: {', '.join(sorted(missing))} is missing, but {INDEX} lists it")
        self._readers: dict[str, Any] = {}
        for file in files + (_files(folder, EXTRA) if kind == WEIGHTS else []):
            with reading(file):
                pass  # what it cannot open, safe_open says is not there
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

    def dtype(self, name: str) -> torch.dtype:
        """A tensor's type, without reading it."""
        code = self._readers[name].get_slice(name).get_dtype()
        return next(dtype for dtype, known in _DTYPES.items() if known == code)

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
            self._check_name(name)
        return {name: self.read(name) for name in names}

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Compare a tensor with what a model has.

        Raises:
            UserError: it is missing, or has another shape.
        """
        self._check_name(name)
        if self.shape(name) != shape:
            raise UserError(f"{self.folder}: {name} has shape {self.shape(name)}, the model's has {shape}")

    def _check_name(self, name: str) -> None:
        if name not in self:
            raise UserError(f"{self.folder}: its {self.kind} files have no tensor {name}")

    def read_part(self, name: str, begin: int, into: torch.Tensor) -> None:
        """Copy consecutive elements of a tensor into a one-dimensional one of any type and device, piece by piece.

        Args:
            name: of the tensor.
            begin: the first of them, as if it had one dimension, too.
            into: as long as what is wanted.
        """
        end = begin + len(into)
        if begin == end:
            return
        shape = self.shape(name)
        if not shape:
            into.copy_(self.read(name).view(1))
            return
        stored, row = self._readers[name].get_slice(name), prod(shape[1:])
        rows = max(1, _PIECE // (row * self.dtype(name).itemsize))
        last = -(-end // row)
        for first in range(begin // row, last, rows):
            piece = stored[first : min(first + rows, last)].reshape(-1)
            offset = first * row
            left, right = max(begin, offset), min(end, offset + len(piece))
            into[left - begin : right - begin].copy_(piece[left - offset : right - offset].to(into.dtype))


def _listed_files(index: Path) -> set[str]:
    data = read_json(index)
    places = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise UserError(f"{index}: has no weight_map from names to files; needed is Hugging Face's index")
    return set(places.values())


# A parameter whose name has one of these parts, or one of a head's, is one that Hugging Face has no class for.
_EXTRA_MODULES = frozenset({"conditional", "adapter", "meta"})


def is_extra(name: str) -> bool:
    """Whether Hugging Face has no class for a parameter of this name."""
    of_heads = (module for head in HEADS.values() for module in head.extra_modules)
    return not _EXTRA_MODULES.union(of_heads).isdisjoint(name.split("."))


def files_by_name(layers_of_processes: Iterable[Mapping[str, int]]) -> dict[str, tuple[str, str]]:
    """For every parameter the names of the files with its weight and its moments.

    Args:
        layers_of_processes: for the parameters of each process the number of its first layer that has them.
    """
    layers: dict[str, int] = {}
    for layers_by_name in layers_of_processes:
        for name, layer in layers_by_name.items():
            layers[name] = min(layer, layers.get(name, layer))
    ours = {name: layer for name, layer in layers.items() if not is_extra(name)}
    extra = {name: layer for name, layer in layers.items() if is_extra(name)}
    weights = _file_of_each(WEIGHTS, ours) | _file_of_each(EXTRA, extra)
    moments = _file_of_each(MOMENTS, layers)
    return {name: (weights[name], moments[name]) for name in sorted(layers)}


def _file_of_each(kind: str, layers: Mapping[str, int]) -> dict[str, str]:
    """Give the parameters of each layer a file."""
    numbers = sorted(set(layers.values()))
    return {name: part_name(kind, numbers.index(layer), len(numbers)) for name, layer in layers.items()}


def describe_weights(folder: Path, files: Mapping[str, str], sizes: Mapping[str, int]) -> None:
    """Write what loaders need to know: Hugging Face's index, and, in ``config.json``, what Hugging Face cannot load.

    Args:
        folder: of the checkpoint.
        files: the file of every weight.
        sizes: bytes of each file's tensors.
    """
    ours = {name: file for name, file in files.items() if not is_extra(name)}
    if len(set(ours.values())) > 1:
        total = {"total_size": sum(sizes[file] for file in set(ours.values()))}
        write_json(folder / INDEX, {"metadata": total, "weight_map": dict(sorted(ours.items()))})
    extra = sorted(files.keys() - ours)
    if extra:
        config = folder / "config.json"
        fields = read_json(config) if config.is_file() else {}
        described = {"extra_weights": sorted({files[name] for name in extra}), "parameters": extra}
        write_json(config, {**fields, "ds_bert": described})


def host_memory(elements: int, dtype: torch.dtype, pinned: bool = False) -> torch.Tensor:
    """Reserve memory of the host, pinned where a GPU is to copy into it while other things go on."""
    return torch.empty(elements, dtype=dtype, pin_memory=pinned)


def copies(parts: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy one-dimensional tensors of one device to the host; a GPU is waited for once."""
    device = next((part.device for part in parts.values()), torch.device("cpu"))
    if device.type != "cuda":
        return {name: host_memory(len(part), part.dtype).copy_(part) for name, part in parts.items()}
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        copied = {
            name: host_memory(len(part), part.dtype, pinned=True).copy_(part, non_blocking=True)
            for name, part in parts.items()
        }
    stream.synchronize()
    return copied


def bring_together(shares: Mapping[str, Any], writer: int, rank: int, group: Any) -> dict[str, torch.Tensor]:
    """Send this process's parts of a file's tensors to its writer, or put them together with those of the others.

    All processes that have parts of several files must call this for them in the same order.

    Args:
        shares: of the file's tensors by their names there: all on the writer, on others at least those that it holds
            a part of; the engine's `Share`, or one whose ``part`` is on the host already.
        writer: rank of the process that writes the file.
        rank: this process's.
        group: a gloo group of all processes.

    Returns:
        On the writer the whole tensors, on the CPU: where nothing had to be copied, views of what was handed in.
        Nothing on the others.
    """
    parts = {name: share.part for name, share in shares.items()}
    if any(part.device.type != "cpu" for part in parts.values()):
        parts = copies(parts)
    whole: dict[str, torch.Tensor] = {}
    works: list[Any] = []
    for name, share in sorted(shares.items()):  # every two processes must see their messages in the same order
        flat, size = parts[name], prod(share.shape)
        if rank == writer and len(flat) < size:
            flat = host_memory(size, flat.dtype)
            flat[share.begin : share.begin + len(parts[name])].copy_(parts[name])
        for holder, begin, end in share.sources(writer):
            if rank == writer != holder:
                works.append(dist.irecv(flat[begin:end], holder, group))
            elif rank == holder != writer:
                works.append(dist.isend(flat, writer, group))
        if rank == writer:
            whole[name] = flat.view(share.shape)
    for work in works:
        work.wait()
    return whole
