"""The arguments of the pre-training job."""

from dataclasses import dataclass

from ds_bert.modeling.families import FAMILIES
from ds_bert.training.arguments import TrainingArguments
from ds_bert.training.declaration import CONTENT, DATA, FREE, SAME, Bounds, Kind, argument, at_least, redeclare


def _of_families(name: str) -> str:
    """Say which families were pre-trained with another value of an argument than its default."""
    said = {family.class_prefix: family.pretraining.get(name) for family in FAMILIES.values()}
    return "".join(f" Default for {title}: {str(value).lower()}." for title, value in said.items() if value is not None)


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
        + _of_families("ngram_mask"),
        DATA,
        SAME,
        at_least(0),
    )
    sentence_order: bool = argument(
        False,
        "Predict whether A and B were swapped, instead of whether B follows A." + _of_families("sentence_order"),
        DATA,
        SAME,
    )
