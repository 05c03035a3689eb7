"""Tiny random models of transformers' classes, and what is in their folders."""

from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file

CLASSES = {
    "base": "Model",
    "pretraining": "ForPreTraining",
    "masked-lm": "ForMaskedLM",
    "sequence-classification": "ForSequenceClassification",
    "multiple-choice": "ForMultipleChoice",
    "question-answering": "ForQuestionAnswering",
    "token-classification": "ForTokenClassification",
}
PREFIX = {"bert": "Bert", "albert": "Albert"}


def tiny_fields(family: str, **changes: Any) -> dict[str, Any]:
    """A configuration of two layers of width 16."""
    fields = {
        "model_type": family,
        "vocab_size": 120,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 20,
    }
    return {**fields, **({"embedding_size": 8} if family == "albert" else {}), **changes}


def tiny_model(family: str, head: str, seed: int = 0, **changes: Any) -> Any:
    """A model whose every parameter is random, biases and norms too."""
    config = getattr(transformers, f"{PREFIX[family]}Config")(**tiny_fields(family, **changes))
    model = getattr(transformers, PREFIX[family] + CLASSES[head])(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model.eval()


def tensors_in(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a folder with one model.safetensors."""
    return load_file(folder / "model.safetensors")


def assert_same_model(one: Any, other: Any) -> None:
    """Two models have the same parameters, to the bit."""
    left, right = dict(one.named_parameters()), dict(other.named_parameters())
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]), name
