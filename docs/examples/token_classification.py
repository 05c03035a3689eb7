"""Tag every word: a task of one's own, from its files to its metric and its predictions.

Start it as any job, on any cut:

    deepspeed --num_accelerators 2 docs/examples/token_classification.py --num_stages 2 --do_train --do_eval \
        --model_name_or_path bert-base-cased/ --data_dir conll --output_dir runs/tags

The folder `conll` has a file `train` and a file `validation`: `.conll`, with a word and its tag on each line and an
empty line after each sentence, or `.jsonl`, with lines of `{"words": ["EU", "rejects"], "tags": ["B-ORG", "O"]}`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ds_bert.data.features import IGNORED
from ds_bert.data.labels import in_order_of_head, sorted_names
from ds_bert.data.tagging import EncodedSentences, Sentence, encode_sentences, read_sentences, write_sentences
from ds_bert.errors import exit_on_user_error, leave
from ds_bert.jobs import begin
from ds_bert.tasks.classification import ClassificationObjective
from ds_bert.tasks.task import Outputs, Split, Task
from ds_bert.training.finetuning import fine_tune, kept_labels
from ds_bert.training.job import make_plan
from ds_bert.training.job_arguments import FinetuneArguments
from ds_bert.training.starting_model import load_starting_model

HEAD = "token-classification"


@dataclass
class TaggingArguments(FinetuneArguments):
    """Fine-tune on words and their tags."""

    data_dir: str = "."  # a field is a flag; those of all fine-tuning jobs are inherited


def main() -> int:
    """Train and measure; return the exit status."""
    arguments, given = begin(TaggingArguments)

    # The model, its tokenizer, and the plan: which layers run on which ranks, and how they are trained.
    source = load_starting_model(arguments)
    plan = make_plan(arguments, given, source.fields, HEAD)

    train_sentences = read_sentences(file_of(arguments.data_dir, "train"))
    gold_sentences = read_sentences(file_of(arguments.data_dir, "validation"))

    # Where the model was trained on tags before, its head's rows keep their meaning.
    names = sorted_names(tag for sentence in [*train_sentences, *gold_sentences] for tag in sentence.tags)
    tags = in_order_of_head(names, kept_labels(source, arguments.drop_classifier), "the files have", may_lack=True)

    train = encode_sentences(train_sentences, tags, source.tokenizer, arguments.max_seq_length)
    gold = encode_sentences(gold_sentences, tags, source.tokenizer, arguments.max_seq_length)

    task = Task(
        name="tagging",
        head=HEAD,
        config={
            "num_labels": len(tags),
            "id2label": dict(enumerate(tags)),
            "label2id": {tag: number for number, tag in enumerate(tags)},
        },
        objective=ClassificationObjective(len(tags)),
        train=train.features,
        evaluation={"validation": validation_split(gold, gold_sentences, tags)},
    )
    return fine_tune(task, plan, source)


def file_of(folder: str, split: str) -> Path:
    """The file of a split, whatever its ending; where there is none, the name to say that of."""
    found = sorted(Path(folder).glob(f"{split}.*"))
    return found[0] if found else Path(folder) / f"{split}.jsonl"


def validation_split(gold: EncodedSentences, sentences: Sequence[Sentence], tags: Sequence[str]) -> Split:
    """Sentences to measure on, with what measures them and what writes the tags that were found.

    Both are given the outputs of all examples, in order; the logits of one are (T, tags), T its tokens with padding.
    """
    # One label for each token of all sentences, end to end. `IGNORED` is what is no first token of a word.
    labels = gold.features.token_columns["labels"]

    def accuracy(outputs: Sequence[Outputs]) -> dict[str, float]:
        best = [
            output["logits"][:length].argmax(axis=-1)
            for output, length in zip(outputs, gold.features.lengths, strict=True)
        ]
        is_right = np.concatenate(best) == labels
        return {"accuracy": float(is_right[labels != IGNORED].mean())}

    def write(outputs: Sequence[Outputs], folder: Path) -> list[Path]:
        path = folder / "tags.conll"
        found = gold.tags([output["logits"] for output in outputs], tags)
        write_sentences(path, sentences, list(found))
        return [path]

    return Split(gold.features, measure=accuracy, write=write)


if __name__ == "__main__":
    leave(exit_on_user_error(main))
