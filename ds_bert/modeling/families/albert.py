"""ALBERT (Lan et al. 2020): narrow embeddings, and encoder layers that share their parameters.

Encoder layers of one group have one set of parameters: they share the group's names in a checkpoint, and what shares a
name is one tied parameter, whatever stages the layers lie on. With 12 layers and 3 groups, layers 0–3 are group 0.
"""

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from ds_bert.modeling.families import Family, Fields

if TYPE_CHECKING:
    from torch import nn

_GROUP = r"bert/encoder/transformer/group_(\d+)/inner_group_(\d+)/"
_BLOCK = r"albert.encoder.albert_layer_groups.\1.albert_layers.\2."


class Albert(Family):
    """ALBERT."""

    model_type, class_prefix = "albert", "Albert"
    defaults = {
        "vocab_size": 30000,
        "embedding_size": 128,
        "hidden_size": 4096,
        "num_hidden_layers": 12,
        "num_hidden_groups": 1,
        "num_attention_heads": 64,
        "intermediate_size": 16384,
        "inner_group_num": 1,
        "hidden_act": "gelu_new",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "classifier_dropout_prob": 0.1,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    }
    sizes = ("embedding_size", "num_hidden_groups", "inner_group_num")
    classifier_dropout_key = "classifier_dropout_prob"
    pretraining = {"ngram_mask": 3, "sentence_order": True}

    shares_layers = True
    hidden_dropouts = 1  # transformers' module has none after the feed-forward

    embedding_names = ("embeddings.", "encoder.embedding_hidden_mapping_in.")
    layer_name = "encoder.albert_layer_groups."
    feed_forward = r"albert_layers\.\d+\.(?:ffn|full_layer_layer_norm)"
    predictions_name = transform_name = "predictions."
    seq_relationship_name = "sop_classifier."

    layer_modules = (
        *("attention.query", "attention.key", "attention.value", "attention.dense", "attention.LayerNorm"),
        *("ffn", "ffn_output", "full_layer_layer_norm"),
    )
    other_names = {
        "pooler": "albert.pooler",
        "projection": "albert.encoder.embedding_hidden_mapping_in",
        "embedding_hidden_mapping_in": "albert.encoder.embedding_hidden_mapping_in",
        "predictions.dense": "predictions.dense",
        "predictions.LayerNorm": "predictions.LayerNorm",
        "transform.dense": "predictions.dense",
        "transform.LayerNorm": "predictions.LayerNorm",
        "sop_classifier.classifier": "sop_classifier.classifier",
        "seq_relationship.classifier": "sop_classifier.classifier",
    }
    tensorflow_config = "albert_config.json"
    tensorflow_names = (
        (r"bert/encoder/embedding_hidden_mapping_in", r"albert.encoder.embedding_hidden_mapping_in"),
        (_GROUP + r"attention_1/self/(query|key|value)", _BLOCK + r"attention.\3"),
        (_GROUP + r"attention_1/output/dense", _BLOCK + r"attention.dense"),
        (_GROUP + r"LayerNorm", _BLOCK + r"attention.LayerNorm"),
        (_GROUP + r"ffn_1/intermediate/dense", _BLOCK + r"ffn"),
        (_GROUP + r"ffn_1/intermediate/output/dense", _BLOCK + r"ffn_output"),
        (_GROUP + r"LayerNorm_1", _BLOCK + r"full_layer_layer_norm"),
        (r"bert/pooler/dense", r"albert.pooler"),
        (r"cls/predictions/transform/(\w+)", r"predictions.\1"),
        (r"cls/predictions/output_bias", r"predictions.bias"),
        (r"cls/seq_relationship/output_weights", r"sop_classifier.classifier.weight"),
        (r"cls/seq_relationship/output_bias", r"sop_classifier.classifier.bias"),
    )

    def faults(self, fields: Fields) -> list[str]:
        """Refuse more groups than layers."""
        groups, layers = fields["num_hidden_groups"], fields["num_hidden_layers"]
        if groups > layers:
            return [f'"num_hidden_groups" {groups} is more than "num_hidden_layers" {layers}']
        return []

    def embedding_size(self, fields: Fields) -> int:
        """Width of the embeddings."""
        return fields["embedding_size"]

    def has_projection(self, fields: Fields) -> bool:
        """There always is one, from E to H."""
        return True

    def num_groups(self, fields: Fields) -> int:
        """Sets of parameters that the encoder layers have."""
        return fields["num_hidden_groups"]

    def group(self, fields: Fields, layer: int) -> int:
        """The number of an encoder layer's set of parameters."""
        return int(layer / (fields["num_hidden_layers"] / fields["num_hidden_groups"]))

    def blocks(self, fields: Fields) -> int:
        """Transformer blocks of an encoder layer."""
        return fields["inner_group_num"]

    def block_name(self, group: int) -> str:
        """What the names of a group's first transformer block begin with."""
        return f"{super().block_name(group)}albert_layers.0."

    def tensorflow_fields(self, fields: dict[str, Any]) -> dict[str, Any]:
        """ALBERT's own gelu is the approximation by tanh."""
        return {**fields, "hidden_act": "gelu_new"} if fields.get("hidden_act") == "gelu" else fields

    def encoder_layer(self, config: Any, group: int) -> "nn.Module":
        """Build a group, one pass through which is an encoder layer."""
        layer = self.theirs("LayerGroup")(config)
        for block in layer.albert_layers:
            block.activation = _activation(config.hidden_act)
        return layer

    def pooler(self, config: Any) -> "nn.Module":
        """Build a linear layer and tanh on the first token."""
        from ds_bert.modeling.model import FirstTokenPooler

        return FirstTokenPooler(config.hidden_size, config.hidden_size)

    def transform(self, config: Any) -> "nn.Module":
        """Build what stands before the decoder of masked words, from (N, H) to (N, E)."""
        from torch import nn

        parts = OrderedDict[str, nn.Module](
            dense=nn.Linear(config.hidden_size, config.embedding_size),
            activation=_activation(config.hidden_act),
            LayerNorm=nn.LayerNorm(config.embedding_size, eps=config.layer_norm_eps),
        )
        return nn.Sequential(parts)

    def seq_relationship(self, config: Any) -> "nn.Module":
        """Build the classifier of the sentences' order, from a pair's state (B, H) to two logits."""
        from torch import nn

        dropout, classifier = nn.Dropout(self.classifier_dropout(config)), nn.Linear(config.hidden_size, 2)
        return nn.Sequential(OrderedDict[str, nn.Module](dropout=dropout, classifier=classifier))


def _activation(name: str) -> "nn.Module":
    """Transformers' activation; "gelu_new" in one kernel, which keeps one tensor for the backward pass, not four."""
    from torch import nn
    from transformers.activations import ACT2FN

    return nn.GELU(approximate="tanh") if name == "gelu_new" else ACT2FN[name]


ALBERT = Albert()
