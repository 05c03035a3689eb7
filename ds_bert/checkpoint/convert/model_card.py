"""The README.md of an exported model: what it is, what it was trained on and how, and how good it is."""

import json
from collections.abc import Mapping
from math import prod
from typing import Any

from ds_bert import __version__
from ds_bert.checkpoint.convert.classes import class_name, shapes_of
from ds_bert.checkpoint.convert.export import Export
from ds_bert.checkpoint.inspection import RunFacts

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
