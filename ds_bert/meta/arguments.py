"""The arguments of meta-training and of few-shot fine-tuning."""

from dataclasses import dataclass

from ds_bert.training.arguments import JobArguments, PretrainedModelArguments, TrainingArguments
from ds_bert.training.declaration import (
    ADAPTATION,
    CONTENT,
    DATA,
    FREE,
    MODEL,
    OPTIMIZER,
    SAME,
    Bounds,
    Kind,
    argument,
    at_least,
    flags_of,
    redeclare,
)

_POOLINGS = ("cls", "mean")


@dataclass
class MetaTrainArguments(PretrainedModelArguments):
    """Meta-train on small classification tasks: adapt to each, and learn to adapt."""

    max_seq_length: int = redeclare(TrainingArguments, "max_seq_length", help="Most tokens of a sequence.")
    task_train_files: list[str] = argument(
        [],
        "Self-supervised tasks: folders of `ds-bert tasks`, or the published data.json.",
        DATA,
        CONTENT,
        kind=Kind.DATA,
    )
    supervised_train_files: list[str] = argument(
        [], "Supervised tasks: the same, or folders of GLUE's tasks.", DATA, CONTENT, kind=Kind.DATA
    )
    data_dir: str | None = argument(
        None, "Where listed files are looked for.", DATA, CONTENT, kind=Kind.DATA, unset="beside their list"
    )
    num_supervised_shards: int = argument(
        0,
        "Of as many tasks in a row as there are processes, so many are supervised, and an epoch is a pass over the "
        "others; 0: sampled by weight.",
        ADAPTATION,
        SAME,
        at_least(0),
    )
    pretrain_task_weight: float | None = argument(
        None,
        "Share of self-supervised tasks.",
        ADAPTATION,
        SAME,
        Bounds(above=0, below=1),
        unset="their share of all examples",
    )
    data_sqrt_sampling: bool = argument(
        False,
        "Sample self-supervised files, too, by the root of their size, not by their size; supervised ones always are.",
        ADAPTATION,
        SAME,
    )
    train_batch_size: int = argument(
        90, "Examples of a task, where the file does not say.", ADAPTATION, SAME, at_least(1)
    )
    meta_batchsz: int = argument(80, "How many of them are the support set.", ADAPTATION, SAME, at_least(2))

    inner_epochs: int = argument(1, "Times that a support set is gone through.", ADAPTATION, SAME, at_least(1))
    num_batches: int = argument(
        8, "Batches of a support set; the first makes the label embeddings.", ADAPTATION, SAME, at_least(2)
    )
    train_lr: float = argument(
        1e-5, "Step size of the inner loop before it is learned.", ADAPTATION, SAME, Bounds(above=0, at_most=1)
    )
    inner_max_grad_norm: float = argument(
        1.0, "Bound of an inner gradient's norm over all stages; 0 for none.", ADAPTATION, SAME, at_least(0)
    )
    average_query_every: int = argument(
        3, "Inner steps between two query losses; 0: first and last only.", ADAPTATION, SAME, at_least(0)
    )
    stop_grad: bool = argument(
        True, "First order, in constant memory; false differentiates through the inner loop.", ADAPTATION, SAME
    )
    warp_layers: bool = argument(
        False, "Meta-train feed-forward blocks and head, but do not adapt them.", ADAPTATION, SAME
    )
    min_layer_with_grad: int = argument(
        0, "Do not adapt encoder layers below this one, nor, above 0, embeddings.", ADAPTATION, SAME, at_least(0)
    )
    euclidean: bool = argument(
        False, "Score a class by the negative squared distance, not by the product.", ADAPTATION, SAME
    )
    head_hidden_size: int = argument(
        384, "Width inside the head and the generator of label embeddings.", MODEL, CONTENT, at_least(1)
    )
    encoding_size: int = argument(256, "Width of an example's encoding.", MODEL, CONTENT, at_least(1))
    pooling: str = argument(
        "cls",
        "What the head sees of a sequence: [CLS] after the pooler, or the mean of all tokens.",
        MODEL,
        CONTENT,
        _POOLINGS,
    )
    parameter_efficient: bool = argument(False, "Adapt adapters, norms and label embeddings only.", ADAPTATION, SAME)
    adapter_hidden_size: int = argument(16, "Width of adapters.", MODEL, CONTENT, at_least(1))
    global_adapters: bool = argument(False, "Meta-train an adapter before each task's own.", MODEL, CONTENT)
    tasks_in_flight: int = argument(
        1, "Tasks of a replica that take turns, so that stages do not wait.", ADAPTATION, FREE, at_least(1)
    )

    per_device_train_batch_size: int = redeclare(
        TrainingArguments, "per_device_train_batch_size", 1, "Always 1: what is counted here are tasks."
    )
    gradient_accumulation_steps: int = redeclare(
        TrainingArguments, "gradient_accumulation_steps", help="Tasks of an outer step, per replica."
    )
    max_steps: int = redeclare(
        TrainingArguments, "max_steps", help="Outer steps to train for; overrides num_train_epochs."
    )
    num_train_epochs: float = redeclare(TrainingArguments, "num_train_epochs", 1.0, "Passes over the tasks.")
    learning_rate: float = redeclare(TrainingArguments, "learning_rate", 1e-5, "Peak learning rate of the outer loop.")
    warmup_ratio: float = redeclare(TrainingArguments, "warmup_ratio", 0.1)
    adam_epsilon: float = redeclare(TrainingArguments, "adam_epsilon", 1e-6)
    save_steps: int = redeclare(
        TrainingArguments, "save_steps", 5000, "Steps between two checkpoints; 0 saves at the end only.", at_least(0)
    )


LEARNER = tuple(
    name for name, flag in flags_of(MetaTrainArguments).items() if flag.subject is ADAPTATION and flag.resume is SAME
)
"""The flags that a course of meta-training follows from, besides every job's; a model's configuration keeps them."""


@dataclass
class FewShotArguments(JobArguments):
    """Fine-tune a meta-trained model on a few examples of each class, and measure it."""

    checkpoint: str | None = argument(
        None,
        "Folder of a meta-trained checkpoint or its run, or of any model for the baselines.",
        MODEL,
        SAME,
        kind=Kind.NAMED,
    )
    output_dir: str | None = redeclare(
        JobArguments,
        "output_dir",
        help="Where results go. Refused if not empty, but for --resume and --overwrite_output_dir.",
    )
    resume: bool = redeclare(
        JobArguments, "resume", help="Go on: splits whose results are in output_dir are not run again."
    )
    support_file: str | None = argument(
        None, "Encoded examples to learn from: TFRecord, or JSON of the same keys.", DATA, SAME, kind=Kind.DATA
    )
    test_file: str | None = argument(None, "Examples to be judged by, in the same form.", DATA, SAME, kind=Kind.DATA)
    num_labels: int = argument(0, "Classes; 0: those of the support file.", DATA, FREE, at_least(0))
    task_dir: str | None = argument(
        None,
        "In place of the files: folder of a LEOPARD task, JSON or TFRecord, all its splits.",
        DATA,
        SAME,
        kind=Kind.DATA,
    )
    k: list[int] = argument([4], "Examples of each class; several with task_dir.", DATA, FREE, at_least(1))
    splits: int = argument(10, "Splits of task_dir to use, the first ones.", DATA, FREE, at_least(1))
    max_test_samples: int = argument(
        0,
        "Judge by so many test examples only: the first of test_file, or a fixed draw from task_dir's; 0 uses all.",
        DATA,
        SAME,
        at_least(0),
    )
    max_seq_length: int = redeclare(TrainingArguments, "max_seq_length")
    pooling: str = argument(
        "cls",
        "What a plain model's classifier sees: [CLS] after the pooler, or the mean of all tokens.",
        MODEL,
        SAME,
        _POOLINGS,
    )

    methods: list[str] = argument(
        ["meta"], "What to compare: meta, fine-tuning, head-only, prototypes.", ADAPTATION, FREE
    )
    epochs: int = argument(100, "Most passes over the support set.", ADAPTATION, SAME, at_least(1))
    train_batch_size: int = argument(
        16, "Examples of a step; a smaller support set is one batch.", ADAPTATION, SAME, at_least(1)
    )
    scale_by_classes: bool = argument(
        False, "Take epochs and train_batch_size times the number of classes.", ADAPTATION, SAME
    )
    loss_threshold: float = argument(
        1e-3, "End when the mean loss of an epoch is below; 0 never does.", ADAPTATION, SAME, at_least(0)
    )
    max_steps: int = argument(
        0, "Most steps, whatever the epochs say; 0 for no such bound.", ADAPTATION, SAME, at_least(0)
    )
    step_size_scale: float = argument(1.0, "Multiplies the learned step sizes (meta).", ADAPTATION, SAME, at_least(0))
    learning_rate: float = argument(5e-5, "Peak learning rate of fine-tuning; AdamW.", OPTIMIZER, SAME, at_least(0))
    head_learning_rate: float = argument(1e-2, "The same of head-only.", OPTIMIZER, SAME, at_least(0))
    warmup_ratio: float = argument(
        0.1,
        "Share of the steps over which rates rise.",
        OPTIMIZER,
        SAME,
        Bounds(at_least=0, at_most=1),
    )
    lr_scheduler_type: str = argument(
        "linear",
        "Course of the rates after warm-up.",
        OPTIMIZER,
        SAME,
        flags_of(TrainingArguments)["lr_scheduler_type"].choices,
    )
    max_grad_norm: float = argument(1.0, "Bound of the gradient's norm; 0 for none.", OPTIMIZER, SAME, at_least(0))
    tasks_in_flight: int = argument(
        1, "Splits that take turns on a replica, so that stages do not wait.", ADAPTATION, FREE, at_least(1)
    )
    per_device_eval_batch_size: int = redeclare(
        TrainingArguments, "per_device_eval_batch_size", 64, "Examples of a batch of the test set."
    )
    seed: int = redeclare(JobArguments, "seed", help="Of order and dropout.")
