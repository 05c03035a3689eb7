"""What follows from the arguments: DeepSpeed's JSON united with them, checks, steps and the learning rate of each."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import torch
from transformers import PretrainedConfig

from ds_bert.engine.optimizers import OPTIMIZERS, optimizers_with
from ds_bert.engine.settings import EngineSettings, LossScaling, ParameterGroup, Precision, by_dimensions
from ds_bert.errors import UserError
from ds_bert.files import find_config, read_json
from ds_bert.modeling.families import encoder_part, family_of, is_embedding
from ds_bert.training.arguments import TRACED, JobArguments, TrainingArguments
from ds_bert.training.declaration import Bounds, Kind, flags_of

Arguments = TypeVar("Arguments", bound=TrainingArguments)

_TYPE = "optimizer.type"
_BETAS = "optimizer.params.betas"
# What the file has beside what it shares with the flags, each of which names its place there.
_ONLY_HERE = {
    "train_batch_size",
    "zero_optimization.stage",
    _BETAS,
    "optimizer.params.torch_adam",
    "optimizer.params.adam_w_mode",
}
# What changes nothing of the numbers: read by DeepSpeed's own optimizers or its logging, which are not used here.
_IGNORED = {"steps_per_print", "wall_clock_breakdown", "zero_allow_untested_optimizer", "prescale_gradients"}
_ZERO_TUNING = {
    "allgather_partitions", "allgather_bucket_size", "overlap_comm", "reduce_scatter", "reduce_bucket_size",
    "contiguous_gradients", "round_robin_gradients",
}  # fmt: skip


def apply_deepspeed_config(
    arguments: Arguments, given: set[str], num_replicas: int
) -> tuple[Arguments, EngineSettings]:
    """Unite the arguments with ``arguments.deepspeed_config``.

    Args:
        arguments: as parsed.
        given: names of the arguments that the user gave; the file's values replace defaults, and must equal these.
        num_replicas: for ``train_batch_size``, the global batch.

    Raises:
        UserError: the file contradicts an argument, or asks for what is not supported.
    """
    source, config = "", {}
    if arguments.deepspeed_config:
        path = find_config("engine", arguments.deepspeed_config)
        source, data = str(path), read_json(path)
        if not isinstance(data, dict):
            raise UserError(f"{source}: holds a {type(data).__name__}, needed is an object")
        config = dict(_leaves(data))
    shared = {flag.deepspeed: name for name, flag in flags_of(type(arguments)).items() if flag.deepspeed}
    _refuse_unsupported(config, {*shared, *_ONLY_HERE}, source)
    config |= _betas(config, source)
    for key, name in shared.items():
        if key in config and config[key] != "auto":
            arguments = _unite(arguments, given, key, name, config, source)
    _refuse_options_of_others(arguments.optim, config, source)
    _check_global_batch(arguments, config, num_replicas, source)
    return arguments, _settings(arguments, config.get("zero_optimization.stage", 0), source)


def _leaves(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Name every value by its path, as in "optimizer.params.lr"."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _betas(config: dict[str, Any], source: str) -> dict[str, Any]:
    """Give each of the betas a place of its own."""
    betas = config.get(_BETAS, "auto")
    if betas == "auto":
        return {}
    if not isinstance(betas, list) or len(betas) != 2:
        raise UserError(f'{source}: {_BETAS} is {betas!r}, needed is a list of two numbers or "auto"')
    return {f"{_BETAS}[{place}]": beta for place, beta in enumerate(betas)}


def _refuse_unsupported(config: dict[str, Any], known: set[str], source: str) -> None:
    for key, value in config.items():
        section, _, rest = key.partition(".")
        if key in known or key in _IGNORED or (section == "zero_optimization" and rest in _ZERO_TUNING):
            continue
        if section == "scheduler":
            raise UserError(f"{source}: {key}: set --lr_scheduler_type, --warmup_steps or --warmup_ratio instead")
        names = ", ".join(sorted(name for name in known | _IGNORED if "[" not in name))
        raise UserError(f"{source}: {key} = {value!r} is not supported; known are {names}")
    stage = config.get("zero_optimization.stage", 0)
    if stage not in (0, 1) or isinstance(stage, bool):
        raise UserError(
            f"{source}: zero_optimization.stage is {stage!r}, needed is 0 or 1: stages 2 and 3 share out the gradients "
            "and weights that a pipeline adds up and uses again for every micro-batch, which costs more traffic than "
            "the memory is worth"
        )


def _optimizer_type(config: dict[str, Any], source: str) -> str:
    kind = str(config[_TYPE]).lower()
    if kind == "adam" and config.get("optimizer.params.adam_w_mode", True):
        return "adamw"  # as DeepSpeed reads it
    names = {entry.deepspeed_name: name for name, entry in OPTIMIZERS.items()}
    found = next((name for theirs, name in names.items() if theirs.lower() == kind), None)
    if found is None:
        *most, last = names
        needed = f"{', '.join(most)} or {last}"
        raise UserError(f"{source}: optimizer.type is {config['optimizer.type']!r}, needed is {needed}")
    return found


def _unite(
    arguments: Arguments, given: set[str], key: str, name: str, config: dict[str, Any], source: str
) -> Arguments:
    """Let the argument ``name`` have the value that the file has at ``key``."""
    written, current = config[key], getattr(arguments, name)
    value = _optimizer_type(config, source) if key == _TYPE else written
    kind = type(current)
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise UserError(f'{source}: {key} is {written!r}, needed is a value of type {kind.__name__} or "auto"')
    if name in given and value != current:
        raise UserError(f'{source}: {key} is {written!r}, but --{name} is {current!r}; make them equal or write "auto"')
    if needed := flags_of(type(arguments))[name].refusal(value):
        raise UserError(f'{source}: {key} is {written!r}, {needed} or "auto"')
    return replace(arguments, **{name: kind(value)})


def _check_global_batch(arguments: TrainingArguments, config: dict[str, Any], num_replicas: int, source: str) -> None:
    size, steps = arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps
    wanted = config.get("train_batch_size", "auto")
    if wanted not in ("auto", size * steps * num_replicas):
        raise UserError(
            f"{source}: train_batch_size is {wanted!r}, but {size} examples x {steps} micro-batches x {num_replicas} "
            f'replicas are {size * steps * num_replicas}; make them equal or write "auto"'
        )


def _settings(arguments: TrainingArguments, zero_stage: Literal[0, 1], source: str) -> EngineSettings:
    if arguments.bf16 and arguments.fp16:
        raise UserError(f"{source or 'arguments'}: bf16 and fp16 are both on, needed is at most one")
    precision: Precision = "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "fp32"
    return EngineSettings(
        schedule=arguments.schedule,
        optimizer=arguments.optim,
        optimizer_options=_optimizer_options(arguments, source),
        weight_decay=arguments.weight_decay,
        max_grad_norm=arguments.max_grad_norm,
        zero_stage=zero_stage,
        precision=precision,
        tf32=arguments.tf32,
        loss_scaling=LossScaling(
            fixed=arguments.loss_scale,
            initial=2.0**arguments.initial_scale_power,
            window=arguments.loss_scale_window,
            minimum=arguments.min_loss_scale,
        ),
        recompute=arguments.gradient_checkpointing,
        seed=arguments.seed,
        traced=traced_steps(arguments),
    )


def _refuse_options_of_others(optimizer: str, config: dict[str, Any], source: str) -> None:
    """Refuse an option that the optimizer does not have and would ignore."""
    for option in ("betas", "eps", "momentum"):
        value = config.get(f"optimizer.params.{option}", "auto")
        if value != "auto" and option not in OPTIMIZERS[optimizer].options:
            raise UserError(f"{source}: optimizer.params.{option} is {value!r}, but {optimizer} has none; leave it out")


def _optimizer_options(arguments: TrainingArguments, source: str) -> dict[str, Any]:
    supported = OPTIMIZERS[arguments.optim].options
    for option, name, wanted in (
        ("bias_correction", "adam_bias_correction", not arguments.adam_bias_correction),
        ("momentum", "momentum", arguments.momentum > 0),
    ):
        if wanted and option not in supported:
            found = getattr(arguments, name)
            raise UserError(
                f"{source or 'arguments'}: {name} is {'off' if found is False else found} with optimizer "
                f"{arguments.optim}, needed is {' or '.join(optimizers_with(option))}"
            )
    betas = (arguments.adam_beta1, arguments.adam_beta2)
    known: dict[str, Any] = {"betas": betas, "eps": arguments.adam_epsilon, "momentum": arguments.momentum}
    options = {name: value for name, value in known.items() if name in supported}
    # torch's own AdamW, which is one fused kernel, always corrects
    return options if arguments.adam_bias_correction else {**options, "bias_correction": False}


def check_together(arguments: TrainingArguments) -> None:
    """Refuse arguments that no training can be done with together; each alone was checked when it was read.

    Raises:
        UserError: the first such argument.
    """
    if arguments.max_steps < 1 and not arguments.num_train_epochs and not arguments.num_minibatches:
        raise UserError("--num_train_epochs is 0, needed is more than 0, or --max_steps")
    if arguments.fp16 and not torch.cuda.is_available():
        raise UserError("--fp16 needs CUDA, which was not found on this machine; use --bf16 or neither")
    ranges = ranges_of(arguments)
    for name in ("trace", *ranges):
        if getattr(arguments, name) and not arguments.output_dir:
            raise UserError(f"--{name} needs --output_dir, where what it keeps goes")
    for name in ranges:
        named_steps(arguments, name)
    if arguments.max_steps > 0 or arguments.num_minibatches:
        total_steps(arguments, steps_per_epoch=0)
    if not arguments.output_dir and not arguments.num_minibatches:
        raise UserError("--output_dir is missing; it may be left out in throughput runs (--num_minibatches) only")


def total_steps(arguments: TrainingArguments, steps_per_epoch: float) -> int:
    """Optimizer steps of the whole training.

    Raises:
        UserError: it does not have all the steps that are to be profiled or traced.
    """
    if arguments.num_minibatches:
        steps = -(-arguments.num_minibatches // arguments.gradient_accumulation_steps)
    elif arguments.max_steps > 0:
        steps = arguments.max_steps
    else:
        steps = max(1, round(arguments.num_train_epochs * steps_per_epoch))
    for name in ranges_of(arguments):
        if named_steps(arguments, name).stop - 1 > steps:
            raise UserError(f"--{name} is {getattr(arguments, name)}, but the training has {steps} steps")
    return steps


def ranges_of(arguments: JobArguments) -> list[str]:
    """Names of the arguments that name steps."""
    return [name for name, flag in flags_of(type(arguments)).items() if flag.kind is Kind.STEPS]


def check_at_most(arguments: JobArguments, name: str, highest: int, which: str) -> None:
    """Refuse a number above a bound that is known only now, such as the positions of a model.

    Args:
        arguments: of a job.
        name: of the argument, which has a lowest value of its own.
        highest: the bound.
        which: what it is, for people.

    Raises:
        UserError: it is higher.
    """
    value, bounds = getattr(arguments, name), flags_of(type(arguments))[name].allowed
    assert isinstance(bounds, Bounds)
    if value > highest:
        raise UserError(f"--{name} is {value}, needed is {bounds.at_least} to {highest}, {which}")


def named_steps(arguments: JobArguments, name: str) -> range:
    """The steps, counted from 1, that an argument of `ranges_of` names: one, as in "10", or several, as in "10-12".

    Raises:
        UserError: it is given and names none.
    """
    text = getattr(arguments, name)
    if text is None:
        return range(0)
    found = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", text)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= first <= last:
        raise UserError(f"--{name} is {text!r}, needed is a step or a range of them, counted from 1, as 10-12")
    return range(first, last + 1)


def traced_steps(arguments: JobArguments) -> range | int:
    """The steps to trace: those that ``--trace_steps`` names, or with ``--trace`` alone how many of the last ones.

    Raises:
        UserError: ``--trace_steps`` is given and names none.
    """
    return named_steps(arguments, "trace_steps") or (TRACED if arguments.trace else 0)


def learning_rate(step: int, total_steps: int, warmup_steps: int, peak: float, course: str) -> float:
    """Return the learning rate of ``step``, counted from 0.

    Args:
        step: optimizer steps taken before.
        total_steps: of the whole training; at its end all but "constant" reach 0.
        warmup_steps: steps over which the rate rises linearly from 0.
        peak: highest rate.
        course: "linear", "cosine" or "constant" after the warm-up. "linear_from_start" falls from the first step on,
            but for those of the warm-up, which end with a step down (google-research/bert, optimization.py).
    """
    if step < warmup_steps:
        return peak * step / warmup_steps
    if course == "linear_from_start":
        return peak * max(0.0, 1.0 - step / total_steps)
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if course == "linear":
        return peak * max(0.0, 1.0 - progress)
    if course == "cosine":
        return peak * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
    return peak


def warmup_steps(arguments: TrainingArguments, total_steps: int) -> int:
    """Steps over which the rate rises: those that were given, or a share of all."""
    return arguments.warmup_steps or round(arguments.warmup_ratio * total_steps)


@dataclass(frozen=True)
class LayerwiseDecay:
    """Scale learning rates by layer as ELECTRA's code does (Clark et al. 2020, google-research/electra).

    With decay d, the head has scale 1, encoder layer k of L (from 1) d^(L+2-k), and the embeddings d^(L+2): the last
    encoder layer has d^2, and no parameter d^1. Pooler and all else outside embeddings and encoder belong to the head;
    a word matrix that is tied to the head, to the embeddings.
    """

    decay: float
    num_layers: int

    def __call__(self, name: str, dimensions: int) -> ParameterGroup:
        """Return the group of the parameter that Hugging Face knows as ``name``."""
        depth = 0 if is_embedding(name) else self.num_layers + 2
        if part := encoder_part(name):
            depth = part[0] + 1
        return replace(by_dimensions(name, dimensions), lr_scale=self.decay ** (self.num_layers + 2 - depth))


def with_layerwise_decay(settings: EngineSettings, decay: float, config: PretrainedConfig) -> EngineSettings:
    """Give the parameters of each layer a learning rate of their own.

    Where encoder layers share their parameters, each group of them counts as one layer, however often it is passed
    through. With one group, the encoder has d^2 and the embeddings have d^3.

    Args:
        settings: of the engine.
        decay: `--layerwise_lr_decay`, more than 0 and at most 1, which changes nothing.
        config: the model.

    """
    if decay == 1.0:
        return settings
    num_layers = family_of(config).num_groups(vars(config))
    return replace(settings, parameter_group=LayerwiseDecay(decay, num_layers))
