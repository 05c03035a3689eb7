"""Reading and refusing a BERT configuration."""

import json
import subprocess
import sys

import pytest
from transformers import BertConfig
from transformers.activations import ACT2FN

from ds_bert.errors import UserError
from ds_bert.modeling.config import ACTIVATIONS, BERT_DEFAULTS, load_model_config


def test_defaults_are_transformers_own():
    assert {key: getattr(BertConfig(), key) for key in BERT_DEFAULTS} == BERT_DEFAULTS


def test_every_activation_is_known_to_transformers():
    assert set(ACTIVATIONS) <= set(ACT2FN)


def test_a_folder_a_file_and_a_shipped_name_are_read_alike(tmp_path):
    (tmp_path / "config.json").write_text('{"vocab_size": 28996, "architectures": ["BertForPreTraining"]}')
    expected = BERT_DEFAULTS | {"vocab_size": 28996}
    assert load_model_config(tmp_path) == expected | {"architectures": ["BertForPreTraining"]}
    assert load_model_config(str(tmp_path / "config.json")) == load_model_config(tmp_path)
    assert load_model_config("bert-base-cased") == expected | {"model_type": "bert"}


def test_what_transformers_writes_is_read(tmp_path):
    BertConfig(hidden_size=24, num_attention_heads=2).save_pretrained(tmp_path)
    assert load_model_config(tmp_path)["hidden_size"] == 24


def test_bert24_has_the_sizes_of_bert_large():
    assert load_model_config("bert24") == load_model_config("bert-large-uncased")


def test_an_unknown_name_lists_the_shipped_ones():
    with pytest.raises(UserError, match="bert-base-cased, bert-base-uncased, bert-demo, bert-large-uncased, bert-mini"):
        load_model_config("bert-huge")


def test_a_folder_without_configuration_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"config\.json: no such file"):
        load_model_config(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([], "found \\[\\] at the top level"),
        ({"vocab_size": "30522"}, '"vocab_size" is "30522", expected a whole number from 1'),
        ({"hidden_size": 768.0}, '"hidden_size" is 768.0, expected a whole number from 1'),
        ({"num_hidden_layers": 0}, '"num_hidden_layers" is 0, expected'),
        ({"type_vocab_size": True}, '"type_vocab_size" is True, expected'),
        ({"num_attention_heads": 7}, '"hidden_size" 768 is not divisible by "num_attention_heads" 7'),
        ({"pad_token_id": 30522}, '"pad_token_id" is 30522, expected a whole number from 0 to below "vocab_size"'),
        ({"pad_token_id": None}, '"pad_token_id" is None, expected'),
        ({"hidden_dropout_prob": 1.0}, '"hidden_dropout_prob" is 1.0, expected a probability from 0 to below 1'),
        ({"attention_probs_dropout_prob": "0"}, '"attention_probs_dropout_prob" is "0", expected'),
        ({"layer_norm_eps": 0}, '"layer_norm_eps" is 0, expected a number above 0'),
        ({"initializer_range": float("inf")}, '"initializer_range" is inf, expected'),
        ({"initializer_range": float("nan")}, '"initializer_range" is nan, expected'),
        ({"hidden_act": "gelo"}, '"hidden_act" is "gelo", expected one of gelu'),
        ({"hidden_act": ["gelu"]}, '"hidden_act" is .*, expected one of gelu'),
        ({"model_type": "roberta"}, '"model_type" is "roberta", expected "bert", the only one supported'),
        ({"position_embedding_type": "relative_key"}, '"position_embedding_type" is "relative_key", expected'),
        ({"is_decoder": True}, '"is_decoder" is True, expected False'),
        ({"hidden_size": 0, "vocab_size": 0}, '"vocab_size" is 0.*; "hidden_size" is 0'),
    ],
)
def test_a_wrong_configuration_is_refused(tmp_path, config, message):
    path = tmp_path / "model.json"
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        load_model_config(path)


def test_neither_torch_nor_transformers_is_imported():
    code = (
        "import sys, ds_bert.modeling.config, ds_bert.modeling.costs, ds_bert.commands.stage_map;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
