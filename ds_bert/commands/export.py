"""`ds-bert export`: write a checkpoint as a Hugging Face folder of any head, with a model card."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ds_bert.errors import UserError
from ds_bert.modeling.heads import exportable_heads

if TYPE_CHECKING:
    from ds_bert.checkpoint.convert.export import Export


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "checkpoint",
        type=Path,
        help="a checkpoint-<step> folder, or a run's output_dir (its best one, else its newest)",
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="the folder to write; must not hold anything")
    parser.add_argument(
        "--head", choices=exportable_heads(), help="what to put on the encoder (default: what the checkpoint has)"
    )
    parser.add_argument("--num_labels", type=int, help="labels of a classifier (default: the checkpoint's, else 2)")
    parser.add_argument("--seed", type=int, default=42, help="of a fresh head's first weights")
    parser.add_argument(
        "--drop_extra_weights",
        action="store_true",
        help="leave out parameters that no class of transformers has (adapters, a beam head)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Write the folder; say what begins anew, what is left out, and how to load it."""
    from ds_bert.checkpoint.convert.classes import class_name
    from ds_bert.checkpoint.convert.export import plan_export
    from ds_bert.checkpoint.folders import check_files, claim_empty
    from ds_bert.checkpoint.pretrained import checkpoint_in
    from ds_bert.checkpoint.tensors import TensorFolder
    from ds_bert.modeling.config import load_model_config

    source = checkpoint_in(arguments.checkpoint)
    check_files(source)
    weights = TensorFolder(source)
    found = {name: weights.shape(name) for name in weights.names()}
    export = plan_export(load_model_config(source), found, arguments.head, arguments.num_labels)
    name = class_name(export.fields["model_type"], export.head)
    if export.extra and not arguments.drop_extra_weights:
        raise UserError(
            f"{source}: {name} cannot hold {len(export.extra)} of its parameters, such as {export.extra[0]}; no class "
            "of transformers can, and --drop_extra_weights leaves them out"
        )
    claim_empty(arguments.output_dir)
    try:
        _write(export, source, arguments)
    except OSError as error:
        raise UserError(f"{arguments.output_dir}: cannot be written: {error.strerror or error}") from None
    print(f"{arguments.output_dir}: {name}, {len(export.taken) + len(export.fresh)} tensors, of {source}")
    for text, names in (("fresh, to be trained", export.fresh), ("left out", [*export.dropped, *export.extra])):
        if names:
            print(f"  {text}: {', '.join(names)}")
    print(f'load it with transformers.{name}.from_pretrained("{arguments.output_dir}")')


def _write(export: "Export", source: Path, arguments: argparse.Namespace) -> None:
    import torch

    from ds_bert.checkpoint.convert.export import model_card, write_model
    from ds_bert.checkpoint.inspection import read_facts
    from ds_bert.checkpoint.tensors import TensorFolder
    from ds_bert.commands.common import write_tokenizer
    from ds_bert.files import write_atomically
    from ds_bert.modeling.model import initialize

    tensors = TensorFolder(source).read_all(export.taken)
    dtype = next(iter(tensors.values())).dtype
    for name, shape in export.fresh.items():
        tensors[name] = torch.empty(shape, dtype=dtype)
        initialize(name, tensors[name], export.fields["initializer_range"], arguments.seed)
    write_model(arguments.output_dir, export.fields, export.head, tensors)
    write_tokenizer(source, arguments.output_dir, export.fields["max_position_embeddings"])
    card = model_card(export, read_facts(source), str(arguments.output_dir))
    write_atomically(arguments.output_dir / "README.md", card)
