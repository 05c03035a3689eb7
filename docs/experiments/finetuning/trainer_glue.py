"""Fine-tune on one GLUE task with transformers' Trainer, and write what it reaches on the validation split.

It shares nothing with ds_bert's fine-tuning: its own readers, the Trainer's loop, scikit-learn's and scipy's measures.
A result that is there already is not computed again, so a loop over tasks and seeds can be stopped and started at will.
One process: ``python trainer_glue.py …``; two: ``torchrun --nproc_per_node 2 trainer_glue.py …``.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from baseline import parser, record, scratch_folder, skip_if_done, train
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


class Columns(NamedTuple):
    """Where a task's TSV files have what."""

    texts: tuple[int, ...]
    label: int
    header: bool = True
    dev: str = "dev.tsv"


TASKS = {
    "CoLA": Columns((3,), 1, header=False),
    "MRPC": Columns((3, 4), 0),
    "SST-2": Columns((0,), 1),
    "STS-B": Columns((7, 8), 9),
    "QQP": Columns((3, 4), 5),
    "QNLI": Columns((1, 2), 3),
    "RTE": Columns((1, 2), 3),
    "WNLI": Columns((1, 2), 3),
    "MNLI": Columns((8, 9), -1, dev="dev_matched.tsv"),
}


def read(path: Path, columns: Columns, limit: int | None) -> tuple[list[tuple[str, ...]], list[str]]:
    """Return the texts and labels of a TSV file's first ``limit`` examples; quotes in it mean nothing."""
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    rows = [line.split("\t") for line in lines[columns.header :] if line][:limit]
    return [tuple(row[place] for place in columns.texts) for row in rows], [row[columns.label] for row in rows]


def measures(task: str, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the task's own measures and, but for STS-B, accuracy."""
    if task == "STS-B":
        scores = logits[:, 0]
        return {"pearson": float(pearsonr(scores, labels)[0]), "spearmanr": float(spearmanr(scores, labels)[0])}
    answers = logits.argmax(axis=1)
    result = {"accuracy": float(accuracy_score(labels, answers))}
    if task in ("MRPC", "QQP"):
        result["f1"] = float(f1_score(labels, answers))
    if task == "CoLA":
        result["matthews_correlation"] = float(matthews_corrcoef(labels, answers))
    return result


def main() -> None:
    """Run one (task, seed)."""
    flags = parser(__doc__)
    flags.add_argument("--task", choices=sorted(TASKS), required=True)
    flags.add_argument("--data_dir", type=Path, required=True, help="the task's folder of TSV files")
    flags.add_argument("--no_dropout", action="store_true")
    settings = flags.parse_args()
    result = skip_if_done(settings, settings.task)
    tokenizer = AutoTokenizer.from_pretrained(settings.model)
    names: list[str] = []

    def encoded(file: str, limit: int | None) -> list[dict[str, Any]]:
        texts, labels = read(settings.data_dir / file, TASKS[settings.task], limit)
        names.extend(sorted(set(labels)) if not names else [])
        numbers = [float(label) if settings.task == "STS-B" else names.index(label) for label in labels]
        ids = tokenizer(
            *map(list, zip(*texts, strict=True)),
            truncation=True,
            max_length=settings.max_seq_length,
            padding="max_length" if settings.padding == "max_length" else False,
        )
        return [{key: ids[key][row] for key in ids} | {"labels": number} for row, number in enumerate(numbers)]

    train_examples = encoded("train.tsv", settings.max_train_samples)
    dev_examples = encoded(TASKS[settings.task].dev, settings.max_eval_samples)
    model = functools.partial(
        AutoModelForSequenceClassification.from_pretrained,
        settings.model,
        num_labels=1 if settings.task == "STS-B" else len(names),
        attn_implementation=settings.attn_implementation,
        **(NO_DROPOUT if settings.no_dropout else {}),
    )
    with scratch_folder() as folder:
        trainer, run = train(settings, model, train_examples, DataCollatorWithPadding(tokenizer), folder)
        predictions = trainer.predict(dev_examples)
    if trainer.is_world_process_zero():
        labels = np.array([example["labels"] for example in dev_examples])
        record(result, settings, settings.task, measures(settings.task, predictions.predictions, labels), run)


if __name__ == "__main__":
    main()
