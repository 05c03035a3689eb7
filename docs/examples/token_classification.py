"""A task of one's own: tag every word. Start it as any job: deepspeed --num_accelerators 2 FILE --num_stages 2 …"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ds_bert.data.features import IGNORED, Features, make_features
from ds_bert.data.tables import open_table
from ds_bert.data.vocabulary import Tokenizer
from ds_bert.errors import UserError, exit_on_user_error, leave
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
    rows, labels, table = [], [], open_table(Path(arguments.data_dir, f"{split}.jsonl"))
    for line, (words, named) in table.read(["words", "tags"]):
        pieces, lengths = tokenizer.encode([*map(str, words or ())])
        if not 0 < len(named or ()) == len(lengths) == np.count_nonzero(lengths):
            raise UserError(f"{table.where(line)}: {len(named or ())} tags, needed: one for each word, no word blank")
        spread = np.full(len(pieces), IGNORED)
        spread[np.cumsum(lengths) - lengths] = [tags.setdefault(tag, len(tags)) for tag in named]
        rows.append([tokenizer.cls_id, *pieces[: arguments.max_seq_length - 2], tokenizer.sep_id])
        labels += [IGNORED, *spread[: arguments.max_seq_length - 2], IGNORED]
    return make_features(rows, [*map(len, rows)], tokenizer.pad_id, token_columns={"labels": np.array(labels)})


def main() -> int:
    """Train and measure; return the exit status."""
    arguments, given = parse_arguments(TaggingArguments)
    source, head, tags = load_source(arguments), "token-classification", dict[str, int]()
    arguments, settings, stage_map = place(arguments, given, source.fields, head)
    train, gold = (encode(arguments, split, tags, source.tokenizer) for split in ("train", "validation"))
    wanted = gold.token_columns["labels"]

    def accuracy(outputs: Sequence[Outputs]) -> dict[str, float]:  # an example's logits are (T, tags)
        found = [output["logits"][:n].argmax(-1) for output, n in zip(outputs, gold.lengths, strict=True)]
        return {"accuracy": float((np.concatenate(found) == wanted)[wanted != IGNORED].mean())}

    config = {"num_labels": len(tags), "id2label": dict(enumerate(tags)), "label2id": {**tags}}
    task = Task("tagging", head, config, ClassificationObjective(len(tags)), train, {"dev": Split(gold, accuracy)})
    return fine_tune(task, arguments, source, stage_map, settings)


if __name__ == "__main__":
    leave(exit_on_user_error(main))
