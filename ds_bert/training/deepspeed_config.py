"""DeepSpeed's JSON and the command line as one set of settings: "auto" is filled in, contradictions are refused."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TypeVar

from ds_bert.engine.optimizers import OPTIMIZERS, optimizers_with
from ds_bert.engine.settings import EngineSettings, LossScaling, Precision
from ds_bert.errors import UserError
from ds_bert.files import find_config, read_json
from ds_bert.training.arguments import TrainingArguments
from ds_bert.training.checks import traced_steps

Arguments = TypeVar("Arguments", bound=TrainingArguments)

# Where the file and the command line say the same thing: {place in the file: name of the argument}
SHARED = {
    "train_micro_batch_size_per_gpu": "per_device_train_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "gradient_clipping": "max_grad_norm",
    "bf16.enabled": "bf16",
    "fp16.enabled": "fp16",
    "optimizer.params.lr": "learning_rate",
    "optimizer.params.weight_decay": "weight_decay",
    "optimizer.params.eps": "adam_epsilon",
    "optimizer.params.bias_correction": "adam_bias_correction",
}
# Numbers that only the file has: what they are where it has them not, the lowest and the highest.
_NUMBERS = {
    "optimizer.params.momentum": (0.0, 0.0, 1.0),
    "fp16.loss_scale": (0.0, 0.0, 2.0**64),
    "fp16.initial_scale_power": (16.0, 0.0, 64.0),
    "fp16.loss_scale_window": (1000.0, 1.0, 2.0**31),
    "fp16.min_loss_scale": (1.0, 2.0**-24, 2.0**64),
}
_KNOWN = {
    *SHARED,
    *_NUMBERS,
    "train_batch_size",
    "zero_optimization.stage",
    "optimizer.type",
    "optimizer.params.betas",
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
    _refuse_unsupported(config, source)
    if "optimizer.type" in config:
        config_optimizer = _optimizer_type(config, source)
        if "optim" in given and arguments.optim != config_optimizer:
            raise UserError(f"{source}: optimizer.type is {config['optimizer.type']!r}, but --optim {arguments.optim}")
        arguments = replace(arguments, optim=config_optimizer)
    for key, name in SHARED.items():
        arguments = _unite(arguments, given, key, name, config.get(key, "auto"), source)
    arguments = _unite_betas(arguments, given, config.get("optimizer.params.betas", "auto"), source)
    _check_global_batch(arguments, config, num_replicas, source)
    return arguments, _settings(arguments, config, source)


def _leaves(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Name every value by its path, as in "optimizer.params.lr"."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _refuse_unsupported(config: dict[str, Any], source: str) -> None:
    for key, value in config.items():
        section, _, rest = key.partition(".")
        if key in _KNOWN or key in _IGNORED or (section == "zero_optimization" and rest in _ZERO_TUNING):
            continue
        if section == "scheduler":
            raise UserError(f"{source}: {key}: set --lr_scheduler_type, --warmup_steps or --warmup_ratio instead")
        known = ", ".join(sorted(_KNOWN | _IGNORED))
        raise UserError(f"{source}: {key} = {value!r} is not supported; known are {known}")
    stage = config.get("zero_optimization.stage", 0)
    if stage not in (0, 1) or isinstance(stage, bool):
        raise UserError(
            f"{source}: zero_optimization.stage is {stage!r}, needed is 0 or 1: stages 2 and 3 share out the gradients "
            "and weights that a pipeline adds up and uses again for every micro-batch, which costs more traffic than "
            "the memory is worth"
        )


def _optimizer_type(config: dict[str, Any], source: str) -> str:
    kind = str(config["optimizer.type"]).lower()
    if kind == "adam" and config.get("optimizer.params.adam_w_mode", True):
        return "adamw"  # as DeepSpeed reads it
    names = {entry.deepspeed_name: name for name, entry in OPTIMIZERS.items()}
    found = next((name for theirs, name in names.items() if theirs.lower() == kind), None)
    if found is None:
        *most, last = names
        needed = f"{', '.join(most)} or {last}"
        raise UserError(f"{source}: optimizer.type is {config['optimizer.type']!r}, needed is {needed}")
    return found


def _unite(arguments: Arguments, given: set[str], key: str, name: str, value: Any, source: str) -> Arguments:
    if value == "auto":
        return arguments
    current = getattr(arguments, name)
    kind = type(current)
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise UserError(f'{source}: {key} is {value!r}, needed is a value of type {kind.__name__} or "auto"')
    if name in given and value != current:
        raise UserError(f'{source}: {key} is {value!r}, but --{name} is {current!r}; make them equal or write "auto"')
    return replace(arguments, **{name: kind(value)})


def _unite_betas(arguments: Arguments, given: set[str], betas: Any, source: str) -> Arguments:
    if betas == "auto":
        return arguments
    if not isinstance(betas, list) or len(betas) != 2:
        raise UserError(f'{source}: optimizer.params.betas is {betas!r}, needed is a list of two numbers or "auto"')
    for place, name in enumerate(("adam_beta1", "adam_beta2")):
        arguments = _unite(arguments, given, f"optimizer.params.betas[{place}]", name, betas[place], source)
    return arguments


def _check_global_batch(arguments: TrainingArguments, config: dict[str, Any], num_replicas: int, source: str) -> None:
    size, steps = arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps
    wanted = config.get("train_batch_size", "auto")
    if wanted not in ("auto", size * steps * num_replicas):
        raise UserError(
            f"{source}: train_batch_size is {wanted!r}, but {size} examples x {steps} micro-batches x {num_replicas} "
            f'replicas are {size * steps * num_replicas}; make them equal or write "auto"'
        )


def _number(config: dict[str, Any], key: str, source: str) -> float:
    """A number that only the file has; "auto" is the default."""
    value, (default, lowest, highest) = config.get(key, "auto"), _NUMBERS[key]
    if value == "auto":
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not lowest <= value <= highest:
        raise UserError(f'{source}: {key} is {value!r}, needed is a number from {lowest:g} to {highest:g} or "auto"')
    return float(value)


def _settings(arguments: TrainingArguments, config: dict[str, Any], source: str) -> EngineSettings:
    if arguments.bf16 and arguments.fp16:
        raise UserError(f"{source or 'arguments'}: bf16 and fp16 are both on, needed is at most one")
    precision: Precision = "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "fp32"
    numbers = {key: _number(config, key, source) for key in _NUMBERS}
    _refuse_options_of_others(arguments.optim, config, source)
    return EngineSettings(
        schedule=arguments.schedule,
        optimizer=arguments.optim,
        optimizer_options=_optimizer_options(arguments, numbers["optimizer.params.momentum"], source),
        weight_decay=arguments.weight_decay,
        max_grad_norm=arguments.max_grad_norm,
        zero_stage=config.get("zero_optimization.stage", 0),
        precision=precision,
        tf32=arguments.tf32,
        loss_scaling=LossScaling(
            fixed=numbers["fp16.loss_scale"],
            initial=2.0 ** numbers["fp16.initial_scale_power"],
            window=int(numbers["fp16.loss_scale_window"]),
            minimum=numbers["fp16.min_loss_scale"],
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


def _optimizer_options(arguments: TrainingArguments, momentum: float, source: str) -> dict[str, Any]:
    if not arguments.adam_bias_correction and "bias_correction" not in OPTIMIZERS[arguments.optim].options:
        raise UserError(
            f"{source or 'arguments'}: adam_bias_correction is off with optimizer {arguments.optim}, "
            f"needed is {' or '.join(optimizers_with('bias_correction'))}"
        )
    betas = (arguments.adam_beta1, arguments.adam_beta2)
    known: dict[str, Any] = {"betas": betas, "eps": arguments.adam_epsilon, "momentum": momentum}
    options = {name: value for name, value in known.items() if name in OPTIMIZERS[arguments.optim].options}
    # torch's own AdamW, which is one fused kernel, always corrects
    return options if arguments.adam_bias_correction else {**options, "bias_correction": False}
