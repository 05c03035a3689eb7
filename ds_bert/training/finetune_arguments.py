"""The arguments of the fine-tuning jobs."""

from dataclasses import dataclass, field

from ds_bert.training.arguments import TrainingArguments, argument


@dataclass
class FinetuneArguments(TrainingArguments):
    """What every fine-tuning job is told: the model, what to do, and how to choose among checkpoints."""

    model_name_or_path: str | None = argument(
        None, "Folder (Hugging Face's, a checkpoint or a run's), or a hub name, to start from."
    )
    config_name: str | None = argument(None, "Model to start from scratch: shipped name, config.json or its folder.")
    tokenizer_name: str | None = argument(
        None, "Tokenizer's folder or file, with the model's vocabulary; default: the model's own."
    )
    drop_classifier: bool = argument(False, "Begin with a fresh head, even if model_name_or_path has a fitting one.")
    hidden_dropout_prob: float | None = argument(None, "Overrides the model's dropout of hidden states.")
    attention_probs_dropout_prob: float | None = argument(None, "Overrides the model's dropout of attention.")
    classifier_dropout: float | None = argument(None, "Overrides the model's dropout before the head.")

    do_train: bool = argument(False, "Train.")
    do_eval: bool = argument(False, "Measure on the validation data, at the end and as --eval_steps says.")
    do_predict: bool = argument(False, "Write predictions of the test data.")
    max_seq_length: int = argument(128, "Most tokens of a sequence; longer ones are cut.")
    max_train_samples: int = argument(0, "Use the first so many training examples only; 0 uses all.")
    max_eval_samples: int = argument(0, "The same for validation.")
    max_predict_samples: int = argument(0, "The same for test data.")
    cache_dir: str | None = argument(None, "Where encoded data is kept between runs; default: a folder of the user's.")
    overwrite_cache: bool = argument(False, "Encode the data anew.")
    length_window: int = argument(4, "Steps whose examples are sorted by length together, to compute less padding.")

    learning_rate: float = argument(5e-5, "Peak learning rate.")
    eval_steps: int = argument(0, "Steps between two evaluations; 0 evaluates at the end only, -1 after every epoch.")
    save_steps: int = argument(0, "Steps between two checkpoints; 0 saves at the end only, -1 after every epoch.")
    metric_for_best_model: str | None = argument(None, "Measure that chooses the best checkpoint; default: the task's.")
    early_stopping_patience: int = argument(0, "End after so many evaluations without a better one; 0 never does.")
    seeds: list[int] = field(
        default_factory=list,
        metadata={"help": "Train once with each seed, in output_dir/seed-N, and report mean and deviation."},
    )


@dataclass
class GlueArguments(FinetuneArguments):
    """Fine-tune on a GLUE task, or on sentences or sentence pairs of one's own."""

    task_name: str | None = argument(
        None, "CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE, WNLI or AX; none for own files."
    )
    data_dir: str | None = argument(
        None, "GLUE's folder or the task's own, with the official TSV files; none: the hub."
    )
    dataset_name: str | None = argument(None, "A data set of the hub, in the place of files.")
    dataset_config_name: str | None = argument(None, "Which of its configurations.")
    train_file: str | None = argument(None, "Own CSV, TSV or JSON lines to train on.")
    validation_file: str | None = argument(None, "The same to evaluate on.")
    test_file: str | None = argument(None, "The same to predict.")
    text_column: str | None = argument(None, "Column of the text in own files.")
    text_pair_column: str | None = argument(None, "Column of the second text in own files.")
    label_column: str | None = argument(None, "Column of the label in own files.")
    regression: bool | None = argument(None, "The labels of own files are numbers to be predicted; default: a guess.")


@dataclass
class SquadArguments(FinetuneArguments):
    """Fine-tune on SQuAD v1.1 or v2.0."""

    train_file: str | None = argument(None, "SQuAD's JSON to train on.")
    predict_file: str | None = argument(None, "SQuAD's JSON to evaluate on.")
    test_file: str | None = argument(None, "SQuAD's JSON, answers not needed, to predict.")
    version_2: bool = argument(False, "Some questions have no answer (SQuAD v2.0).")
    head: str = argument("span", "Head: start and end, or XLNet's with a beam.", choices=["span", "beam"])
    max_seq_length: int = argument(384, "Most tokens of a window: question and a part of the context.")
    doc_stride: int = argument(128, "Tokens from the begin of a window to that of the next.")
    max_query_length: int = argument(64, "Most tokens of a question; longer ones are cut.")
    n_best_size: int = argument(20, "Answers listed for each question.")
    max_answer_length: int = argument(30, "Most tokens of an answer.")
    start_n_top: int = argument(5, "Starts that the beam follows.")
    end_n_top: int = argument(5, "Ends that the beam follows for each start.")
    null_score_diff_threshold: float = argument(0.0, "No answer is given where its score leads by more than this.")


@dataclass
class MultipleChoiceArguments(FinetuneArguments):
    """Fine-tune on multiple choice: RACE, DREAM, or JSON lines of one's own."""

    task_name: str | None = argument(None, "RACE or DREAM; none for own files.")
    data_dir: str | None = argument(None, "Folder with the task's official files.")
    train_file: str | None = argument(None, "Own JSON lines (context, question, options, label) to train on.")
    validation_file: str | None = argument(None, "The same to evaluate on.")
    test_file: str | None = argument(None, "The same to predict.")
    max_seq_length: int = argument(512, "Most tokens of a sequence: article, question and one option.")
    max_qa_length: int = argument(128, "Most tokens of a question and an option; longer ones are cut.")
    high_only: bool = argument(False, "RACE: high school only.")
    middle_only: bool = argument(False, "RACE: middle school only.")
    without_context: bool = argument(False, "Leave the article out: what can be guessed from the options alone.")
