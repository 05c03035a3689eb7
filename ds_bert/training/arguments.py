"""The arguments that every training job shares, under the names transformers' users know."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ds_bert.engine.optimizers import OPTIMIZERS
from ds_bert.modeling.families import FAMILIES
from ds_bert.schedules import SCHEDULES


def argument(default: Any, text: str, **metadata: Any) -> Any:
    """Declare a dataclass field that is a command-line argument with a help text."""
    return field(default=default, metadata={"help": text, **metadata})


def _of_families(name: str) -> str:
    """Say which families were pre-trained with another value of an argument than its default."""
    said = {family.class_prefix: family.pretraining.get(name) for family in FAMILIES.values()}
    return "".join(f" Default for {title}: {str(value).lower()}." for title, value in said.items() if value is not None)


def transport_argument() -> Any:
    """Declare the argument that every job with stages has."""
    return argument(
        "auto",
        "What carries tensors between ranks: auto is nccl where each rank has a GPU to itself, else gloo, through the "
        "host's memory, which lets ranks share a GPU but is slow.",
        choices=["auto", "nccl", "gloo"],
    )


def start_timeout_argument() -> Any:
    """Declare how long a job waits for processes that do not come."""
    return argument(120, "Seconds that ranks wait at the start for one that gives no sign of life.")


TRACED = 10
"""Steps that ``--trace`` keeps."""


def trace_argument() -> Any:
    """Declare the argument that every job with stages has."""
    return argument(False, f"Trace the last {TRACED} steps, if trace_steps names no others.")


def trace_steps_argument() -> Any:
    """Declare the argument that every job with stages has."""
    return argument(
        None,
        "Steps to trace, as 10-20: output_dir/trace.json keeps when each micro-batch was computed, sent and waited "
        "for, schedule.png draws it.",
    )


EXTENSIONS = {"help": "Python files that add families, heads, schedules or optimizers of your own."}


@dataclass
class TrainingArguments:
    """How to train: lengths, batches, optimizer, placement, output."""

    output_dir: str | None = argument(None, "Where checkpoints and logs go. Refused if not empty, see the next two.")
    overwrite_output_dir: bool = argument(False, "Start anew: what output_dir held is moved aside, never deleted.")
    resume: bool = argument(False, "Go on from the newest checkpoint in output_dir, or begin where there is none.")

    extensions: list[str] = field(default_factory=list, metadata=EXTENSIONS)
    stage_map: str | None = argument(None, "JSON file saying which layers run on which ranks, or a shipped map's name.")
    num_stages: int = argument(1, "Without a stage map: cut the layers into this many stages of even work.")
    schedule: str = argument(
        "1f1b",
        "Order of forwards and backwards; 2bw never drains, on two weight versions.",
        choices=SCHEDULES.keys(),
    )
    transport: str = transport_argument()
    deepspeed_config: str | None = argument(None, 'DeepSpeed JSON file; "auto" in it is filled from these arguments.')

    max_steps: int = argument(-1, "Optimizer steps to train for; overrides num_train_epochs.")
    num_train_epochs: float = argument(3.0, "Passes over the training data.")
    num_minibatches: int = argument(
        0,
        "Throughput run: train for this many micro-batches per replica and print speeds. output_dir stays as it is, "
        "whatever else is given: the figures go to output_dir.throughput beside it, nothing is saved or resumed.",
    )
    per_device_train_batch_size: int = argument(8, "Examples of a micro-batch, per replica.")
    per_device_eval_batch_size: int = argument(8, "The same for evaluation; need not be the training one.")
    gradient_accumulation_steps: int = argument(1, "Micro-batches of an optimizer step, per replica.")

    optim: str = argument("adamw", "Optimizer.", choices=OPTIMIZERS.keys())
    learning_rate: float = argument(1e-4, "Peak learning rate.")
    lr_scheduler_type: str = argument(
        "linear", "Course of the learning rate after warm-up.", choices=["linear", "cosine", "constant"]
    )
    warmup_steps: int = argument(0, "Optimizer steps over which the learning rate rises from 0.")
    warmup_ratio: float = argument(0.0, "The same as a share of all steps; used where warmup_steps is 0.")
    weight_decay: float = argument(0.01, "Weight decay of matrices, decoupled but with --optim adam and sgd.")
    adam_beta1: float = argument(0.9, "Decay of the first moment.")
    adam_beta2: float = argument(0.999, "Decay of the second moment.")
    adam_epsilon: float = argument(1e-8, "Added to the root of the second moment.")
    adam_bias_correction: bool = argument(
        True, "Correct the moments' bias to 0 in adamw and lamb; Google's code did not."
    )
    layerwise_lr_decay: float = argument(1.0, "Learning rate of a layer, as a share of the next one's; 1 for one rate.")
    max_grad_norm: float = argument(1.0, "Bound of the global gradient norm over all stages; 0 for none.")

    max_skipped_steps: int = argument(0, "Steps to skip because loss or gradient is not finite, before the job ends.")

    bf16: bool = argument(False, "Weights and activations in bf16; sums and updates in fp32.")
    fp16: bool = argument(False, "The same in fp16 with a dynamic loss scale; CUDA only.")
    tf32: bool = argument(True, "Without bf16 and fp16: matrix products on CUDA in TF32; false for full fp32.")
    gradient_checkpointing: bool = argument(False, "Keep only each layer's input, compute activations again.")
    seed: int = argument(42, "Of first weights, order of examples, masks and dropout.")

    logging_steps: int = argument(10, "Steps between two entries of the log (or lines of progress); losses are means.")
    eval_steps: int = argument(0, "Steps between two evaluations; 0 evaluates at the end only, -1 after every epoch.")
    save_steps: int = argument(500, "Steps between two checkpoints; 0 saves at the end only, -1 after every epoch.")
    save_total_limit: int = argument(0, "Checkpoints to keep, the newest ones, besides the best; 0 keeps all.")
    save_async: bool = argument(False, "Write checkpoints while training goes on, from a copy in memory.")
    disable_tqdm: bool = argument(False, "Lines of progress instead of a bar, as where stderr is no terminal.")
    trace: bool = trace_argument()
    trace_steps: str | None = trace_steps_argument()
    profile_steps: str | None = argument(None, "Steps to profile, as 10-12: output_dir/profile/, top operations.")
    peak_tflops: float = argument(0.0, "A device's peak in this precision, dense; 0 to look it up by its name.")
    start_timeout: int = start_timeout_argument()
    ddp_timeout: int = argument(1800, "Seconds that a rank waits for one that lives but does not come.")
    heartbeat_timeout: int = argument(30, "Seconds after which a rank that gives no sign of life ends the job.")
    local_rank: int = argument(-1, "Set by the deepspeed launcher.")

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
        """Where speeds, traces and profiles go: the run's folder; for a throughput run one beside it, of its own."""
        if self.output_dir and self.measures_speed:
            return Path(os.path.abspath(self.output_dir) + ".throughput")
        return self.run_dir


@dataclass
class PretrainArguments(TrainingArguments):
    """What to pre-train on what."""

    train_path: str | None = argument(None, "Data folder written by `ds-bert prepare`.")
    eval_path: str | None = argument(None, "Held-out data folder; default: `validation` in train_path if there.")
    config_name: str | None = argument(None, "Model to start from scratch: shipped name, config.json or its folder.")
    model_name_or_path: str | None = argument(None, "Folder (Hugging Face's, a checkpoint or a run's) to start from.")
    tokenizer_name: str | None = argument(None, "Tokenizer that the data must have been written with; default: any.")
    max_seq_length: int = argument(128, "Tokens of a sequence.")
    mlm_probability: float = argument(0.15, "Share of tokens to predict.")
    max_predictions_per_seq: int = argument(20, "Most tokens to predict in a sequence.")
    whole_word_mask: bool = argument(False, "Mask whole words.")
    ngram_mask: int = argument(
        0,
        "Mask runs of 1 to this many whole words, shorter ones more often; 0 or 1 for none."
        + _of_families("ngram_mask"),
    )
    sentence_order: bool = argument(
        False,
        "Predict whether A and B were swapped, instead of whether B follows A." + _of_families("sentence_order"),
    )
