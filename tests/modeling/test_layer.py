"""First weights, and names."""

import pytest
import torch

from ds_bert.modeling.model import initialize
from tests.support.models import BOTH, chain, toy_model

WORDS = "bert.embeddings.word_embeddings.weight"


def made(name: str, seed: int, padding: int | None = 2) -> torch.Tensor:
    parameter = torch.full((40, 50), torch.nan)
    torch.rand(3)  # the process's own random state is in no fixed place
    initialize(name, parameter, 0.02, seed, padding)
    return parameter


def test_first_weights_follow_from_seed_and_name() -> None:
    dense = made("bert.pooler.dense.weight", 1)
    assert torch.equal(dense, made("bert.pooler.dense.weight", 1))
    assert not torch.equal(dense, made("bert.pooler.dense.weight", 2))
    assert not torch.equal(dense, made("bert.encoder.layer.0.output.dense.weight", 1))
    assert dense.std().item() == pytest.approx(0.02, rel=0.05) and abs(dense.mean().item()) < 2e-3
    words = made(WORDS, 1)
    assert (words[2] == 0).all() and (words[[1, 3]] != 0).all()
    assert (made(WORDS, 1, padding=None)[2] != 0).any()


@pytest.mark.parametrize("name", ["x.LayerNorm", "albert_layers.0.full_layer_layer_norm", "x.attention.LayerNorm"])
def test_norms_start_as_ones_and_biases_as_zeros(name: str) -> None:
    assert (made(f"{name}.weight", 1) == 1).all() and (made(f"{name}.bias", 1) == 0).all()


@pytest.mark.parametrize("head", ["pretraining", "sequence-classification", "beam-question-answering"])
@pytest.mark.parametrize("family", BOTH)
def test_every_parameter_starts_as_its_kind_does(family: str, head: str) -> None:
    """By the module that holds it: norms are ones, biases zeros, all else spreads around zero."""
    for layer in chain(toy_model(family, head), head).layers:
        for module in layer.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if name == "bias":
                    assert (parameter == 0).all()
                elif isinstance(module, torch.nn.LayerNorm):
                    assert (parameter == 1).all()
                else:
                    assert 0.01 < parameter.std() < 0.03


def test_first_weights_leave_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    initialize("bert.pooler.dense.weight", torch.empty(4, 4), 0.02, 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unknown_name_is_not_translated() -> None:
    with pytest.raises(KeyError, match="adapter"):
        chain(toy_model("bert", "pretraining"), "pretraining").layers[1].hugging_face_name("adapter.weight")
