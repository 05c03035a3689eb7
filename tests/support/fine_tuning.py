"""Toy batches for every head, their micro-batches, and transformers' loss of them on one process."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from transformers import PretrainedConfig

from ds_bert.engine.execution import MicroBatch, Objective
from ds_bert.engine.process_group import Grid
from ds_bert.modeling.families import family_of
from ds_bert.modeling.model import initialize
from ds_bert.tasks.classification import ClassificationObjective
from ds_bert.tasks.squad.objective import BeamSpanObjective, SpanObjective
from ds_bert.training.pretraining import PretrainingObjective, split_batch
from tests.support.beam import answer_logit, end_logit, start_logits
from tests.support.models import CHOICES, LABELS, chain, transformers_model
from tests.support.toy import ROWS, global_batch, part

INPUTS = ("input_ids", "token_type_ids", "attention_mask")
BEAM = "beam-question-answering"
Batch = dict[str, np.ndarray]


def objective(head: str) -> Objective:
    """What a head is trained with."""
    return {
        "pretraining": PretrainingObjective(),
        "sequence-classification": ClassificationObjective(LABELS),
        "token-classification": ClassificationObjective(LABELS),
        "multiple-choice": ClassificationObjective(CHOICES),
        "question-answering": SpanObjective(),
        BEAM: BeamSpanObjective(),
    }[head]


def examples(head: str, step: int) -> Batch:
    """Eight examples of an optimizer step, padded to one length; four sequences each in multiple choice."""
    sequences = ROWS * (CHOICES if head == "multiple-choice" else 1)
    batch = global_batch(step, sequences)
    if head == "pretraining":
        return batch
    random = np.random.default_rng([1, step])
    mask, inputs = batch["attention_mask"], {name: batch[name] for name in INPUTS}
    if head == "token-classification":
        counted = mask & (random.random(mask.shape) < 0.7)
        return inputs | {"labels": np.where(counted, random.integers(0, LABELS, mask.shape), -100)}
    if head.endswith("question-answering"):
        return inputs | _answers(mask.sum(axis=1), random)
    return inputs | {"labels": random.integers(0, CHOICES if head == "multiple-choice" else LABELS, ROWS)}


def _answers(lengths: np.ndarray, random: np.random.Generator) -> Batch:
    """Answers in the context from token 2 to before the last; every third question has none."""
    impossible = np.arange(ROWS) % 3 == 2
    ends = lengths - 1
    positions = np.sort(random.integers(2, ends[:, None], (ROWS, 2)), axis=1)
    positions[impossible] = 0
    return {
        "context_begin": np.full(ROWS, 2),
        "context_end": ends,
        "start_positions": positions[:, 0],
        "end_positions": positions[:, 1],
        "is_impossible": impossible,
    }


def micro_batches(grid: Grid, head: str, batch: Batch, size: int) -> list[MicroBatch]:
    """This replica's micro-batches of ``size`` examples, each cut to its longest sequence."""
    return [
        _micro_batch(grid, head, batch, number, size) for number in range(grid.replica, ROWS // size, grid.num_replicas)
    ]


def _micro_batch(grid: Grid, head: str, batch: Batch, number: int, size: int) -> MicroBatch:
    per_example = CHOICES if head == "multiple-choice" else 1
    begin, end = number * size, (number + 1) * size
    sequences = {name: batch[name] for name in INPUTS}
    columns = {name: column for name, column in batch.items() if name not in INPUTS}
    rows = part(sequences, begin * per_example, end * per_example) | {n: c[begin:end] for n, c in columns.items()}
    length = rows["input_ids"].shape[1]
    if head == "token-classification":
        rows["labels"] = rows["labels"][:, :length]
    if head == "pretraining":
        inputs, labels = split_batch(rows)
    else:
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in rows.items()}
        inputs = {name: tensors.pop(name) for name in INPUTS if name in tensors}
        labels = tensors
    shape = (*rows["input_ids"].shape, "attention_mask" in rows)
    return MicroBatch(number, shape, inputs if grid.is_first else None, labels if grid.is_last else None)


def reference(
    config: PretrainedConfig, head: str, seed: int
) -> tuple[dict[str, torch.nn.Parameter], Callable[[Batch], torch.Tensor]]:
    """Transformers' model: its parameters by name, with our first weights, and its loss of a global batch."""
    if head == BEAM:
        return _beam_reference(config, seed)
    model = transformers_model(config, head, seed)
    losses = {"pretraining": _pretraining_loss, "question-answering": _span_loss, "multiple-choice": _choice_loss}
    loss = losses.get(head, _labels_loss)
    return dict(model.named_parameters()), lambda batch: loss(
        model, {name: torch.from_numpy(array) for name, array in batch.items()}
    )


def _labels_loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(**batch).loss


def _choice_loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    inputs = {name: batch[name].unflatten(0, (-1, CHOICES)) for name in INPUTS}
    return model(**inputs, labels=batch["labels"]).loss


def _span_loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Example by example, so that no padding takes part in the softmax."""
    losses = []
    for inputs, row in _unpadded(batch):
        positions = {name: row[name][None] for name in ("start_positions", "end_positions")}
        losses.append(model(**inputs, **positions).loss)
    return torch.stack(losses).mean()


def _pretraining_loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    labels = torch.full_like(batch["input_ids"], -100)
    labels.scatter_(1, batch["masked_positions"], batch["masked_labels"])
    inputs = {name: batch[name] for name in INPUTS}
    return model(**inputs, labels=labels, sentence_order_label=batch["next_sentence_label"]).loss


def _unpadded(batch: dict[str, torch.Tensor]) -> list[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]]:
    rows = [{name: value[index] for name, value in batch.items()} for index in range(ROWS)]
    lengths = [int(row["attention_mask"].sum()) for row in rows]
    names = ("input_ids", "token_type_ids")
    return [
        ({name: row[name][None, :length] for name in names}, row) for row, length in zip(rows, lengths, strict=True)
    ]


def _beam_reference(
    config: PretrainedConfig, seed: int
) -> tuple[dict[str, torch.nn.Parameter], Callable[[Batch], torch.Tensor]]:
    """Transformers' encoder, and the head in loops over examples and tokens."""
    family = family_of(config)
    encoder = getattr(transformers, f"{family.class_prefix}Model")(config, add_pooling_layer=False).eval()
    parameters = {f"{family.prefix}{name}": parameter for name, parameter in encoder.named_parameters()}
    for name, parameter in chain(config, BEAM, seed).parameters.items():
        parameters.setdefault(name, parameter)
    for name, parameter in parameters.items():
        initialize(name, parameter.data, config.initializer_range, seed, config.pad_token_id)

    def loss(batch: Batch) -> torch.Tensor:
        losses = []
        for inputs, row in _unpadded({name: torch.from_numpy(array) for name, array in batch.items()}):
            hidden = encoder(**inputs).last_hidden_state[0]
            starts = start_logits(parameters, hidden, int(row["context_begin"]), int(row["context_end"]))
            start, end = int(row["start_positions"]), int(row["end_positions"])
            ends = {position: end_logit(parameters, hidden, start, position) for position in starts}
            answer = answer_logit(parameters, hidden, starts)
            span = _cross_entropy(starts, start) + _cross_entropy(ends, end)
            impossible = F.softplus(-answer if row["is_impossible"] else answer)
            losses.append(span / 2 + impossible / 2)
        return torch.stack(losses).mean()

    return parameters, loss


def _cross_entropy(logits: dict[int, torch.Tensor], true: int) -> torch.Tensor:
    return torch.stack(list(logits.values())).logsumexp(0) - logits[true]
