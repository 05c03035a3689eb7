"""What the pre-training job checks and opens before any process group exists."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ds_bert.checkpoint.tensors import TensorFolder
from ds_bert.data.pretraining import PretrainingDataset
from ds_bert.data.vocabulary import check_fits, load_tokenizer
from ds_bert.engine.process_group import launcher_world
from ds_bert.errors import UserError
from ds_bert.modeling.config import load_model_config
from ds_bert.stage_map import StageMap
from ds_bert.training.arguments import PretrainArguments, TrainingArguments


@dataclass
class PretrainingData:
    """The data sets of one process; None on stages that read nothing, and where nothing is held out."""

    train: PretrainingDataset | None
    held_out: PretrainingDataset | None


def check_numbers(arguments: TrainingArguments) -> None:
    """Refuse numbers that no training can be done with.

    Raises:
        UserError: the first such argument.
    """
    at_least_one = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
    at_least_zero = ("learning_rate", "weight_decay", "max_grad_norm", "warmup_steps", "warmup_ratio", "eval_steps",
                     "save_steps", "save_total_limit", "num_minibatches")  # fmt: skip
    for name in (*at_least_one, "logging_steps", "ddp_timeout"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name} is {getattr(arguments, name)}, needed is at least 1")
    for name in at_least_zero:
        if getattr(arguments, name) < 0:
            raise UserError(f"--{name} is {getattr(arguments, name)}, needed is at least 0")
    if arguments.max_steps < 1 and arguments.num_train_epochs <= 0 and not arguments.num_minibatches:
        raise UserError(f"--num_train_epochs is {arguments.num_train_epochs}, needed is more than 0, or --max_steps")
    if arguments.fp16 and not torch.cuda.is_available():
        raise UserError("--fp16 needs CUDA, which was not found on this machine; use --bf16 or neither")
    if not arguments.output_dir and not arguments.num_minibatches:
        raise UserError("--output_dir is missing; it may be left out in throughput runs (--num_minibatches) only")


def load_model(arguments: PretrainArguments) -> dict[str, Any]:
    """Read the configuration of the model to train.

    Raises:
        UserError: none or two were named, or it cannot be read, or sequences are longer than its positions.
    """
    names = [name for name in (arguments.config_name, arguments.model_name_or_path) if name]
    if len(names) != 1:
        raise UserError(
            "needed is one of --config_name (from scratch) and --model_name_or_path (from weights), "
            f"found {'both' if names else 'neither'}"
        )
    model = load_model_config(names[0])
    length = arguments.max_seq_length
    if not 8 <= length <= model["max_position_embeddings"]:
        raise UserError(
            f"--max_seq_length is {length}, needed is 8 to {model['max_position_embeddings']}, the positions that "
            f"{names[0]} has"
        )
    if arguments.model_name_or_path:
        TensorFolder(Path(arguments.model_name_or_path))
    return model


def open_data(arguments: PretrainArguments, model: dict[str, Any], stage_map: StageMap) -> PretrainingData:
    """Open the data sets on the ranks of the first and last stage.

    Raises:
        UserError: a folder is missing or damaged, or its vocabulary does not fit the model.
    """
    if not arguments.train_path:
        raise UserError("--train_path is missing; make a data folder with `ds-bert prepare`")
    rank, _ = launcher_world()
    stage, _ = stage_map.position(rank)
    if stage not in (0, stage_map.num_stages - 1):
        return PretrainingData(None, None)
    train = _open(arguments, arguments.train_path, model, evaluation=False)
    default = Path(arguments.train_path) / "validation"
    eval_path = arguments.eval_path or (str(default) if default.is_dir() else None)
    return PretrainingData(train, _open(arguments, eval_path, model, evaluation=True) if eval_path else None)


def _open(arguments: PretrainArguments, path: str, model: dict[str, Any], evaluation: bool) -> PretrainingDataset:
    data = PretrainingDataset(
        path,
        arguments.max_seq_length,
        arguments.max_predictions_per_seq,
        arguments.mlm_probability,
        arguments.whole_word_mask,
        arguments.seed,
        evaluation,
    )
    check_fits(data.tokenizer, model["vocab_size"])
    if arguments.tokenizer_name and load_tokenizer(arguments.tokenizer_name).fingerprint != data.tokenizer.fingerprint:
        raise UserError(
            f"{path}: was prepared with another tokenizer than --tokenizer_name {arguments.tokenizer_name}; prepare it "
            "anew with that one, or leave the flag out"
        )
    return data


def total_steps(arguments: TrainingArguments, steps_per_epoch: float) -> int:
    """Optimizer steps of the whole training."""
    if arguments.num_minibatches:
        return -(-arguments.num_minibatches // arguments.gradient_accumulation_steps)
    if arguments.max_steps > 0:
        return arguments.max_steps
    return max(1, round(arguments.num_train_epochs * steps_per_epoch))
