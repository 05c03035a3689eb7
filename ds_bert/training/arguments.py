"""The arguments that every training job shares, under the names transformers' users know."""

import os
from dataclasses import dataclass
from pathlib import Path

from ds_bert.engine.optimizers import OPTIMIZERS
from ds_bert.schedules import SCHEDULES
from ds_bert.training.declaration import (
    BATCH,
    CONTENT,
    DATA,
    EVALUATION,
    FREE,
    LAUNCH,
    MODEL,
    OPTIMIZER,
    OUTPUT,
    PLACEMENT,
    PRECISION,
    REPORT,
    SAME,
    TOLD,
    Bounds,
    Kind,
    argument,
    at_least,
    redeclare,
)

TRACED = 10
"""Steps that ``--trace`` keeps."""


@dataclass
class JobArguments:
    """What every job is told: where its results go, and how its processes work together."""

    output_dir: str | None = argument(
        None,
        "Where checkpoints and logs go. Refused if not empty, but for --resume and --overwrite_output_dir.",
        OUTPUT,
        FREE,
        kind=Kind.FOLDER,
    )
    overwrite_output_dir: bool = argument(
        False, "Start anew: what output_dir held is moved aside, never deleted.", OUTPUT, FREE
    )
    resume: bool = argument(
        False, "Go on from the newest checkpoint in output_dir, or begin where there is none.", OUTPUT, FREE
    )

    stage_map: str | None = argument(
        None,
        "JSON file saying which layers run on which ranks, or a shipped map's name.",
        PLACEMENT,
        FREE,
        kind=Kind.NAMED,
    )
    num_stages: int = argument(
        1, "Without a stage map: cut the layers into this many stages of even work.", PLACEMENT, FREE, at_least(1)
    )
    transport: str = argument(
        "auto",
        "What carries tensors between ranks: auto is nccl where each rank has a GPU to itself, else gloo, through the "
        "host's memory, which lets ranks share a GPU but is slow.",
        PLACEMENT,
        FREE,
        ("auto", "nccl", "gloo"),
    )
    seed: int = argument(
        42,
        "Of first weights, order of examples, masks and dropout.",
        BATCH,
        SAME,
        Bounds(at_least=0, at_most=2**63 - 1),
    )

    trace: bool = argument(False, f"Trace the last {TRACED} steps, if trace_steps names no others.", REPORT, FREE)
    trace_steps: str | None = argument(
        None,
        "Steps to trace: output_dir/trace.json keeps when each micro-batch was computed, sent and waited "
        "for, schedule.png draws it.",
        REPORT,
        FREE,
        kind=Kind.STEPS,
    )
    recipe_defaults: str | None = argument(
        None,
        "Whose values to take where none is given: pipedream, epl, ca_mtl, albert, meta_adapters, or a JSON file.",
        OPTIMIZER,
        FREE,  # what it leads to is compared
        kind=Kind.NAMED,
        unset="the ones shown here",
    )
    start_timeout: int = argument(
        120, "Seconds that ranks wait at the start for one that gives no sign of life.", LAUNCH, FREE, at_least(1)
    )
    ddp_timeout: int = argument(
        1800, "Seconds that a rank waits for one that lives but does not come.", LAUNCH, FREE, at_least(1)
    )
    heartbeat_timeout: int = argument(
        30, "Seconds after which a rank that gives no sign of life ends the job.", LAUNCH, FREE, at_least(1)
    )
    local_rank: int = argument(-1, "Set by the deepspeed launcher.", LAUNCH, FREE, kind=Kind.OWN)
    extensions: list[str] = argument(
        [], "Python files that add families, heads, schedules or optimizers of your own.", LAUNCH, FREE, kind=Kind.DATA
    )

    @property
    def report_dir(self) -> Path | None:
        """Where speeds, traces, profiles and what explains a failure go."""
        return Path(self.output_dir) if self.output_dir else None


@dataclass
class TrainingArguments(JobArguments):
    """How to train: the model, lengths, batches, optimizer, precision, checkpoints."""

    replaces = {  # without a type, so that this is no flag
        "config_name": "model_name_or_path",
        "num_train_epochs": "max_steps",
        "warmup_ratio": "warmup_steps",
        "warmup_steps": "warmup_ratio",
    }
    """A flag that is given puts another one of a file aside, which would stand in its way."""

    config_name: str | None = argument(
        None, "Model to start from scratch: shipped name, config.json or its folder.", MODEL, CONTENT, kind=Kind.NAMED
    )
    config_overrides: str | None = argument(
        None, "Other values for keys of config_name: vocab_size=8192, with commas between several.", MODEL, CONTENT
    )
    model_name_or_path: str | None = argument(
        None, "Folder (Hugging Face's, a checkpoint or a run's) to start from.", MODEL, CONTENT, kind=Kind.NAMED
    )
    tokenizer_name: str | None = argument(None, "Tokenizer's folder or file.", MODEL, CONTENT, kind=Kind.NAMED)

    max_seq_length: int = argument(128, "Most tokens of a sequence; longer ones are cut.", BATCH, SAME, at_least(8))
    max_steps: int = argument(
        -1,
        "Optimizer steps to train for; overrides num_train_epochs.",
        BATCH,
        TOLD,
        Bounds(at_least=1, besides=-1, meaning="num_train_epochs"),
    )
    num_train_epochs: float = argument(3.0, "Passes over the training data.", BATCH, TOLD, at_least(0))
    num_minibatches: int = argument(
        0,
        "Throughput run: train for this many micro-batches per replica and print speeds. output_dir stays as it is, "
        "whatever else is given: the figures go to output_dir.throughput beside it, nothing is saved or resumed.",
        BATCH,
        FREE,
        at_least(0),
    )
    per_device_train_batch_size: int = argument(
        8,
        "Examples of a micro-batch, per replica.",
        BATCH,
        TOLD,  # dropout draws anew for every micro-batch
        at_least(1),
        deepspeed="train_micro_batch_size_per_gpu",
    )
    gradient_accumulation_steps: int = argument(
        1,
        "Micro-batches of an optimizer step, per replica.",
        BATCH,
        CONTENT,  # the global batch is compared
        at_least(1),
        deepspeed="gradient_accumulation_steps",
    )

    optim: str = argument("adamw", "Optimizer.", OPTIMIZER, SAME, OPTIMIZERS.keys(), deepspeed="optimizer.type")
    learning_rate: float = argument(
        1e-4, "Peak learning rate.", OPTIMIZER, TOLD, at_least(0), deepspeed="optimizer.params.lr"
    )
    lr_scheduler_type: str = argument(
        "linear",
        "Course of the learning rate after warm-up; linear_from_start falls as if there were none, as Google's.",
        OPTIMIZER,
        TOLD,
        ("linear", "cosine", "constant", "linear_from_start"),
    )
    warmup_steps: int = argument(
        0, "Optimizer steps over which the learning rate rises from 0.", OPTIMIZER, TOLD, at_least(0)
    )
    warmup_ratio: float = argument(
        0.0,
        "The same as a share of all steps; used where warmup_steps is 0.",
        OPTIMIZER,
        TOLD,
        Bounds(at_least=0, at_most=1),
    )
    weight_decay: float = argument(
        0.01,
        "Weight decay of matrices, decoupled but with --optim adam and sgd.",
        OPTIMIZER,
        TOLD,
        at_least(0),
        deepspeed="optimizer.params.weight_decay",
    )
    adam_beta1: float = argument(
        0.9,
        "Decay of the first moment.",
        OPTIMIZER,
        SAME,  # the moments that are there have decayed by it
        Bounds(at_least=0, below=1),
        deepspeed="optimizer.params.betas[0]",
    )
    adam_beta2: float = argument(
        0.999,
        "Decay of the second moment.",
        OPTIMIZER,
        SAME,
        Bounds(at_least=0, below=1),
        deepspeed="optimizer.params.betas[1]",
    )
    adam_epsilon: float = argument(
        1e-8, "Added to the root of the second moment.", OPTIMIZER, TOLD, at_least(0), deepspeed="optimizer.params.eps"
    )
    adam_bias_correction: bool = argument(
        True,
        "Correct the moments' bias to 0 in adamw and lamb; Google's code did not.",
        OPTIMIZER,
        SAME,
        deepspeed="optimizer.params.bias_correction",
    )
    momentum: float = argument(
        0.0, "Momentum of sgd.", OPTIMIZER, SAME, Bounds(at_least=0, at_most=1), deepspeed="optimizer.params.momentum"
    )
    layerwise_lr_decay: float = argument(
        1.0,
        "Learning rate of a layer, as a share of the next one's; 1 for one rate.",
        OPTIMIZER,
        SAME,
        Bounds(above=0, at_most=1),
    )
    max_grad_norm: float = argument(
        1.0,
        "Bound of the global gradient norm over all stages; 0 for none.",
        OPTIMIZER,
        TOLD,
        at_least(0),
        deepspeed="gradient_clipping",
    )
    max_skipped_steps: int = argument(
        0, "Steps to skip because loss or gradient is not finite, before the job ends.", OPTIMIZER, FREE, at_least(0)
    )

    schedule: str = argument(
        "1f1b",
        "Order of forwards and backwards; 2bw never drains, on two weight versions.",
        PLACEMENT,
        TOLD,
        SCHEDULES.keys(),
    )
    deepspeed_config: str | None = argument(
        None,
        'DeepSpeed JSON file, or a shipped one\'s name; "auto" in it is filled from these arguments.',
        PLACEMENT,
        CONTENT,
        kind=Kind.NAMED,
    )

    bf16: bool = argument(
        False, "Weights and activations in bf16; sums and updates in fp32.", PRECISION, TOLD, deepspeed="bf16.enabled"
    )
    fp16: bool = argument(
        False, "The same in fp16 with a dynamic loss scale; CUDA only.", PRECISION, TOLD, deepspeed="fp16.enabled"
    )
    loss_scale: float = argument(
        0.0,
        "Of fp16: a loss scale that stays; 0 for a dynamic one.",
        PRECISION,
        TOLD,
        Bounds(at_least=0.0, at_most=2.0**64),
        deepspeed="fp16.loss_scale",
    )
    initial_scale_power: float = argument(
        16.0,
        "Of fp16: the dynamic loss scale begins as 2 to the power of this.",
        PRECISION,
        FREE,  # the checkpoint has the scale that was found
        Bounds(at_least=0, at_most=64),
        deepspeed="fp16.initial_scale_power",
    )
    loss_scale_window: int = argument(
        1000,
        "Of fp16: steps without an overflow after which the loss scale doubles.",
        PRECISION,
        TOLD,
        Bounds(at_least=1, at_most=2**31),
        deepspeed="fp16.loss_scale_window",
    )
    min_loss_scale: float = argument(
        1.0,
        "Of fp16: the lowest dynamic loss scale.",
        PRECISION,
        TOLD,
        Bounds(at_least=2.0**-24, at_most=2.0**64),
        deepspeed="fp16.min_loss_scale",
    )
    tf32: bool = argument(
        True, "Without bf16 and fp16: matrix products on CUDA in TF32; false for full fp32.", PRECISION, SAME
    )
    gradient_checkpointing: bool = argument(
        False, "Keep only each layer's input, compute activations again.", PRECISION, FREE
    )

    save_steps: int = argument(
        500, "Steps between two checkpoints; 0 saves at the end only, -1 after every epoch.", OUTPUT, FREE, at_least(-1)
    )
    save_total_limit: int = argument(
        0, "Checkpoints to keep, the newest ones, besides the best; 0 keeps all.", OUTPUT, FREE, at_least(0)
    )
    save_async: bool = argument(False, "Write checkpoints while training goes on, from a copy in memory.", OUTPUT, FREE)

    per_device_eval_batch_size: int = argument(
        8, "Examples of a micro-batch in evaluation; need not be the training one.", EVALUATION, FREE, at_least(1)
    )
    eval_steps: int = argument(
        0,
        "Steps between two evaluations; 0 evaluates at the end only, -1 after every epoch.",
        EVALUATION,
        FREE,
        at_least(-1),
    )

    logging_steps: int = argument(
        10, "Steps between two entries of the log (or lines of progress); losses are means.", REPORT, FREE, at_least(1)
    )
    disable_tqdm: bool = argument(
        False, "Lines of progress instead of a bar, as where stderr is no terminal.", REPORT, FREE, kind=Kind.OWN
    )
    profile_steps: str | None = argument(
        None, "Steps to profile: output_dir/profile/, top operations.", REPORT, FREE, kind=Kind.STEPS
    )
    peak_tflops: float = argument(
        0.0, "A device's peak in this precision, dense; 0 to look it up by its name.", REPORT, FREE, at_least(0)
    )

    def global_batch(self, replicas: int) -> int:
        """Examples of an optimizer step."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps * replicas

    @property
    def measures_speed(self) -> bool:
        """Whether this is a throughput run, which trains only to see how fast it is."""
        return self.num_minibatches > 0

    @property
    def run_dir(self) -> Path | None:
        """The folder that the run is kept in; None where nothing is kept, as in throughput runs."""
        return Path(self.output_dir) if self.output_dir and not self.measures_speed else None

    @property
    def report_dir(self) -> Path | None:
        """As of every job: the run's folder; for a throughput run one beside it, of its own."""
        if self.output_dir and self.measures_speed:
            return Path(os.path.abspath(self.output_dir) + ".throughput")
        return self.run_dir


@dataclass
class PretrainedModelArguments(TrainingArguments):
    """How a job starts that reads a model's tokenizer with it, and may take its weights from the hub."""

    model_name_or_path: str | None = redeclare(
        TrainingArguments,
        "model_name_or_path",
        help="Folder (Hugging Face's, a checkpoint or a run's), or a hub name, to start from.",
    )
    tokenizer_name: str | None = redeclare(
        TrainingArguments,
        "tokenizer_name",
        help="Tokenizer's folder or file, with the model's vocabulary.",
        unset="the model's own",
    )
    hidden_dropout_prob: float | None = argument(
        None, "Dropout of hidden states.", MODEL, CONTENT, Bounds(at_least=0, below=1), unset="the model's"
    )
    attention_probs_dropout_prob: float | None = argument(
        None, "Dropout of attention.", MODEL, CONTENT, Bounds(at_least=0, below=1), unset="the model's"
    )
    classifier_dropout: float | None = argument(
        None, "Dropout before the head.", MODEL, CONTENT, Bounds(at_least=0, below=1), unset="the model's"
    )
    cache_dir: str | None = argument(
        None, "Where encoded data is kept between runs.", DATA, FREE, kind=Kind.FOLDER, unset="a folder of the user's"
    )
