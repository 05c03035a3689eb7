"""BERT (Devlin et al. 2019)."""

from ds_bert.modeling.families import Family


class Bert(Family):
    """BERT, and what its close relatives inherit."""

    model_type, class_prefix = "bert", "Bert"
    defaults = {
        "vocab_size": 30522,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    }
    adapter_places = ("attention.output", "output")
    can_be_conditional = True
    layer_modules = (
        *("attention.self.query", "attention.self.key", "attention.self.value"),
        *("attention.output.dense", "attention.output.LayerNorm"),
        *("intermediate.dense", "output.dense", "output.LayerNorm"),
    )
    other_names = {
        "pooler.dense": "bert.pooler.dense",
        "pooling_layer.dense": "bert.pooler.dense",
        "transform.dense": "cls.predictions.transform.dense",
        "transform.LayerNorm": "cls.predictions.transform.LayerNorm",
        "seq_relationship": "cls.seq_relationship",
    }
    tensorflow_config = "bert_config.json"
    tensorflow_names = (
        (r"bert/encoder/layer_(\d+)/(attention/self/(?:query|key|value))", r"bert.encoder.layer.\1.\2"),
        (r"bert/encoder/layer_(\d+)/(attention/output|intermediate|output)/(\w+)", r"bert.encoder.layer.\1.\2.\3"),
        (r"bert/pooler/dense", r"bert.pooler.dense"),
        (r"cls/predictions/transform/(\w+)", r"cls.predictions.transform.\1"),
        (r"cls/predictions/output_bias", r"cls.predictions.bias"),
        (r"cls/seq_relationship/output_weights", r"cls.seq_relationship.weight"),
        (r"cls/seq_relationship/output_bias", r"cls.seq_relationship.bias"),
    )


BERT = Bert()
