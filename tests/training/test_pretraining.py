import pytest

from ds_bert.training.job_arguments import PretrainArguments
from ds_bert.training.parser import parse_arguments
from ds_bert.training.pretraining import choose_objective


@pytest.mark.parametrize(
    "model_type, flags, ngram_mask, sentence_order",
    [
        ("bert", [], 0, False),
        ("bert", ["--ngram_mask", "2", "--sentence_order"], 2, True),
        ("albert", [], 3, True),
        ("albert", ["--ngram_mask", "0"], 0, True),
        ("albert", ["--whole_word_mask"], 0, True),
        ("albert", ["--whole_word_mask", "--ngram_mask", "2"], 2, True),
        ("albert", ["--sentence_order", "false"], 3, False),
    ],
)
def test_what_an_albert_predicts_unless_told(
    model_type: str, flags: list[str], ngram_mask: int, sentence_order: bool
) -> None:
    arguments, given = parse_arguments(PretrainArguments, flags)
    chosen = choose_objective(arguments, given, {"model_type": model_type})
    assert (chosen.ngram_mask, chosen.sentence_order) == (ngram_mask, sentence_order)
    assert chosen.whole_word_mask == ("--whole_word_mask" in flags)
