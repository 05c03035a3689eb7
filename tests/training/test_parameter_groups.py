"""Learning rates by layer, against ELECTRA's table written out."""

import pytest
from transformers import AlbertConfig, AlbertForPreTraining, BertConfig, BertForPreTraining

from ds_bert.engine.settings import EngineSettings, by_dimensions
from ds_bert.training.settings import with_layerwise_decay

SMALL = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 11}
BERT_POWERS = {
    "bert.embeddings.": 5,
    "bert.encoder.layer.0.": 4,
    "bert.encoder.layer.1.": 3,
    "bert.encoder.layer.2.": 2,
    "bert.pooler.": 0,
    "cls.": 0,
}
ALBERT_POWERS = {
    "albert.embeddings.": 3,
    "albert.encoder.embedding_hidden_mapping_in.": 3,
    "albert.encoder.albert_layer_groups.0.": 2,
    "albert.pooler.": 0,
    "predictions.": 0,
    "sop_classifier.": 0,
}


@pytest.mark.parametrize(
    ("model", "powers"),
    [
        (BertForPreTraining(BertConfig(**SMALL)), BERT_POWERS),
        (AlbertForPreTraining(AlbertConfig(embedding_size=4, **SMALL)), ALBERT_POWERS),
    ],
    ids=["bert", "albert"],
)
def test_electras_table(model: BertForPreTraining | AlbertForPreTraining, powers: dict[str, int]) -> None:
    settings = with_layerwise_decay(EngineSettings(), 0.8, model.config)
    seen = set()
    for name, parameter in model.named_parameters():
        (prefix,) = (prefix for prefix in powers if name.startswith(prefix))
        group = settings.parameter_group(name, parameter.ndim)
        assert group.lr_scale == pytest.approx(0.8 ** powers[prefix], rel=1e-12), name
        assert group.decays == (not name.endswith("bias") and "LayerNorm" not in name and "layer_norm" not in name)
        seen.add(prefix)
    assert seen == powers.keys()


def test_a_deep_layer_is_not_taken_for_a_shallow_one() -> None:
    group = with_layerwise_decay(EngineSettings(), 0.5, BertConfig()).parameter_group
    assert group("bert.encoder.layer.11.output.dense.weight", 2).lr_scale == 0.25
    assert group("bert.encoder.layer.1.output.dense.weight", 2).lr_scale == 0.5**12


def test_a_decay_of_one_is_one_group() -> None:
    assert with_layerwise_decay(EngineSettings(), 1.0, BertConfig()).parameter_group is by_dimensions
