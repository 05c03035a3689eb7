"""The model and tokenizer that a fine-tuning job starts from, read and checked before any process waits for another."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ds_bert.checkpoint.hub import local_folder
from ds_bert.checkpoint.pretrained import PretrainedWeights
from ds_bert.data.vocabulary import Tokenizer, check_fits, load_tokenizer
from ds_bert.engine.process_group import launcher_world
from ds_bert.errors import UserError
from ds_bert.modeling.config import load_model_config
from ds_bert.modeling.model import build_config, model_layers
from ds_bert.training.finetune_arguments import FinetuneArguments

_OVERRIDES = ("hidden_dropout_prob", "attention_probs_dropout_prob")


@dataclass(frozen=True)
class Source:
    """What to start from.

    Args:
        fields: of the model's configuration.
        tokenizer: the model's.
        weights: None for a model from scratch.
    """

    fields: dict[str, Any]
    tokenizer: Tokenizer
    weights: PretrainedWeights | None

    def config_for(self, head_fields: Mapping[str, Any], head: str | Callable[[Any], Any]) -> Any:
        """Build the model's configuration with what a task's head adds to it."""
        return build_config({**self.fields, **head_fields}, head)

    @property
    def label_names(self) -> list[str] | None:
        """Names of the labels that the model was trained to tell apart, in their order; None where it was not."""
        names = self.fields.get("id2label")
        return [names[key] for key in sorted(names, key=int)] if names else None


def load_source(arguments: FinetuneArguments) -> Source:
    """Read configuration, tokenizer and the names of weights.

    Raises:
        UserError: none or two models were named, one cannot be read, or tokenizer and model do not fit each other.
    """
    names = [name for name in (arguments.config_name, arguments.model_name_or_path) if name]
    if len(names) != 1:
        raise UserError(
            "needed is one of --model_name_or_path (from weights) and --config_name (from scratch), "
            f"found {'both' if names else 'neither'}"
        )
    folder = local_folder(arguments.model_name_or_path) if arguments.model_name_or_path else None
    fields = load_model_config(folder or names[0])
    length, positions = arguments.max_seq_length, fields["max_position_embeddings"]
    if not 8 <= length <= positions:
        raise UserError(f"--max_seq_length is {length}, needed is 8 to {positions}, the positions that {names[0]} has")
    _override(arguments, fields)
    tokenizer_name = arguments.tokenizer_name or folder
    if tokenizer_name is None:
        raise UserError("--tokenizer_name is missing; a model from scratch (--config_name) needs one")
    tokenizer = load_tokenizer(tokenizer_name)
    check_fits(tokenizer, fields["vocab_size"])
    weights = PretrainedWeights(folder, fields["model_type"]) if folder else None
    return Source(fields, tokenizer, weights)


def _override(arguments: FinetuneArguments, fields: dict[str, Any]) -> None:
    """Put dropout that was given into the model's configuration."""
    values = {name: getattr(arguments, name) for name in _OVERRIDES}
    values["classifier_dropout_prob" if fields["model_type"] == "albert" else "classifier_dropout"] = (
        arguments.classifier_dropout
    )
    for name, value in values.items():
        if value is not None:
            if not 0 <= value < 1:
                raise UserError(f"--{name} is {value}, needed is a probability from 0 to below 1")
            fields[name] = value


def check_weights(
    source: Source, config: Any, head: str | Callable[[Any], Any], drop_classifier: bool
) -> tuple[str, ...]:
    """Compare the weights' shapes with the model's; say which it lacks.

    Returns:
        Names that must start with fresh weights though there are stored ones: the head's, with ``drop_classifier``.

    Raises:
        UserError: a shape does not fit, or there is nothing of this model.
    """
    weights = source.weights
    if weights is None:
        return ()
    with torch.device("meta"):
        layers = [make_layer() for make_layer in model_layers(config, head)]
    shapes = [
        {layer.hugging_face_name(name): tuple(parameter.shape) for name, parameter in layer.named_parameters()}
        for layer in layers
    ]
    encoder = f"{source.fields['model_type']}."
    of_head = tuple(name for name in shapes[-1] if not name.startswith(encoder))
    everything = {name: shape for layer in shapes for name, shape in layer.items()}
    missing = [name for name in everything if name not in weights]
    absent = [name for name in missing if name not in of_head]
    if len(absent) == len(everything) - len(of_head):
        raise UserError(f"{weights.folder}: its weights have none of this model's names, such as {absent[0]}")
    for name, shape in everything.items():
        if name in weights and weights.shape(name) != shape and not (drop_classifier and name in of_head):
            advice = "; begin with a fresh head with --drop_classifier" if name in of_head else ""
            raise UserError(f"{weights.folder}: {name} has shape {weights.shape(name)}, but needed is {shape}{advice}")
    if missing and launcher_world()[0] == 0:
        print(f"{weights.folder}: has no {', '.join(missing)}; these start with fresh weights", file=sys.stderr)
    return of_head if drop_classifier else ()


def default_cache_dir() -> Path:
    """Where encoded data is kept if nothing else is said."""
    return Path.home() / ".cache" / "ds_bert" / "features"
