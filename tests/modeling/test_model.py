"""Chains of layers of both families, with each head, against transformers' whole models."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

from ds_bert.errors import UserError
from ds_bert.modeling.costs import layer_costs
from ds_bert.modeling.families import FAMILIES, family_of
from ds_bert.modeling.head_layers import SequenceClassificationHead
from ds_bert.modeling.heads import HEADS, trainable_heads
from ds_bert.modeling.model import Carry, Layer, build_config, carry_declaration, model_layers
from tests.support.checkpoints import toy_fields
from tests.support.models import BOTH, CHOICES, CLASSES, chain, toy_model, transformers_model
from tests.support.toy import global_batch

# What of the outputs of transformers' models is which of ours.
OUTPUTS = {
    "sequence-classification": {"logits": "logits"},
    "token-classification": {"logits": "logits"},
    "multiple-choice": {"logits": "logits"},
    "question-answering": {"start_logits": "start_logits", "end_logits": "end_logits"},
}
ALBERTS = [{"num_hidden_groups": 2}, {"num_hidden_groups": 3, "inner_group_num": 2}, {"hidden_act": "gelu"}]
MODELS = [("bert", {}), ("bert", {"hidden_act": "gelu_new"}), ("albert", {}), *(("albert", some) for some in ALBERTS)]


def toy_inputs(padded: bool = True) -> dict[str, torch.Tensor]:
    batch = {name: torch.from_numpy(array) for name, array in global_batch(0).items()}
    names = ("input_ids", "token_type_ids", *(["attention_mask"] if padded else []))
    return {name: batch[name] for name in names}


@pytest.mark.parametrize("head", CLASSES)
@pytest.mark.parametrize(("family", "changes"), MODELS)
def test_names_are_those_of_transformers(family: str, changes: dict[str, Any], head: str) -> None:
    config = toy_model(family, head, **changes)
    expected = dict(transformers_model(config, head).named_parameters())
    if head in ("sequence-classification", "multiple-choice", "pretraining"):
        assert any("pooler" in name for name in expected)
    names = {name: parameter.shape for name, parameter in chain(config, head).parameters.items()}
    assert names == {name: value.shape for name, value in expected.items()}


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize(("family", "changes"), MODELS)
def test_pretraining_is_that_of_transformers(family: str, changes: dict[str, Any], padded: bool) -> None:
    config, inputs = toy_model(family, "pretraining", **changes), toy_inputs(padded)
    positions = torch.tensor([0, 5, 17, 64])
    ours, model = chain(config, "pretraining"), transformers_model(config, "pretraining")
    outputs, expected = ours.run(inputs, {"masked_positions": positions}), model(**inputs)
    words = expected.prediction_logits.flatten(0, 1)[positions]
    pairs = expected.seq_relationship_logits if family == "bert" else expected.sop_logits
    torch.testing.assert_close(outputs["mlm_logits"], words, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(outputs["nsp_logits"], pairs, atol=1e-6, rtol=1e-5)

    for mlm_logits, nsp_logits in ((outputs["mlm_logits"], outputs["nsp_logits"]), (words, pairs)):
        (mlm_logits.square().mean() + nsp_logits[:, 0].mean()).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours.parameters[name].grad, parameter.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("head", OUTPUTS)
@pytest.mark.parametrize("family", BOTH)
def test_outputs_are_those_of_transformers(family: str, head: str) -> None:
    config, inputs = toy_model(family, head), toy_inputs()
    rows = {name: tensor.unflatten(0, (-1, CHOICES)) if head == "multiple-choice" else tensor
            for name, tensor in inputs.items()}  # fmt: skip
    expected, found = transformers_model(config, head)(**rows), chain(config, head).run(inputs)
    assert found.keys() == OUTPUTS[head].keys()
    for name, theirs in OUTPUTS[head].items():
        torch.testing.assert_close(found[name], expected[theirs], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("head", CLASSES)
@pytest.mark.parametrize("family", BOTH)
def test_padding_is_not_attended_to(family: str, head: str) -> None:
    config, inputs = toy_model(family, head), toy_inputs()
    mask, outputs, pooled = inputs["attention_mask"], [], head in ("sequence-classification", "multiple-choice")
    for filler in (0, 9):
        found = chain(config, head).run({**inputs, "input_ids": inputs["input_ids"].masked_fill(~mask, filler)})
        name = "mlm_logits" if head == "pretraining" else next(iter(found))
        outputs.append(found[name] if pooled else found[name].view(8, 16, -1)[mask])
    assert torch.equal(*outputs)


def test_pretraining_without_labels_predicts_everywhere() -> None:
    hidden = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(0))
    head = chain(toy_model("bert", "pretraining"), "pretraining").layers[-1]
    everywhere = head({"hidden": hidden})["mlm_logits"]
    chosen = head({"hidden": hidden}, {"masked_positions": torch.tensor([3, 30])})["mlm_logits"]
    assert everywhere.shape == (32, 97)
    torch.testing.assert_close(chosen, everywhere[[3, 30]])


@pytest.mark.parametrize("head", CLASSES)
@pytest.mark.parametrize("family", BOTH)
def test_transformers_loads_our_weights_whole(family: str, head: str, tmp_path: Path) -> None:
    """No name is missing, none is left over, and what is tied stays so."""
    config = toy_model(family, head)
    ours = chain(config, head, seed=7)
    save_file({name: parameter.data for name, parameter in ours.parameters.items()}, tmp_path / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    (tmp_path / "config.json").write_text(config.to_json_string(use_diff=False))
    assert config.architectures == [family_of(config).class_prefix + CLASSES[head]]
    auto = getattr(transformers, f"AutoModel{CLASSES[head]}")
    model, report = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert all(torch.equal(value, ours.parameters[name]) for name, value in model.named_parameters())
    if head == "pretraining":
        decoder = (model.cls if family == "bert" else model).predictions.decoder
        assert decoder.weight is model.get_input_embeddings().weight
        bias = ours.parameters["cls.predictions.bias" if family == "bert" else "predictions.bias"]
        assert torch.equal(decoder.bias, bias)


@pytest.mark.parametrize(
    ("family", "changes", "dropout"),
    [
        ("bert", {"hidden_dropout_prob": 0.3}, 0.3),
        ("bert", {"hidden_dropout_prob": 0.3, "classifier_dropout": 0.0}, 0.0),
        ("albert", {"hidden_dropout_prob": 0.3, "classifier_dropout_prob": 0.2}, 0.2),
    ],
)
def test_the_classifiers_dropout_is_that_of_transformers(family: str, changes: dict[str, Any], dropout: float) -> None:
    for head in ("sequence-classification", "multiple-choice", "token-classification"):
        config = toy_model(family, head, **changes)
        assert HEADS[head].make(config).dropout.p == transformers_model(config, head).dropout.p == dropout


class WideHead(SequenceClassificationHead):
    """A head of one's own."""

    def __init__(self, config: Any) -> None:
        super().__init__(config, outputs=11)


def test_a_head_of_ones_own_is_a_class_or_a_function() -> None:
    def wide(config: Any) -> Layer:
        return SequenceClassificationHead(config, outputs=11)

    config = toy_model("albert", "base")
    assert config.architectures == ["AlbertModel"]
    outputs: list[Carry] = [chain(config, head).run(toy_inputs()) for head in (WideHead, wide)]
    assert outputs[0]["logits"].shape == (8, 11)
    assert torch.equal(outputs[0]["logits"], outputs[1]["logits"])


def test_layers_of_a_group_hold_one_module_of_their_model() -> None:
    config = toy_model("albert", "pretraining", num_hidden_groups=2)
    first, second = ([make() for make in model_layers(config, "pretraining")[1:-1]] for _ in range(2))
    assert first[0].block is first[1].block and first[2].block is first[3].block
    assert len({id(layer.block) for layer in (*first, *second)}) == 4


@pytest.mark.parametrize("head", trainable_heads())
def test_every_head_is_a_layer_behind_the_encoder_and_is_counted(head: str) -> None:
    config = toy_model("bert", head)
    assert len(model_layers(config, head)) == 6
    assert layer_costs(config, 16, 1, head=head)[-1].parameters > 0


def test_a_family_has_no_head_but_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FAMILIES["albert"], "heads", ("question-answering",), raising=False)
    build_config(toy_fields("albert"), "question-answering")
    with pytest.raises(UserError, match="family albert has no head token-classification, only question-answering"):
        build_config(toy_fields("albert"), "token-classification")


def test_configuration_names_its_attention_and_fills_in_defaults() -> None:
    config = build_config({"hidden_size": 24, "num_attention_heads": 3, "vocab_size": 50})
    assert config._attn_implementation == "sdpa"
    assert (config.hidden_size, config.vocab_size, config.num_hidden_layers) == (24, 50, 12)
    assert isinstance(config, transformers.BertConfig)
    assert isinstance(build_config({"model_type": "albert"}), transformers.AlbertConfig)


def test_another_number_of_labels_replaces_their_names() -> None:
    names = {"0": "entailment", "1": "neutral", "2": "contradiction"}
    folder = {"id2label": names, "label2id": {name: int(number) for number, name in names.items()}}
    head = "sequence-classification"
    assert build_config(folder, head).num_labels == build_config({**folder, "num_labels": 3}, head).num_labels == 3
    assert build_config({**folder, "num_labels": 3}, head).id2label[2] == "contradiction"
    config = build_config({**folder, "num_labels": 2}, head)
    assert config.num_labels == 2 and "neutral" not in json.dumps(config.to_dict())


@pytest.mark.parametrize("family", ["bert", "albert"])
@pytest.mark.parametrize("head", ["pretraining", "question-answering", "multiple-choice"])
def test_a_head_without_labels_has_none_of_the_folder_s(family: str, head: str) -> None:
    """Or transformers would size AlbertForPreTraining's and both ForQuestionAnswering by them."""
    labels = {"id2label": {"0": "a", "1": "b", "2": "c"}, "problem_type": "multi_label_classification"}
    config = build_config({**toy_fields(family), **labels, "ds_bert": {"parameters": ["beam_head.x"]}}, head)
    assert (config.num_labels, config.problem_type) == (2, None) and "ds_bert" not in config.to_dict()
    model = transformers_model(config, head, 1)
    assert type(model).__name__ == config.architectures[0]
    heads = [
        layer for name, layer in model.named_modules() if name.endswith(("qa_outputs", "sop_classifier.classifier"))
    ]
    assert all(layer.out_features == 2 for layer in heads)


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_weights_are_saved_in_fp32_whatever_the_source_was(key: str) -> None:
    saved = json.loads(build_config({key: "float16"}).to_json_string(use_diff=False))
    assert saved["dtype"] == "float32" and saved.get("torch_dtype", "float32") == "float32"


def test_keys_of_heads_survive_a_saved_configuration() -> None:
    keys = {"num_choices": 7, "start_n_top": 3, "end_n_top": 2, "problem_type": "regression", "num_labels": 1}
    saved = json.loads(build_config(keys, "sequence-classification").to_json_string(use_diff=False))
    again = build_config(saved, "sequence-classification")
    assert {key: getattr(again, key) for key in keys} == keys


def test_the_carry_is_hidden_states_and_a_mask_where_there_is_padding() -> None:
    declare = carry_declaration(toy_model("albert", "pretraining"), torch.bfloat16)
    hidden, mask = declare(4, 16, True)
    assert (hidden.shape, hidden.dtype, hidden.has_gradient) == ((4, 16, 32), torch.bfloat16, True)
    assert (mask.shape, mask.dtype, mask.has_gradient) == ((4, 16), torch.bool, False)
    assert [field.name for field in declare(4, 16, False)] == ["hidden"]
