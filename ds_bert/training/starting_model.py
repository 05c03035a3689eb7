"""The model that a job starts from: read and checked before processes meet, built and its weights loaded after."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

import torch

from ds_bert.checkpoint.folders import say_on_stderr
from ds_bert.checkpoint.pretrained import PretrainedWeights, local_folder, model_in, say_nothing
from ds_bert.command_line import launcher_world
from ds_bert.data.vocabulary import Tokenizer, check_fits, load_tokenizer
from ds_bert.engine.buckets import Share
from ds_bert.engine.engine import Engine
from ds_bert.engine.execution import Objective
from ds_bert.engine.module import StageModule
from ds_bert.engine.process_group import Grid
from ds_bert.engine.settings import EngineSettings
from ds_bert.errors import UserError
from ds_bert.modeling.config import load_model_config
from ds_bert.modeling.families import family_of
from ds_bert.modeling.model import build_config, carry_declaration, initialize, model_layers
from ds_bert.training.arguments import PretrainedModelArguments, TrainingArguments
from ds_bert.training.settings import check_at_most

Resolved = TypeVar("Resolved", bound=Any)

_OVERRIDES = ("hidden_dropout_prob", "attention_probs_dropout_prob")


@dataclass(frozen=True)
class StartingModel:
    """What to start from.

    Args:
        fields: of the model's configuration.
        tokenizer: the model's.
        weights: None for a model from scratch.
    """

    fields: dict[str, Any]
    tokenizer: Tokenizer
    weights: PretrainedWeights | None

    @property
    def origin(self) -> str:
        """Where the weights come from, for people."""
        return f"weights of {self.weights.folder}" if self.weights else "fresh weights"

    def config_for(self, head_fields: Mapping[str, Any], head: str | Callable[[Any], Any]) -> Any:
        """Build the model's configuration with what a task's head adds to it."""
        return build_config({**self.fields, **head_fields}, head)


def resolve_model(arguments: Resolved, name: str = "model_name_or_path") -> Resolved:
    """Let a job that was told to start from a run's folder start from one of its checkpoints; rank 0 says from which.

    It is settled once, before anything is read: the run may go on meanwhile. What is kept of the arguments names it.

    Args:
        arguments: as parsed.
        name: of the argument.

    Raises:
        UserError: as `model_in` does.
    """
    folder = getattr(arguments, name)
    if not folder or not Path(folder).is_dir():
        return arguments
    say = say_on_stderr if launcher_world()[0] == 0 else say_nothing
    found = model_in(Path(folder), say)
    return arguments if found == Path(folder) else replace(arguments, **{name: str(found)})


def load_starting_model(arguments: PretrainedModelArguments, may_be_conditional: bool = False) -> StartingModel:
    """Read configuration, tokenizer and the names of weights.

    Args:
        arguments: as parsed.
        may_be_conditional: whether the job tells the model each example's task, as CA-MTL needs.

    Raises:
        UserError: none or two models were named, one cannot be read or is for another job, or tokenizer and model do
            not fit each other.
    """
    names = [name for name in (arguments.config_name, arguments.model_name_or_path) if name]
    if len(names) != 1:
        raise UserError(
            "needed is one of --model_name_or_path (from weights) and --config_name (from scratch), "
            f"found {'both' if names else 'neither'}"
        )
    folder = local_folder(arguments.model_name_or_path) if arguments.model_name_or_path else None
    fields = load_named_config(arguments, folder or names[0])
    if not may_be_conditional:
        refuse_conditional(fields, names[0])
    check_at_most(arguments, "max_seq_length", fields["max_position_embeddings"], f"the positions that {names[0]} has")
    _override(arguments, fields)
    tokenizer_name = arguments.tokenizer_name or folder
    if tokenizer_name is None:
        raise UserError("--tokenizer_name is missing; a model from scratch (--config_name) needs one")
    tokenizer = load_tokenizer(tokenizer_name)
    check_fits(tokenizer, fields["vocab_size"])
    if folder and arguments.tokenizer_name:
        _check_same_vocabulary(arguments.tokenizer_name, tokenizer, folder)
    weights = PretrainedWeights(folder, fields["model_type"]) if folder else None
    return StartingModel(fields, tokenizer, weights)


def load_named_config(arguments: TrainingArguments, name: str | Path) -> dict[str, Any]:
    """Read the configuration of the model that a job starts from, changed as ``config_overrides`` says.

    Raises:
        UserError: as `load_model_config` does; or a model with weights is to be changed.
    """
    if arguments.config_overrides and not arguments.config_name:
        raise UserError(
            f"--config_overrides {arguments.config_overrides} changes a model from scratch, that of --config_name; "
            "the weights of --model_name_or_path have the sizes that they have"
        )
    return load_model_config(name, arguments.config_overrides)


def refuse_conditional(fields: Mapping[str, Any], name: str) -> None:
    """Refuse a model that needs to be told each example's task.

    Args:
        fields: of its configuration.
        name: what the user called it.

    Raises:
        UserError: it does.
    """
    kind = fields.get("conditional", "none")
    if kind != "none":
        raise UserError(
            f'{name}: its config.json has "conditional": {kind!r}, a model of many tasks (CA-MTL), which '
            "pipelines/multitask.py alone can run; needed here is a model without it"
        )


def _check_same_vocabulary(name: str, tokenizer: Tokenizer, folder: Path) -> None:
    """Refuse a tokenizer whose tokens have other ids than the tokenizer's in the model's folder, if there is one."""
    try:
        own = load_tokenizer(folder)
    except UserError:  # there is none, or none that can be read
        return
    pairs = enumerate(zip_longest(tokenizer.tokens, own.tokens))
    found = next(((token_id, given, known) for token_id, (given, known) in pairs if given != known), None)
    if found:
        token_id, given, known = found
        raise UserError(
            f"--tokenizer_name {name}: its vocabulary is not that of the model's own tokenizer in {folder} (token "
            f"{token_id} is {given!r} there, {known!r} in the model); leave --tokenizer_name out"
        )


def _override(arguments: PretrainedModelArguments, fields: dict[str, Any]) -> None:
    """Put dropout that was given into the model's configuration."""
    values = {name: getattr(arguments, name) for name in _OVERRIDES}
    values[family_of(fields).classifier_dropout_key] = arguments.classifier_dropout
    for name, value in values.items():
        if value is not None:
            fields[name] = value


_MOST_SHOWN = 10  # names in a message


def check_weights(
    weights: PretrainedWeights, config: Any, head: str | Callable[[Any], Any], drop_head: bool = False
) -> tuple[tuple[str, ...], str]:
    """Compare the weights' shapes with the model's.

    Args:
        weights: to start from.
        config: the model's.
        head: name of a head, or a function from ``config`` to a layer.
        drop_head: whether the head is to start with fresh weights in any case.

    Returns:
        Names that must start with fresh weights though there are stored ones, which are the head's with ``drop_head``;
        and a sentence on those that are missing, "" if none is.

    Raises:
        UserError: a shape does not fit, or there is nothing of this model.
    """
    with torch.device("meta"):
        layers = [make_layer() for make_layer in model_layers(config, head)]
    shapes = [
        {layer.hugging_face_name(name): tuple(parameter.shape) for name, parameter in layer.named_parameters()}
        for layer in layers
    ]
    of_head = tuple(name for name in shapes[-1] if not name.startswith(f"{config.model_type}."))
    everything = {name: shape for layer in shapes for name, shape in layer.items()}
    missing = [name for name in everything if name not in weights]
    if all(name in missing for name in everything if name not in of_head):
        raise UserError(f"{weights.folder}: its weights have none of this model's names, such as {missing[0]}")
    for name, shape in everything.items():
        if name in weights and weights.shape(name) != shape and not (drop_head and name in of_head):
            advice = "; begin with a fresh head with --drop_classifier" if name in of_head else ""
            raise UserError(
                f"{weights.folder}: {name} has shape {weights.shape(name)}, but this model's is {shape}{advice}"
            )
    shown = ", ".join(missing[:_MOST_SHOWN]) + (f", …, {len(missing)} in all" if len(missing) > _MOST_SHOWN else "")
    note = f"{weights.folder}: has no {shown}; these start with fresh weights" if missing else ""
    return of_head if drop_head else (), note


def build_engine(
    config: Any,
    head: str | Callable[[Any], Any],
    objective: Objective,
    grid: Grid,
    settings: EngineSettings,
    micro_batches: int,
) -> Engine:
    """Build this process's stage of a model with fresh weights; all processes must call it.

    Args:
        config: the model, from `ds_bert.modeling.model.build_config`.
        head: name of a head, or a function from ``config`` to a layer.
        objective: the loss and its measures.
        grid: this process's place.
        settings: schedule, optimizer, precision, sharding; ``settings.seed`` is that of the first weights, too.
        micro_batches: micro-batches of a global batch per replica.
    """
    module = StageModule(model_layers(config, head), grid.stage_map.cuts, grid, settings.seed, settings.recompute)
    for name, parameter in module.parameters_by_name().items():
        initialize(name, parameter.data, config.initializer_range, settings.seed, config.pad_token_id)
    carry = carry_declaration(config, settings.dtype)
    return Engine(module, carry, objective, settings, grid, micro_batches)


def load_weights(engine: Engine, weights: PretrainedWeights, fresh: Collection[str] = ()) -> None:
    """Start from a folder's weights; what it lacks, and the ``fresh`` names, stay as initialised.

    Raises:
        UserError: a tensor has another shape than the model's; no weight has changed.
    """

    def is_taken(share: Share) -> bool:
        return share.name in weights and share.name not in fresh

    for share in filter(is_taken, engine.optimizer.shares(0)):
        weights.check(share.name, share.shape)

    def read(share: Share) -> None:
        if is_taken(share):
            weights.read_part(share.name, share.begin, share.part)

    engine.optimizer.load(read, (), {}, 0)
