"""What the arguments make of the model: which conditional modules it has, which layers are not trained."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ds_bert.engine.settings import EngineSettings
from ds_bert.errors import UserError
from ds_bert.modeling.conditional import TASK_EMBEDDING
from ds_bert.modeling.config import MODULES
from ds_bert.modeling.families import encoder_part, families_that, family_of, is_embedding
from ds_bert.multitask.arguments import MultitaskArguments
from ds_bert.multitask.tasks import MultitaskTask
from ds_bert.training.starting_model import StartingModel

_PAD_TO = 8  # batches are padded to a multiple
# What a model's configuration says of its conditional modules, by the name of its flag: the kinds that it is for.
_DESCRIBED = {"conditional_modules": ("base", "large"), "conditional_last_layer": ("base",)}


def conditional_fields(arguments: MultitaskArguments, given: set[str], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the model's configuration says of the conditional modules.

    Args:
        arguments, given: ``conditional`` and its like if they were given, else as the model is.
        fields: of the model to start from.

    Raises:
        UserError: the modules have no place in the model, it has other ones, or its attention matrices are for
            shorter sequences.
    """
    trained = fields.get("conditional", "none") if arguments.model_name_or_path else "none"
    kind = arguments.conditional if "conditional" in given else fields.get("conditional", arguments.conditional)
    if trained not in ("none", kind):
        raise UserError(
            f"--conditional is {kind}, but the model was trained with the modules of {trained}, which would be lost; "
            f"needed is --conditional {trained}, or no --conditional at all"
        )
    for name, kinds in _DESCRIBED.items():
        if name in given and kind not in kinds:
            raise UserError(f"--{name} is for --conditional {' and '.join(kinds)}, found {kind}; leave it out")
    if kind == "none":
        return {"conditional": kind}
    if not family_of(fields).can_be_conditional:
        possible, found = families_that("can_be_conditional"), fields["model_type"]
        raise UserError(f"--conditional {kind} needs a model of {possible}, found {found}; use --conditional none")
    refuse_one_norm(fields if trained != "none" else {}, arguments.model_name_or_path)
    length = -(-arguments.max_seq_length // _PAD_TO) * _PAD_TO
    stored = fields.get("conditional_length", length)
    if length > stored:
        raise UserError(
            f"--max_seq_length is {arguments.max_seq_length}, but the attention matrices of the model are for at most "
            f"{stored} tokens"
        )
    modules = [name for name in MODULES if name in (arguments.conditional_modules or MODULES)]
    described: dict[str, Any] = {"conditional_modules": modules} if len(modules) < len(MODULES) else {}
    described |= {"conditional_last_layer": arguments.conditional_last_layer} if kind == "base" else {}
    if trained != "none":
        described = _as_trained(described, given, fields)
    return {"conditional": kind, "conditional_length": stored, **described}


def _as_trained(wanted: Mapping[str, Any], given: set[str], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what a trained model has; raise `UserError` where something else was asked for."""
    of_model = {name: fields[name] for name in _DESCRIBED if name in fields}
    for name in _DESCRIBED:
        if name in given and wanted.get(name) != of_model.get(name):
            shown = of_model.get(name, list(MODULES))
            shown = " ".join(shown) if isinstance(shown, list) else shown
            raise UserError(f"--{name} is another than the model was trained with, {shown}; leave it out")
    return of_model


def refuse_one_norm(fields: Mapping[str, Any], folder: str | Path | None) -> None:
    """Refuse a model of base that was written when its last layer had one norm, not two.

    Args:
        fields: of a conditional model's configuration.
        folder: where it lies.

    Raises:
        UserError: it was.
    """
    if fields.get("conditional") == "base" and "conditional_last_layer" not in fields:
        raise UserError(
            f"{folder}: was written by an earlier version, whose last layer had one conditional norm in the place of "
            "the published two (its config.json has no conditional_last_layer); needed is a model that is trained anew"
        )


def begin_last_layer(
    source: StartingModel, described: Mapping[str, Any], freeze_encoder_layers: str | None
) -> tuple[StartingModel, tuple[str, ...]]:
    """Return what to start from, without the last layer of a plain encoder where that is to begin afresh; and a note.

    Args:
        source: the model.
        described: see `conditional_fields`.
        freeze_encoder_layers: the flag.

    Raises:
        UserError: the last layer begins afresh, and is not to be trained.
    """
    has_bottleneck = "bottleneck" in described.get("conditional_modules", MODULES)
    is_fresh = described.get("conditional_last_layer") == "published" and has_bottleneck
    if not is_fresh or source.weights is None or source.fields.get("conditional", "none") != "none":
        return source, ()
    family, last = family_of(source.fields), source.fields["num_hidden_layers"] - 1
    if freeze_encoder_layers == f"0-{last}":
        raise UserError(
            f"--freeze_encoder_layers {freeze_encoder_layers} would leave the last layer at its first random weights; "
            f"needed is 0-{last - 1} at the most, or --conditional_last_layer pretrained"
        )
    note = (
        f"encoder layer {last}, the last, begins with fresh weights, as in CA-MTL's code; with the model's under "
        "--conditional_last_layer pretrained"
    )
    return replace(source, weights=source.weights.without(f"{family.prefix}{family.layer_name}{last}.")), (note,)


def names_of_tasks(fields: Mapping[str, Any]) -> list[str]:
    """Names of the tasks that a model was trained on; none for one that was not trained on many."""
    return [task["name"] for task in fields.get("tasks") or ()]


def labels_of_decoders(source: StartingModel, drop_classifier: bool) -> dict[str, list[str]]:
    """Labels that a model of many tasks was trained to tell apart, by task; none where decoders begin afresh."""
    if source.weights is None or drop_classifier:
        return {}
    return {task["name"]: task["labels"] for task in source.fields.get("tasks") or () if task["labels"]}


def for_tasks(source: StartingModel, task: MultitaskTask, drop_classifier: bool) -> StartingModel:
    """Return what to start from, without what a model of other tasks has learned of them.

    Args:
        source: the model.
        task: to train.
        drop_classifier: whether to begin with fresh decoders, and with fresh embeddings where the tasks are others.

    Raises:
        UserError: tasks or labels differ, and nothing is to be dropped.
    """
    stored, wanted = source.fields.get("tasks"), task.config["tasks"]
    # Labels have the decoders' order by now, see `labels_of_decoders`, but maybe other capitals.
    rows = [[(found["name"], len(found["labels"])) for found in tasks or ()] for tasks in (stored, wanted)]
    if not stored or rows[0] == rows[1] or source.weights is None:
        return source
    if drop_classifier:
        return replace(source, weights=source.weights.without(TASK_EMBEDDING))
    shown = [" ".join(found["name"] for found in tasks) for tasks in (stored, wanted)]
    raise UserError(
        f"--tasks: the model was trained on {shown[0]}, found {shown[1]}; needed are the same tasks, with the same "
        "labels, in the same order, or --drop_classifier to begin with fresh decoders and task embeddings"
    )


@dataclass(frozen=True)
class Frozen:
    """Says which parameters are trained where the embeddings and the first encoder layers are not.

    Args:
        layers: how many encoder layers are not.
    """

    layers: int

    def __call__(self, name: str) -> bool:
        """Whether the parameter that Hugging Face knows as ``name`` is trained; conditional ones always are."""
        part = encoder_part(name)
        return not is_embedding(name) and (part is None or part[0] >= self.layers)


def freeze(settings: EngineSettings, layers: str | None, fields: Mapping[str, Any]) -> EngineSettings:
    """Leave out of training what `--freeze_encoder_layers` names.

    Args:
        settings: of the engine.
        layers: "0-N"; None trains all.
        fields: of the model.

    Raises:
        UserError: there are no such layers, or the model shares its layers.
    """
    if layers is None:
        return settings
    last = fields["num_hidden_layers"] - 1
    found = re.fullmatch(r"0-(\d+)", layers)
    if not found or int(found[1]) > last:
        raise UserError(f"--freeze_encoder_layers is {layers!r}, needed is 0-N with N from 0 to {last}, the last layer")
    if family_of(fields).shares_layers:
        raise UserError(
            f"--freeze_encoder_layers: the layers of an {fields['model_type']} share their parameters, so that none "
            "can be frozen by itself; needed is another family's model, or no such flag"
        )
    return replace(settings, is_trained=Frozen(int(found[1]) + 1))
