"""`ds-bert export`: write a checkpoint's weights as a plain Hugging Face folder."""

import argparse
import shutil
from pathlib import Path

from ds_bert.errors import UserError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("checkpoint", type=Path, help="a checkpoint-<step> folder, or a run's output_dir (its newest)")
    parser.add_argument("--output_dir", type=Path, required=True, help="the folder to write; must not hold anything")


def run(arguments: argparse.Namespace) -> None:
    """Write the folder and say how to load it."""
    from ds_bert.checkpoint import folders
    from ds_bert.checkpoint.tensors import TensorFolder, write_tensors

    source = arguments.checkpoint
    if not source.is_dir():
        raise UserError(f"{source}: no such folder; needed is a checkpoint")
    if not (source / folders.MANIFEST).is_file():
        newest = folders.newest_checkpoint(source)
        if newest is None:
            raise UserError(f"{source}: neither a checkpoint nor a folder with checkpoints in it")
        source = newest
    folders.check_files(source)
    folders.claim_empty(arguments.output_dir)
    weights = TensorFolder(source)
    write_tensors(arguments.output_dir / "model.safetensors", weights.read_all(weights.names()))
    for name in ("config.json", *TOKENIZER_FILES):
        shutil.copyfile(source / name, arguments.output_dir / name)
    print(f"{arguments.output_dir}: {len(weights.names())} tensors of {source}")
    print(f'load it with transformers.AutoModelForPreTraining.from_pretrained("{arguments.output_dir}")')
