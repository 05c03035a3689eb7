"""Reading and refusing a model's configuration."""

import json
import subprocess
import sys

import pytest
from transformers import AlbertConfig, BertConfig, BertForSequenceClassification
from transformers.activations import ACT2FN

from ds_bert.errors import UserError
from ds_bert.modeling.config import ACTIVATIONS, load_model_config
from ds_bert.modeling.families import FAMILIES

BERT_DEFAULTS, ALBERT_DEFAULTS = (FAMILIES[name].defaults for name in ("bert", "albert"))


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.model_type)
def test_defaults_are_transformers_own(family):
    config, defaults = family.whole("Config")(), family.defaults
    assert {key: getattr(config, key) for key in defaults} == defaults


def test_every_activation_is_known_to_transformers():
    assert set(ACTIVATIONS) <= set(ACT2FN)


def test_a_folder_a_file_and_a_shipped_name_are_read_alike(tmp_path):
    (tmp_path / "config.json").write_text('{"vocab_size": 28996, "architectures": ["BertForPreTraining"]}')
    expected = BERT_DEFAULTS | {"vocab_size": 28996, "model_type": "bert"}
    assert load_model_config(tmp_path) == expected | {"architectures": ["BertForPreTraining"]}
    assert load_model_config(str(tmp_path / "config.json")) == load_model_config(tmp_path)
    assert load_model_config("bert-base-cased") == expected


def test_what_transformers_writes_is_read(tmp_path):
    BertConfig(hidden_size=24, num_attention_heads=2).save_pretrained(tmp_path)
    assert load_model_config(tmp_path)["hidden_size"] == 24
    AlbertConfig(num_hidden_groups=3).save_pretrained(tmp_path)
    assert load_model_config(tmp_path).items() >= (ALBERT_DEFAULTS | {"num_hidden_groups": 3}).items()


def test_a_fine_tuned_folder_keeps_what_its_head_added(tmp_path):
    names = {0: "no", 1: "perhaps", 2: "yes"}
    tiny = {"vocab_size": 9, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 4}
    config = BertConfig(**tiny, id2label=names, problem_type="single_label_classification", classifier_dropout=0.2)
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    found = load_model_config(tmp_path)
    assert found["id2label"] == {"0": "no", "1": "perhaps", "2": "yes"}
    assert (found["problem_type"], found["classifier_dropout"]) == ("single_label_classification", 0.2)


def test_the_shipped_alberts_are_the_published_ones():
    sizes = {"base": (768, 12, 12, 3072), "large": (1024, 24, 16, 4096), "xlarge": (2048, 24, 16, 8192)}
    sizes["xxlarge"] = (4096, 12, 64, 16384)
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    for name, expected in sizes.items():
        for version, activation in (("v1", "gelu"), ("v2", "gelu_new")):
            config = load_model_config(f"albert-{name}-{version}")
            assert tuple(config[key] for key in keys) == expected
            assert (config["embedding_size"], config["vocab_size"], config["hidden_act"]) == (128, 30000, activation)
            dropout = 0.1 if version == "v1" and name != "xxlarge" else 0.0
            assert config["hidden_dropout_prob"] == config["attention_probs_dropout_prob"] == dropout


def test_bert24_has_the_sizes_of_bert_large():
    assert load_model_config("bert24") == load_model_config("bert-large-uncased")


def test_an_unknown_name_lists_the_shipped_ones():
    with pytest.raises(
        UserError,
        match=r"albert-base-v1, .*bert-base-cased, bert-base-uncased, bert-demo, bert-large-uncased, bert-mini",
    ):
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
        ({"model_type": "roberta", "hidden_size": 0}, '"model_type" is "roberta", expected one of bert, albert$'),
        ({"model_type": ["bert"]}, '"model_type" is .*, expected one of bert, albert$'),
        ({"model_type": "albert", "embedding_size": 0}, '"embedding_size" is 0, expected a whole number from 1'),
        ({"model_type": "albert", "inner_group_num": "1"}, '"inner_group_num" is "1", expected'),
        (
            {"model_type": "albert", "num_hidden_groups": 13},
            '"num_hidden_groups" 13 is more than "num_hidden_layers" 12',
        ),
        ({"model_type": "albert", "classifier_dropout_prob": 1}, '"classifier_dropout_prob" is 1, expected a probab'),
        ({"classifier_dropout": -0.1}, '"classifier_dropout" is -0.1, expected a probability'),
        ({"num_choices": 0}, '"num_choices" is 0, expected a whole number from 1'),
        ({"start_n_top": 2.5}, '"start_n_top" is 2.5, expected a whole number from 1'),
        ({"id2label": ["no", "yes"]}, '"id2label" is .*, expected an object'),
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


def test_keys_are_overridden_with_values_of_their_kind(tmp_path):
    own = {"hidden_size": 64, "num_attention_heads": 4, "layer_norm_eps": 1, "mine": [1, 2]}
    (tmp_path / "config.json").write_text(json.dumps(own))
    said = "vocab_size=8192, num_hidden_layers=4,hidden_act=relu,initializer_range=1,layer_norm_eps=1e-6"
    changed = {"vocab_size": 8192, "num_hidden_layers": 4, "hidden_act": "relu", "initializer_range": 1}
    assert load_model_config(tmp_path, said) == load_model_config(tmp_path) | changed | {"layer_norm_eps": 1e-6}


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("vocab_size", "needed is KEY=VALUE"),
        ("vocab_size=", "needed is KEY=VALUE"),
        ("vocab_size=9,", "needed is KEY=VALUE"),
        ("vocabsize=9", "has no key vocabsize to change; did you mean vocab_size"),
        ("model_type=albert", "no key model_type"),
        ("vocab_size=9.5", "needed is a whole number"),
        ("vocab_size=true", "needed is a whole number"),
        ("hidden_act=3", "needed is a word"),
        ("hidden_dropout_prob=high", "needed is a number"),
        ("vocab_size=-3", "vocab_size"),
        ("hidden_size=30", "num_attention_heads"),
    ],
)
def test_overrides_that_fit_nothing_are_refused(said, found):
    with pytest.raises(UserError) as error:
        load_model_config("bert-base-uncased", said)
    assert (found in str(error.value) and "bert-base-uncased" in str(error.value)) or "KEY=VALUE" in str(error.value)
