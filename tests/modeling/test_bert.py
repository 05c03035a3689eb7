"""BERT as a chain of layers, against transformers' whole model."""

from dataclasses import dataclass

import pytest
import torch
from transformers import BertConfig, BertForPreTraining

from ds_bert.modeling.families.bert import WORD_EMBEDDINGS, bert_config, pretraining_layers
from ds_bert.modeling.layer import Layer, initialize
from tests.support.reference import reference_model
from tests.support.toy import global_batch, toy_config

TIED = {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}


@dataclass
class Chain:
    """All layers on one process, tied, without an engine."""

    layers: list[Layer]
    parameters: dict[str, torch.nn.Parameter]


def _chain(config: BertConfig, seed: int = 1) -> Chain:
    layers = [make().eval() for make in pretraining_layers(config)]
    parameters = {}
    for layer in layers:
        for local, parameter in layer.named_parameters():
            parameters.setdefault(layer.hugging_face_name(local), parameter)
    layers[-1].decoder_weight = parameters[WORD_EMBEDDINGS]
    for name, parameter in parameters.items():
        initialize(name, parameter.data, config.initializer_range, seed, config.pad_token_id)
    return Chain(layers, parameters)


def test_names_are_those_of_transformers() -> None:
    config = toy_config()
    expected = BertForPreTraining(config).state_dict()
    names = {name: parameter.shape for name, parameter in _chain(config).parameters.items()}
    assert names == {name: value.shape for name, value in expected.items() if name not in TIED}
    assert expected.keys() >= TIED


def test_an_unknown_name_is_not_translated() -> None:
    with pytest.raises(KeyError, match="adapter"):
        _chain(toy_config()).layers[1].hugging_face_name("adapter.weight")


@pytest.mark.parametrize("padded", [True, False])
def test_outputs_and_gradients_are_those_of_transformers(padded: bool) -> None:
    config = toy_config()
    batch = {name: torch.from_numpy(array) for name, array in global_batch(0).items()}
    inputs = {name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
    if not padded:
        del inputs["attention_mask"]
    positions = torch.tensor([0, 5, 17, 64])
    chain, model = _chain(config), reference_model(config, seed=1).eval()

    carry = inputs
    for layer in chain.layers:
        carry = layer(carry, {"masked_positions": positions})
    output = model(**inputs)
    words = output.prediction_logits.flatten(0, 1)[positions]
    torch.testing.assert_close(carry["mlm_logits"], words, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(carry["nsp_logits"], output.seq_relationship_logits, atol=1e-6, rtol=1e-5)

    for mlm_logits, nsp_logits in (carry.values(), (words, output.seq_relationship_logits)):
        (mlm_logits.square().mean() + nsp_logits[:, 0].mean()).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(chain.parameters[name].grad, parameter.grad, atol=1e-6, rtol=1e-4)


def test_padding_is_not_attended_to() -> None:
    config, batch = toy_config(), global_batch(0)
    inputs = {name: torch.from_numpy(batch[name]) for name in ("input_ids", "token_type_ids", "attention_mask")}
    logits = []
    for filler in (0, 9):
        carry = {**inputs, "input_ids": inputs["input_ids"].masked_fill(~inputs["attention_mask"], filler)}
        for layer in _chain(config).layers:
            carry = layer(carry)
        logits.append(carry["mlm_logits"].view(8, 16, -1)[inputs["attention_mask"]])
    assert torch.equal(*logits)


def test_head_without_labels_predicts_everywhere() -> None:
    hidden = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(0))
    head = _chain(toy_config()).layers[-1]
    everywhere = head({"hidden": hidden})["mlm_logits"]
    chosen = head({"hidden": hidden}, {"masked_positions": torch.tensor([3, 30])})["mlm_logits"]
    assert everywhere.shape == (32, 97)
    torch.testing.assert_close(chosen, everywhere[[3, 30]])


def test_configuration_names_its_attention() -> None:
    config = bert_config({"hidden_size": 24, "num_attention_heads": 3, "vocab_size": 50})
    assert config._attn_implementation == "sdpa"
    assert (config.hidden_size, config.vocab_size, config.num_hidden_layers) == (24, 50, 12)


def test_first_weights_follow_from_seed_and_name() -> None:
    def made(name: str, seed: int, shape: tuple[int, ...] = (40, 50), padding: int | None = 2) -> torch.Tensor:
        parameter = torch.full(shape, torch.nan)
        torch.rand(3)  # the process's own random state is in no fixed place
        initialize(name, parameter, 0.02, seed, padding)
        return parameter

    dense = made("bert.pooler.dense.weight", 1)
    assert torch.equal(dense, made("bert.pooler.dense.weight", 1))
    assert not torch.equal(dense, made("bert.pooler.dense.weight", 2))
    assert not torch.equal(dense, made("bert.encoder.layer.0.output.dense.weight", 1))
    assert dense.std().item() == pytest.approx(0.02, rel=0.05) and abs(dense.mean().item()) < 2e-3
    assert (made("x.bias", 1) == 0).all() and (made("x.LayerNorm.weight", 1) == 1).all()
    words = made(WORD_EMBEDDINGS, 1)
    assert (words[2] == 0).all() and (words[[1, 3]] != 0).all()
    assert (made(WORD_EMBEDDINGS, 1, padding=None)[2] != 0).any()


def test_first_weights_leave_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    initialize("bert.pooler.dense.weight", torch.empty(4, 4), 0.02, 1)
    assert torch.equal(torch.get_rng_state(), before)
