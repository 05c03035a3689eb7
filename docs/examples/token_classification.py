"""A task of one's own: tag every word. Start it as any job: deepspeed --num_accelerators 2 FILE --num_stages 2 …"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ds_bert.data.features import IGNORED, Features, make_features
from ds_bert.data.vocabulary import Tokenizer
from ds_bert.errors import exit_on_user_error, leave
from ds_bert.tasks.classification import ClassificationObjective
from ds_bert.tasks.task import Outputs, Split, Task
from ds_bert.training.finetune_arguments import FinetuneArguments
from ds_bert.training.finetuning import fine_tune, place
from ds_bert.training.model_source import load_source
from ds_bert.training.parser import parse_arguments


@dataclass
class TaggingArguments(FinetuneArguments):
    """A folder with train.jsonl and validation.jsonl, lines of {"words": [...], "tags": [...]}."""

    data_dir: str = "."


def encode(arguments: TaggingArguments, split: str, tags: dict[str, int], tokenizer: Tokenizer) -> Features:
    """[CLS] words [SEP]; the first token of each word carries its tag."""
    rows, labels, longest = [], [], arguments.max_seq_length
    with open(f"{arguments.data_dir}/{split}.jsonl", encoding="utf-8") as lines:
        for sentence in map(json.loads, lines):
            pieces, lengths = tokenizer.encode(sentence["words"])
            spread = np.full(len(pieces), IGNORED)
            spread[np.cumsum(lengths) - lengths] = [tags.setdefault(tag, len(tags)) for tag in sentence["tags"]]
            rows.append([tokenizer.cls_id, *pieces[: longest - 2], tokenizer.sep_id])
            labels += [IGNORED, *spread[: longest - 2], IGNORED]
    return make_features(rows, [*map(len, rows)], tokenizer.pad_id, token_columns={"labels": np.array(labels)})


def accuracy(gold: Features, outputs: Sequence[Outputs]) -> dict[str, float]:
    """Share of words with the right tag; an example's logits are (T, tags)."""
    found = np.concatenate([output["logits"][:n].argmax(-1) for output, n in zip(outputs, gold.lengths, strict=True)])
    wanted = gold.token_columns["labels"]
    return {"accuracy": float((found == wanted)[wanted != IGNORED].mean())}


def main() -> int:
    """Train and measure; return the exit status."""
    arguments, given = parse_arguments(TaggingArguments)
    source, tags = load_source(arguments), dict[str, int]()
    arguments, settings, stage_map = place(arguments, given, source.fields, "token-classification")
    train, gold = (encode(arguments, split, tags, source.tokenizer) for split in ("train", "validation"))
    config = {"num_labels": len(tags), "id2label": dict(enumerate(tags)), "label2id": {**tags}}
    evaluation = {"validation": Split(gold, lambda outputs: accuracy(gold, outputs))}
    task = Task("tagging", "token-classification", config, ClassificationObjective(len(tags)), train, evaluation)
    return fine_tune(task, arguments, source, stage_map, settings)


if __name__ == "__main__":
    leave(exit_on_user_error(main))
