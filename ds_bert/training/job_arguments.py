"""The arguments of pre-training and of the fine-tuning jobs, beside those that all jobs share."""

from dataclasses import dataclass

from ds_bert.modeling.families import pretraining_defaults
from ds_bert.training.arguments import PretrainedModelArguments, TrainingArguments
from ds_bert.training.declaration import (
    BATCH,
    CONTENT,
    DATA,
    EVALUATION,
    FREE,
    MODEL,
    OUTPUT,
    SAME,
    TOLD,
    Bounds,
    Kind,
    argument,
    at_least,
    redeclare,
)


@dataclass
class PretrainArguments(TrainingArguments):
    """What to pre-train on what."""

    tokenizer_name: str | None = redeclare(
        TrainingArguments, "tokenizer_name", help="Tokenizer that the data must have been written with.", unset="any"
    )
    train_path: str | None = argument(None, "Data folder written by `ds-bert prepare`.", DATA, CONTENT, kind=Kind.DATA)
    eval_path: str | None = argument(
        None, "Held-out data folder.", DATA, FREE, kind=Kind.DATA, unset="`validation` in train_path if there"
    )
    max_seq_length: int = redeclare(TrainingArguments, "max_seq_length", help="Tokens of a sequence.")
    mlm_probability: float = argument(0.15, "Share of tokens to predict.", DATA, SAME, Bounds(above=0, below=1))
    max_predictions_per_seq: int = argument(20, "Most tokens to predict in a sequence.", DATA, SAME, at_least(1))
    whole_word_mask: bool = argument(False, "Mask whole words.", DATA, SAME)
    ngram_mask: int = argument(
        0,
        "Mask runs of 1 to this many whole words, shorter ones more often; 0 or 1 for none."
        + pretraining_defaults("ngram_mask"),
        DATA,
        SAME,
        at_least(0),
    )
    sentence_order: bool = argument(
        False,
        "Predict whether A and B were swapped, instead of whether B follows A."
        + pretraining_defaults("sentence_order"),
        DATA,
        SAME,
    )


@dataclass
class FinetuneArguments(PretrainedModelArguments):
    """What every fine-tuning job is told: the model, what to do, and how to choose among checkpoints."""

    drop_classifier: bool = argument(
        False, "Begin with a fresh head, even if model_name_or_path has a fitting one.", MODEL, CONTENT
    )

    do_train: bool = argument(False, "Train.", DATA, FREE)
    do_eval: bool = argument(False, "Measure on the validation data, at the end and as --eval_steps says.", DATA, FREE)
    do_predict: bool = argument(False, "Write predictions of the test data.", DATA, FREE)
    max_train_samples: int = argument(
        0, "Use the first so many training examples only; 0 uses all.", DATA, CONTENT, at_least(0)
    )
    max_eval_samples: int = argument(0, "The same for validation.", DATA, FREE, at_least(0))
    max_predict_samples: int = argument(0, "The same for test data.", DATA, FREE, at_least(0))
    overwrite_cache: bool = argument(False, "Encode the data anew.", DATA, FREE, kind=Kind.OWN)
    length_window: int = argument(
        4, "Steps whose examples are sorted by length together, to compute less padding.", BATCH, SAME, at_least(1)
    )

    learning_rate: float = redeclare(TrainingArguments, "learning_rate", 5e-5)
    save_steps: int = redeclare(TrainingArguments, "save_steps", 0)
    metric_for_best_model: str | None = argument(
        None, "Measure that chooses the best checkpoint.", EVALUATION, TOLD, unset="the task's"
    )
    early_stopping_patience: int = argument(
        0, "End after so many evaluations without a better one; 0 never does.", EVALUATION, TOLD, at_least(0)
    )
    seeds: list[int] = argument(
        [],
        "Train once with each seed, in output_dir/seed-N, and report mean and deviation.",
        OUTPUT,
        CONTENT,
        Bounds(at_least=0, at_most=2**63 - 1),
    )


@dataclass
class GlueArguments(FinetuneArguments):
    """Fine-tune on a GLUE task, or on sentences or sentence pairs of one's own."""

    task_name: str | None = argument(
        None, "CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE, WNLI or AX.", DATA, CONTENT, unset="own files"
    )
    data_dir: str | None = argument(
        None,
        "GLUE's folder or the task's own, with the official TSV files.",
        DATA,
        CONTENT,
        kind=Kind.DATA,
        unset="the hub",
    )
    dataset_name: str | None = argument(None, "A data set of the hub, in the place of files.", DATA, CONTENT)
    dataset_config_name: str | None = argument(None, "Which of its configurations.", DATA, CONTENT)
    train_file: str | None = argument(None, "Own CSV, TSV or JSON lines to train on.", DATA, CONTENT, kind=Kind.DATA)
    validation_file: str | None = argument(None, "The same to evaluate on.", DATA, FREE, kind=Kind.DATA)
    test_file: str | None = argument(None, "The same to predict.", DATA, FREE, kind=Kind.DATA)
    text_column: str | None = argument(None, "Column of the text in own files.", DATA, CONTENT, unset="a guess")
    text_pair_column: str | None = argument(
        None, "Column of the second text in own files.", DATA, CONTENT, unset="a guess"
    )
    label_column: str | None = argument(None, "Column of the label in own files.", DATA, CONTENT, unset="a guess")
    regression: bool | None = argument(
        None, "The labels of own files are numbers to be predicted.", DATA, CONTENT, unset="a guess"
    )


@dataclass
class SquadArguments(FinetuneArguments):
    """Fine-tune on SQuAD v1.1 or v2.0."""

    train_file: str | None = argument(None, "SQuAD's JSON to train on.", DATA, CONTENT, kind=Kind.DATA)
    predict_file: str | None = argument(None, "SQuAD's JSON to evaluate on.", DATA, FREE, kind=Kind.DATA)
    test_file: str | None = argument(None, "SQuAD's JSON, answers not needed, to predict.", DATA, FREE, kind=Kind.DATA)
    version_2: bool = argument(False, "Some questions have no answer (SQuAD v2.0).", DATA, CONTENT)
    head: str = argument("span", "Head: start and end, or XLNet's with a beam.", MODEL, SAME, ("span", "beam"))
    max_seq_length: int = redeclare(
        TrainingArguments, "max_seq_length", 384, "Most tokens of a window: question and a part of the context."
    )
    doc_stride: int = argument(
        128, "Tokens from the begin of a window to that of the next.", BATCH, CONTENT, at_least(1)
    )
    max_query_length: int = argument(64, "Most tokens of a question; longer ones are cut.", BATCH, CONTENT, at_least(1))
    n_best_size: int = argument(20, "Answers listed for each question.", EVALUATION, FREE, at_least(1))
    max_answer_length: int = argument(30, "Most tokens of an answer.", EVALUATION, FREE, at_least(1))
    start_n_top: int = argument(5, "Starts that the beam follows.", EVALUATION, FREE, at_least(1))
    end_n_top: int = argument(5, "Ends that the beam follows for each start.", EVALUATION, FREE, at_least(1))
    null_score_diff_threshold: float = argument(
        0.0, "No answer is given where its score leads by more than this.", EVALUATION, FREE
    )


@dataclass
class MultipleChoiceArguments(FinetuneArguments):
    """Fine-tune on multiple choice: RACE, DREAM, or JSON lines of one's own."""

    task_name: str | None = argument(None, "RACE or DREAM.", DATA, CONTENT, unset="own files")
    data_dir: str | None = argument(None, "Folder with the task's official files.", DATA, CONTENT, kind=Kind.DATA)
    train_file: str | None = argument(
        None, "Own JSON lines (context, question, options, label) to train on.", DATA, CONTENT, kind=Kind.DATA
    )
    validation_file: str | None = argument(None, "The same to evaluate on.", DATA, FREE, kind=Kind.DATA)
    test_file: str | None = argument(None, "The same to predict.", DATA, FREE, kind=Kind.DATA)
    max_seq_length: int = redeclare(
        TrainingArguments, "max_seq_length", 512, "Most tokens of a sequence: article, question and one option."
    )
    max_qa_length: int = argument(
        128, "Most tokens of a question and an option; longer ones are cut.", BATCH, CONTENT, at_least(1)
    )
    high_only: bool = argument(False, "RACE: high school only.", DATA, CONTENT)
    middle_only: bool = argument(False, "RACE: middle school only.", DATA, CONTENT)
    without_context: bool = argument(
        False, "Leave the article out: what can be guessed from the options alone.", DATA, CONTENT
    )
