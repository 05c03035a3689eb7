"""Weights to start from, some of them left out."""

from pathlib import Path

import pytest

from ds_bert.checkpoint.pretrained import PretrainedWeights
from ds_bert.errors import UserError
from tests.support.hugging_face import tiny_model


def test_what_is_left_out_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    tiny_model("bert", "sequence-classification").save_pretrained(tmp_path)
    weights = PretrainedWeights(tmp_path, "bert")
    fewer = weights.without("classifier.").without("bert.pooler.")
    for name in ("classifier.weight", "bert.pooler.dense.bias"):
        assert name in weights and name not in fewer
        with pytest.raises(UserError, match=f"has no tensor {name}"):
            fewer.read(name)
    assert "bert.embeddings.word_embeddings.weight" in fewer
