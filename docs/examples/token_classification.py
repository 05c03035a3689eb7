"""A task of one's own: tag every word. Start it as any job: deepspeed --num_accelerators 2 FILE --num_stages 2 …"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ds_bert.data.features import IGNORED
from ds_bert.data.labels import in_order_of_head, sorted_names
from ds_bert.data.tagging import encode_sentences, read_sentences, write_sentences
from ds_bert.errors import exit_on_user_error, leave
from ds_bert.tasks.classification import ClassificationObjective
from ds_bert.tasks.task import Outputs, Split, Task
from ds_bert.training.finetuning import fine_tune, kept_labels
from ds_bert.training.job import make_plan
from ds_bert.training.job_arguments import FinetuneArguments
from ds_bert.training.parser import parse_arguments
from ds_bert.training.starting_model import load_starting_model


@dataclass
class TaggingArguments(FinetuneArguments):
    """A folder with train and validation: .jsonl, lines of {"words": [...], "tags": [...]}, or .conll: word … tag."""

    data_dir: str = "."


def main() -> int:
    """Train and measure; return the exit status."""
    arguments, given = parse_arguments(TaggingArguments)
    source, head = load_starting_model(arguments), "token-classification"
    plan = make_plan(arguments, given, source.fields, head)
    folder, splits = Path(arguments.data_dir), ("train", "validation")
    paths = [next(iter(sorted(folder.glob(f"{split}.*"))), folder / f"{split}.jsonl") for split in splits]
    files = [read_sentences(path) for path in paths]
    tags = sorted_names(tag for sentences in files for each in sentences for tag in each.tags)
    tags = in_order_of_head(tags, kept_labels(source, arguments.drop_classifier), "the files have", may_lack=True)
    train, gold = (encode_sentences(each, tags, source.tokenizer, arguments.max_seq_length) for each in files)
    wanted = gold.features.token_columns["labels"]

    def accuracy(outputs: Sequence[Outputs]) -> dict[str, float]:  # an example's logits are (T, tags)
        found = [each["logits"][:n].argmax(-1) for each, n in zip(outputs, gold.features.lengths, strict=True)]
        return {"accuracy": float((np.concatenate(found) == wanted)[wanted != IGNORED].mean())}

    def write(outputs: Sequence[Outputs], folder: Path) -> list[Path]:
        named = gold.tags([each["logits"] for each in outputs], tags)
        write_sentences(folder / "tags.conll", files[1], [*named])
        return [folder / "tags.conll"]

    ids = {tag: number for number, tag in enumerate(tags)}
    config = {"num_labels": len(tags), "id2label": dict(enumerate(tags)), "label2id": ids}
    dev, notes = {"dev": Split(gold.features, accuracy, write)}, train.features.notes + gold.features.notes
    task = Task("tagging", head, config, ClassificationObjective(len(tags)), train.features, dev, notes=notes)
    return fine_tune(task, plan, source)


if __name__ == "__main__":
    leave(exit_on_user_error(main))
