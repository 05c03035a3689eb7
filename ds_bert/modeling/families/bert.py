"""BERT (Devlin et al. 2019) as pipeline layers around transformers' modules."""

from collections.abc import Callable
from functools import partial

from torch import nn
from transformers import BertConfig
from transformers.models.bert import modeling_bert

from ds_bert.modeling.families.family import EmbeddingsBase, EncoderLayerBase, Family, PretrainingHeadBase
from ds_bert.modeling.layer import Layer

WORD_EMBEDDINGS = "bert.embeddings.word_embeddings.weight"


class Embeddings(EmbeddingsBase):
    """Token ids to hidden states."""

    prefixes = {"embeddings.": "bert.embeddings."}

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.embeddings = modeling_bert.BertEmbeddings(config)


class EncoderLayer(EncoderLayerBase):
    """One transformer block."""

    def __init__(self, config: BertConfig, index: int) -> None:
        super().__init__(modeling_bert.BertLayer(config, layer_idx=index), f"bert.encoder.layer.{index}.")


def encoder_layers(config: BertConfig) -> list[Callable[[], Layer]]:
    """Describe the encoder; each layer is built by calling it."""
    return [partial(EncoderLayer, config, index) for index in range(config.num_hidden_layers)]


class PretrainingHead(PretrainingHeadBase):
    """Masked-word and next-sentence predictions (Devlin et al. 2019, section 3.1)."""

    prefixes = {
        "pooler.": "bert.pooler.",
        "transform.": "cls.predictions.transform.",
        "bias": "cls.predictions.bias",
        "seq_relationship.": "cls.seq_relationship.",
        "decoder_weight": WORD_EMBEDDINGS,
    }

    def __init__(self, config: BertConfig) -> None:
        super().__init__(
            (config.vocab_size, config.hidden_size),
            modeling_bert.BertPooler(config),
            modeling_bert.BertPredictionHeadTransform(config),
            nn.Linear(config.hidden_size, 2),
        )


def _classifier_dropout(config: BertConfig) -> float:
    return config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout


BERT = Family(
    name="Bert",
    prefix="bert.",
    config=BertConfig,
    embeddings=Embeddings,
    encoder_layers=encoder_layers,
    pretraining_head=PretrainingHead,
    pooler=modeling_bert.BertPooler,
    classifier_dropout=_classifier_dropout,
)
