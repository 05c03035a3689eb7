"""Which file of a checkpoint holds which parameter: a function of the model alone, whatever cut wrote it.

There is a file per layer, `model-00003-of-00014.safetensors`, with the weights that no earlier layer has, and one with
their moments. Under every cut a layer lies on one stage, which can write its files without asking others. So the same
state gives the same bytes on any number of processes.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from ds_bert.checkpoint.tensors import EXTRA, INDEX, MOMENTS, WEIGHTS, part_name
from ds_bert.files import read_json, write_json
from ds_bert.modeling.heads import HEADS

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
    weights, moments = _files(WEIGHTS, ours) | _files(EXTRA, extra), _files(MOMENTS, layers)
    return {name: (weights[name], moments[name]) for name in sorted(layers)}


def _files(kind: str, layers: Mapping[str, int]) -> dict[str, str]:
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
