"""A checkpoint as a plain Hugging Face folder: what a class of transformers takes of it, the files, the model card."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from ds_bert import __version__
from ds_bert.checkpoint.convert.classes import (
    Shapes,
    class_name,
    head_of,
    heads_of,
    known_names,
    make_config,
    shapes_of,
)
from ds_bert.checkpoint.inspection import RunFacts
from ds_bert.checkpoint.tensors import WEIGHTS, part_name, write_tensors
from ds_bert.errors import UserError
from ds_bert.files import read_json, write_json
from ds_bert.modeling.families import family_of
from ds_bert.modeling.heads import HEADS


@dataclass(frozen=True)
class Export:
    """What becomes of a checkpoint's parameters.

    Args:
        head: of the class.
        fields: configuration of the class.
        taken: names whose weights are the checkpoint's.
        fresh: names that begin anew, with their shapes.
        dropped: names of the checkpoint that the class has no place for, but another one has.
        extra: names that no class has.
    """

    head: str
    fields: dict[str, Any]
    taken: list[str]
    fresh: Shapes
    dropped: list[str]
    extra: list[str]


def plan_export(fields: Mapping[str, Any], found: Shapes, head: str | None, num_labels: int | None) -> Export:
    """Compare a checkpoint with a class.

    Args:
        fields: the checkpoint's configuration.
        found: its parameters.
        head: one of `ds_bert.modeling.heads.exportable_heads`, or None for the one that the parameters make up.
        num_labels: of the class; None for as many as the checkpoint has, or, with another head, two.

    Raises:
        UserError: the head has no labels to choose, or a part of the encoder is lacking or of another shape.
    """
    known = known_names(fields)
    stored = head_of(fields, found.keys() & known)
    head = head or stored
    if head not in heads_of(fields):
        there = ", ".join(heads_of(fields))
        raise UserError(f"--head {head}: transformers has no such class of {fields['model_type']}, it has {there}")
    fields = _with_labels(fields, head, stored, num_labels)
    shapes = shapes_of(fields, head)
    # Two heads' classifiers are not each other's.
    own = tuple(name for entry in HEADS.values() for name in entry.own_names)
    taken, fresh = [], {}
    for name, shape in shapes.items():
        is_others = head != stored and name.startswith(own)
        if name in found and found[name] == shape and not is_others:
            taken.append(name)
        elif name.startswith(family_of(fields).prefix) and ".pooler." not in name:
            has = f"has shape {found[name]}" if name in found else "is not there"
            raise UserError(f"the checkpoint's {name} {has}, but {shape} is what its configuration says")
        else:
            fresh[name] = shape
    dropped = sorted(name for name in found if name in known and name not in taken)
    return Export(head, fields, taken, fresh, dropped, sorted(found.keys() - known))


def _with_labels(fields: Mapping[str, Any], head: str, stored: str, num_labels: int | None) -> dict[str, Any]:
    if num_labels is not None and HEADS[head].labels != "of a task":
        raise UserError(f"--num_labels {num_labels}: --head {head} has no labels to choose")
    if num_labels is not None and num_labels < 1:
        raise UserError(f"--num_labels is {num_labels}, expected at least 1")
    labels = len(fields.get("id2label") or ()) or fields.get("num_labels") or 2
    wanted = num_labels or (labels if head == stored and HEADS[head].labels != "two" else 2)
    kept = dict(fields)
    if wanted != labels or head != stored:
        of_labels = ("id2label", "label2id", "problem_type", "finetuning_task")
        kept = {key: value for key, value in kept.items() if key not in of_labels}
    return {**kept, "num_labels": wanted}


TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "spiece.model",
    "special_tokens_map.json",
    "added_tokens.json",
)
_CONFIG = "tokenizer_config.json"


def write_model(folder: Path, fields: Mapping[str, Any], head: str, weights: Mapping[str, torch.Tensor]) -> None:
    """Write config.json and model.safetensors, which transformers' class of that head loads.

    Args:
        folder: an empty folder.
        fields: the model's configuration.
        head: one of `ds_bert.modeling.heads.exportable_heads`.
        weights: the class's parameters, the encoder's under names that begin with the family's prefix.
    """
    ours = {"ds_bert", "torch_dtype"}
    types = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
    fields = {key: value for key, value in fields.items() if key not in ours}
    if len(types) == 1:
        fields["dtype"] = str(types.pop()).removeprefix("torch.")
    prefix = family_of(fields).prefix if head == "base" else ""
    named = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    write_tensors(folder / part_name(WEIGHTS, 0, 1), named)
    write_json(folder / "config.json", json.loads(make_config(fields, head).to_json_string(use_diff=False)))


def copy_tokenizer(source: Path, folder: Path, positions: int) -> list[str]:
    """Copy a tokenizer's files as they are, but for what they say of the longest sequence; return their names.

    Args:
        source: a folder that may hold a tokenizer, of any class.
        folder: to write to.
        positions: that the model has.
    """
    found = [name for name in TOKENIZER_FILES if (source / name).is_file()]
    for name in found:
        shutil.copyfile(source / name, folder / name)
    if found:
        config = read_json(source / _CONFIG) if _CONFIG in found else {}
        write_json(folder / _CONFIG, {**config, "model_max_length": positions})
    return found


# transformers' pipelines; multiple choice has none, that of questions and answers is gone.
PIPELINES = {
    "base": "feature-extraction",
    "pretraining": "fill-mask",
    "masked-lm": "fill-mask",
    "sequence-classification": "text-classification",
    "token-classification": "token-classification",
}
_DATA = (
    "train_path",
    "task_name",
    "data_dir",
    "train_file",
    "dataset_name",
    "dataset_config_name",
    "model_name_or_path",
)
_SETTINGS = (
    "max_seq_length", "per_device_train_batch_size", "gradient_accumulation_steps", "schedule", "optim",
    "learning_rate", "lr_scheduler_type", "warmup_steps", "warmup_ratio", "weight_decay", "max_grad_norm",
    "bf16", "fp16", "seed",
)  # fmt: skip
_MODEL = (
    "model_type", "num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "embedding_size",
    "vocab_size", "max_position_embeddings",
)  # fmt: skip


def model_card(export: Export, facts: RunFacts, folder: str) -> str:
    """Write the card; what is not known is left out, or said not to be recorded."""
    name = class_name(export.fields["model_type"], export.head)
    parameters = sum(prod(shape) for shape in shapes_of(export.fields, export.head).values())
    sections = [
        _front_matter(export),
        f"# {name}",
        f"Trained with ds_bert {__version__}"
        + (f", {facts.step:,} optimizer steps." if facts.step is not None else "."),
        _section("Model", {**_some(export.fields, _MODEL), "parameters": f"{parameters:,}", "class": name}),
        _heads(export),
        _section("Training data", {**_some(facts.arguments, _DATA), **_some(facts.state, ("data",))}),
        _section("Training", {**_steps(facts), **_some(facts.arguments, _SETTINGS)}),
        _section("Scores at the last evaluation", {key: f"{value:.4f}" for key, value in facts.scores.items()}),
        _stage_map(facts.stage_map),
        _use(name, export.head, folder),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(export: Export) -> str:
    lines = ["library_name: transformers"]
    if export.head in PIPELINES:
        lines.append(f"pipeline_tag: {PIPELINES[export.head]}")
    return "\n".join(["---", *lines, "tags:", "- ds_bert", f"- {export.fields['model_type']}", "---"])


def _some(values: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: values[name] for name in names if values.get(name) not in (None, "")}


def _steps(facts: RunFacts) -> dict[str, Any]:
    names = {"step": "optimizer steps", "global_batch": "examples of a step", "examples_seen": "examples seen"}
    return {text: f"{facts.state[name]:,}" for name, text in names.items() if isinstance(facts.state.get(name), int)}


def _section(title: str, rows: Mapping[str, Any]) -> str:
    table = [f"| {key} | {value} |" for key, value in rows.items()] or ["| | not recorded |"]
    return "\n".join([f"## {title}", "", "| | |", "|---|---|", *table])


def _heads(export: Export) -> str:
    lines = []
    if export.fresh:
        lines.append(f"Not trained, but freshly drawn: {_names(list(export.fresh))}. Fine-tune before use.")
    left_out = [*export.dropped, *export.extra]
    if left_out:
        lines.append(f"Left out of the checkpoint's parameters: {_names(left_out)}.")
    return "\n\n".join(lines)


def _names(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _stage_map(stage_map: Mapping[str, Any]) -> str:
    return f"## Stage map\n\n```json\n{json.dumps(stage_map)}\n```" if stage_map else ""


def _use(name: str, head: str, folder: str) -> str:
    lines = ["from transformers import AutoTokenizer, " + name, "", f'model = {name}.from_pretrained("{folder}")']
    lines.append(f'tokenizer = AutoTokenizer.from_pretrained("{folder}")')
    if head in PIPELINES:
        lines[0] += ", pipeline"
        lines.append(f'run = pipeline("{PIPELINES[head]}", model="{folder}")')
    return "\n".join(["## Use", "", "```python", *lines, "```"])
