"""The arguments of meta-training and of few-shot fine-tuning."""

from dataclasses import dataclass, field

from ds_bert.training.arguments import (
    EXTENSIONS,
    TrainingArguments,
    argument,
    start_timeout_argument,
    trace_argument,
    trace_steps_argument,
    transport_argument,
)

_POOLINGS = ("cls", "mean")


@dataclass
class MetaTrainArguments(TrainingArguments):
    """Meta-train on small classification tasks: adapt to each, and learn to adapt."""

    model_name_or_path: str | None = argument(None, "Folder (Hugging Face's, a checkpoint or a run's) to start from.")
    config_name: str | None = argument(None, "Model to start from scratch: shipped name, config.json or its folder.")
    tokenizer_name: str | None = argument(None, "Tokenizer's folder or file; default: the model's own.")
    hidden_dropout_prob: float | None = argument(None, "Overrides the model's dropout of hidden states.")
    attention_probs_dropout_prob: float | None = argument(None, "Overrides the model's dropout of attention.")
    classifier_dropout: float | None = argument(None, "Overrides the model's dropout before the head.")
    max_seq_length: int = argument(128, "Most tokens of a sequence.")

    task_train_files: list[str] = field(
        default_factory=list,
        metadata={"help": "Self-supervised tasks: folders of `ds-bert tasks`, or the published data.json."},
    )
    supervised_train_files: list[str] = field(
        default_factory=list, metadata={"help": "Supervised tasks: the same, or folders of GLUE's tasks."}
    )
    data_dir: str | None = argument(None, "Where listed files are looked for; default: beside their list.")
    cache_dir: str | None = argument(None, "Where encoded data is kept between runs; default: a folder of the user's.")
    num_supervised_shards: int = argument(
        0, "Of as many tasks in a row as there are processes, so many are supervised; 0: sampled by weight."
    )
    pretrain_task_weight: float | None = argument(None, "Share of self-supervised tasks; none: as their sizes say.")
    data_sqrt_sampling: bool = argument(True, "Sample a file by the root of its size, not by its size.")
    train_batch_size: int = argument(90, "Examples of a task, where the file does not say.")
    meta_batchsz: int = argument(80, "How many of them are the support set.")

    inner_epochs: int = argument(1, "Times that a support set is gone through.")
    num_batches: int = argument(8, "Batches of a support set; the first makes the label embeddings.")
    train_lr: float = argument(1e-5, "Step size of the inner loop before it is learned.")
    inner_max_grad_norm: float = argument(1.0, "Bound of an inner gradient's norm over all stages; 0 for none.")
    average_query_every: int = argument(3, "Inner steps between two query losses; 0: first and last only.")
    stop_grad: bool = argument(True, "First order, in constant memory; false differentiates through the inner loop.")
    warp_layers: bool = argument(False, "Meta-train feed-forward blocks, but do not adapt them.")
    min_layer_with_grad: int = argument(0, "Do not adapt encoder layers below this one, nor, above 0, embeddings.")
    euclidean: bool = argument(False, "Score a class by the negative squared distance, not by the product.")
    head_hidden_size: int = argument(384, "Width inside the head and the generator of label embeddings.")
    encoding_size: int = argument(256, "Width of an example's encoding.")
    pooling: str = argument(
        "cls", "What the head sees of a sequence: [CLS] after the pooler, or the mean of all tokens.", choices=_POOLINGS
    )
    parameter_efficient: bool = argument(False, "Adapt adapters, norms and label embeddings only.")
    adapter_hidden_size: int = argument(16, "Width of adapters.")
    global_adapters: bool = argument(False, "Meta-train an adapter before each task's own.")
    tasks_in_flight: int = argument(1, "Tasks of a replica that take turns, so that stages do not wait.")

    per_device_train_batch_size: int = argument(1, "Always 1: what is counted here are tasks.")
    gradient_accumulation_steps: int = argument(1, "Tasks of an outer step, per replica.")
    max_steps: int = argument(-1, "Outer steps to train for; overrides num_train_epochs.")
    num_train_epochs: float = argument(1.0, "Passes over the tasks.")
    learning_rate: float = argument(1e-5, "Peak learning rate of the outer loop.")
    warmup_ratio: float = argument(0.1, "Share of the steps over which it rises.")
    adam_epsilon: float = argument(1e-6, "Added to the root of the second moment.")
    save_steps: int = argument(5000, "Steps between two checkpoints; 0 saves at the end only.")


@dataclass
class FewShotArguments:
    """Fine-tune a meta-trained model on a few examples of each class, and measure it."""

    checkpoint: str | None = argument(
        None, "Folder of a meta-trained checkpoint or its run, or of any model for the baselines."
    )
    output_dir: str | None = argument(None, "Where results go; refused if not empty.")
    extensions: list[str] = field(default_factory=list, metadata=EXTENSIONS)
    support_file: str | None = argument(None, "Examples to learn from: TFRecord, or JSON of LEOPARD.")
    test_file: str | None = argument(None, "Examples to be judged by, in the same form.")
    num_labels: int = argument(0, "Classes; 0: those of the support file.")
    task_dir: str | None = argument(None, "In place of the files: folder of a LEOPARD task, all its splits.")
    k: list[int] = field(
        default_factory=lambda: [4], metadata={"help": "Examples of each class; several with task_dir."}
    )
    splits: int = argument(10, "Splits of task_dir to use, the first ones.")
    max_test_samples: int = argument(
        0, "Judge by so many test examples only: the first of test_file, or a fixed draw from task_dir's; 0 uses all."
    )
    max_seq_length: int = argument(128, "Most tokens of a sequence; longer ones are cut.")
    pooling: str = argument(
        "cls",
        "What a plain model's classifier sees: [CLS] after the pooler, or the mean of all tokens.",
        choices=_POOLINGS,
    )

    methods: list[str] = field(
        default_factory=lambda: ["meta"],
        metadata={"help": "What to compare: meta, fine-tuning, head-only, prototypes."},
    )
    epochs: int = argument(100, "Most passes over the support set.")
    train_batch_size: int = argument(16, "Examples of a step; a smaller support set is one batch.")
    per_device_eval_batch_size: int = argument(64, "Examples of a batch of the test set.")
    loss_threshold: float = argument(1e-3, "End when the mean loss of an epoch is below; 0 never does.")
    max_steps: int = argument(0, "Most steps, whatever the epochs say; 0 for no such bound.")
    step_size_scale: float = argument(1.0, "Multiplies the learned step sizes (meta).")
    learning_rate: float = argument(5e-5, "Peak learning rate of fine-tuning; AdamW.")
    head_learning_rate: float = argument(1e-2, "The same of head-only.")
    warmup_ratio: float = argument(0.1, "Share of the steps over which rates rise; then they fall to 0.")
    max_grad_norm: float = argument(1.0, "Bound of the gradient's norm; 0 for none.")

    stage_map: str | None = argument(None, "JSON file saying which layers run on which ranks, or a shipped map's name.")
    num_stages: int = argument(1, "Without a stage map: cut the layers into this many stages of even work.")
    transport: str = transport_argument()
    tasks_in_flight: int = argument(1, "Splits that take turns on a replica, so that stages do not wait.")
    seed: int = argument(42, "Of order and dropout.")
    overwrite_output_dir: bool = argument(False, "Start anew: what output_dir held is moved aside, never deleted.")
    resume: bool = argument(False, "Go on: splits whose results are in output_dir are not run again.")
    start_timeout: int = start_timeout_argument()
    trace: bool = trace_argument()
    trace_steps: str | None = trace_steps_argument()
    ddp_timeout: int = argument(1800, "Seconds that a rank waits for one that lives but does not come.")
    heartbeat_timeout: int = argument(30, "Seconds after which a rank that gives no sign of life ends the job.")
    local_rank: int = argument(-1, "Set by the deepspeed launcher.")
