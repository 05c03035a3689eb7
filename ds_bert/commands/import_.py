"""`ds-bert import`: turn another system's checkpoint into a plain Hugging Face folder for --model_name_or_path."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ds_bert.errors import UserError

if TYPE_CHECKING:
    from ds_bert.checkpoint.convert.foreign_model import ForeignModel
    from ds_bert.data.vocabulary import Tokenizer

KINDS = {
    "huggingface": "a folder with config.json and model.safetensors or pytorch_model.bin",
    "tensorflow": "Google's folder of a model, or a checkpoint's prefix in it",
    "deepspeed": "a pipeline's or a model's save_dir, or the folder of one tag",
    "pipedream": "its checkpoint_dir",
}
_WITHOUT_CONFIG = ("deepspeed", "pipedream")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    kinds = "; ".join(f"{kind}: {what}" for kind, what in KINDS.items())
    parser.add_argument("--from", dest="kind", required=True, choices=KINDS, help="what wrote it")
    parser.add_argument("source", metavar="SOURCE", type=Path, help=kinds)
    parser.add_argument("--output_dir", type=Path, required=True, help="the folder to write; must not hold anything")
    parser.add_argument(
        "--config_name",
        metavar="PATH",
        help="model (deepspeed, pipedream): shipped name, config.json or its folder; their files say none",
    )
    parser.add_argument(
        "--tokenizer_name", metavar="PATH", help="a tokenizer's folder or vocabulary, where SOURCE has none of its own"
    )
    parser.add_argument("--tag", help="deepspeed: which checkpoint of a save_dir (default: what its `latest` names)")
    parser.add_argument("--epoch", type=int, help="pipedream: which epoch (default: the last)")
    parser.add_argument(
        "--drop_unknown", action="store_true", help="leave out weights that no class of transformers has for this model"
    )


def run(arguments: argparse.Namespace) -> None:
    """Write the folder, and say what it holds and what was left out."""
    from ds_bert.checkpoint.convert.classes import check_encoder, class_name, head_of, shapes_of
    from ds_bert.checkpoint.convert.export import write_model
    from ds_bert.checkpoint.convert.foreign_model import standard_names
    from ds_bert.checkpoint.folders import claim_empty
    from ds_bert.commands.common import NO_TOKENIZER, write_tokenizer
    from ds_bert.modeling.config import check_model_config

    source = _read(arguments)
    fields = check_model_config(source.fields, source.config_path)
    weights, notes = standard_names(source.weights, fields["model_type"])
    head = head_of(fields, weights)
    shapes = shapes_of(fields, head)
    unknown = sorted(weights.keys() - shapes)
    _refuse_unknown(unknown, arguments, class_name(fields["model_type"], head))
    weights = {name: tensor for name, tensor in weights.items() if name in shapes}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    lacking = check_encoder(shapes, found, fields["model_type"], str(arguments.source))
    tokenizer = _load_tokenizer(arguments, source, fields["vocab_size"])
    claim_empty(arguments.output_dir)
    try:
        write_model(arguments.output_dir, fields, head, weights)
        positions = fields["max_position_embeddings"]
        said = write_tokenizer(tokenizer, arguments.output_dir, positions) if tokenizer else NO_TOKENIZER
    except OSError as error:
        raise UserError(f"{arguments.output_dir}: cannot be written: {error.strerror or error}") from None

    print(f"{arguments.output_dir}: {class_name(fields['model_type'], head)}, {len(weights)} tensors, {said}")
    for note in [*source.notes, *notes]:
        print(f"  {note}")
    if unknown:
        print(f"  left out: {', '.join(unknown)}")
    if lacking:
        print(f"  lacking, and fresh where they are needed: {', '.join(lacking)}")
    print(f"start from it with --model_name_or_path {arguments.output_dir}")


def _read(arguments: argparse.Namespace) -> "ForeignModel":
    from ds_bert.checkpoint.convert.foreign_model import read_hugging_face
    from ds_bert.checkpoint.convert.pipeline_checkpoints import read_deepspeed, read_pipedream
    from ds_bert.checkpoint.convert.tensorflow import read_tensorflow
    from ds_bert.checkpoint.folders import say_on_stderr
    from ds_bert.checkpoint.pretrained import model_in

    kind, source = arguments.kind, arguments.source
    _refuse_other_flags(arguments)
    if kind == "huggingface":
        return read_hugging_face(model_in(source, say_on_stderr))
    if kind == "tensorflow":
        return read_tensorflow(source)
    config_path, fields = _named_config(arguments)
    if kind == "deepspeed":
        return read_deepspeed(source, config_path, fields, arguments.tag)
    return read_pipedream(source, config_path, fields, arguments.epoch)


def _refuse_other_flags(arguments: argparse.Namespace) -> None:
    """Refuse a flag that this kind of source has no use for, and the lack of one that it needs."""
    uses = {"tag": ("deepspeed",), "epoch": ("pipedream",), "config_name": _WITHOUT_CONFIG}
    for flag, kinds in uses.items():
        if getattr(arguments, flag) is not None and arguments.kind not in kinds:
            raise UserError(f"--{flag}: is for --from {' and '.join(kinds)}, found --from {arguments.kind}")
    if arguments.kind in _WITHOUT_CONFIG and arguments.config_name is None:
        raise UserError(f"--config_name is missing: the files of --from {arguments.kind} do not say the model's sizes")


def _named_config(arguments: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    from ds_bert.modeling.config import load_model_config

    return Path(arguments.config_name), load_model_config(arguments.config_name)


def _refuse_unknown(unknown: list[str], arguments: argparse.Namespace, name: str) -> None:
    if unknown and not arguments.drop_unknown:
        raise UserError(
            f"{arguments.source}: {len(unknown)} tensors have no place in {name}, such as {unknown[0]}; leave them out "
            "with --drop_unknown"
        )


def _load_tokenizer(
    arguments: argparse.Namespace, source: "ForeignModel", vocab_size: int
) -> "Path | Tokenizer | None":
    """The tokenizer to write: a Hugging Face folder's own, whatever it is; another one loaded and found to fit."""
    from ds_bert.data.vocabulary import check_fits, load_tokenizer

    if arguments.tokenizer_name is None and arguments.kind == "huggingface":
        return source.tokenizer
    named = arguments.tokenizer_name or source.tokenizer
    if named is None:
        return None
    tokenizer = load_tokenizer(named)
    check_fits(tokenizer, vocab_size)
    return tokenizer
