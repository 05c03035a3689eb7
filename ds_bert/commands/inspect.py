"""`ds-bert inspect`: show what a checkpoint, the best or newest one of a run, or a Hugging Face folder holds."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ds_bert.errors import UserError
from ds_bert.stage_map import StageMapError, parse_stage_map
from ds_bert.terminal import fact, heading, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "path", type=Path, help="a checkpoint-<step> folder, a run's output_dir or a Hugging Face folder"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> None:
    """Print the description."""
    from ds_bert.checkpoint.inspection import folder_to_inspect, inspect_folder
    from ds_bert.modeling.config import load_model_config

    folder = folder_to_inspect(arguments.path)
    found = inspect_folder(arguments.path, load_model_config(folder), folder)
    found["tokenizer"] = _tokenizer(folder)
    print(json.dumps(found, indent=2) if arguments.json else "\n".join(_lines(found)))


def _tokenizer(folder: Path) -> dict[str, Any] | None:
    from ds_bert.data.vocabulary import load_tokenizer

    try:
        tokenizer = load_tokenizer(folder)
    except UserError as error:
        names = ("tokenizer.json", "vocab.txt", "spiece.model")
        return {"fault": str(error)} if any((folder / name).exists() for name in names) else None
    return {"tokens": tokenizer.size, "fingerprint": tokenizer.fingerprint}


def _lines(found: Mapping[str, Any]) -> list[str]:
    step = "" if found["step"] is None else f", step {found['step']:,}"
    rows = [
        ("model", f"{found['model_type']}, {_listed(found['sizes'])}"),
        ("head", found["head"]),
        ("parameters", f"{found['parameters']:,} in {_listed(found['dtypes'], '{1} tensors of {0}')}"),
        ("extra", ", ".join(found["extra_weights"])),
        ("tokenizer", _tokenizer_text(found["tokenizer"])),
        ("moments", ", ".join(found["moments"])),
        ("versions", f"{found['weight_versions']} of the weights" if found["moments"] else ""),
        ("state", _listed({key: value for key, value in found["state"].items() if not isinstance(value, dict)})),
        ("cut", _cut(found)),
        ("scores", _listed({name: f"{value:.4f}" for name, value in found["scores"].items()})),
        (
            "arguments",
            _listed({key: value for key, value in found["arguments"].items() if value not in (None, "", [])}),
        ),
        ("checkpoints", ", ".join(found["checkpoints"])),
        *(("fault", fault) for fault in found["faults"]),
    ]
    layers = [(layer, f"{count:,}") for layer, count in found["parameters_by_layer"].items()]
    return [
        heading(f"{found['path']}{step}"),
        *(fact(label, text, width=12) for label, text in rows if text),
        table(("layer", "parameters"), layers, texts=("layer",)),
    ]


def _listed(values: Mapping[str, Any], form: str = "{0} {1}") -> str:
    return ", ".join(form.format(name, value) for name, value in values.items())


def _tokenizer_text(tokenizer: Mapping[str, Any] | None) -> str:
    if tokenizer is None:
        return "none"
    return tokenizer.get("fault") or f"{tokenizer['tokens']:,} tokens, fingerprint {tokenizer['fingerprint'][:12]}"


def _cut(found: Mapping[str, Any]) -> str:
    """The cut that wrote a checkpoint, in words; nothing for folders that no cut wrote."""
    try:
        return parse_stage_map(found["stage_map"], found["path"], found["sizes"]["num_hidden_layers"] + 2).in_words()
    except StageMapError:
        return ""
