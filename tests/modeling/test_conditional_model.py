"""The arrangements as wholes: against the written-out model, against plain BERT, and where the modules lie."""

import re
from typing import Any

import pytest
import torch
from transformers import BertModel, PretrainedConfig

from ds_bert.modeling.conditional import MultitaskHead
from ds_bert.modeling.config import MODULES, arrangement
from ds_bert.modeling.model import BatchShape, carry_declaration, conditional_carry, model_layers
from tests.support.conditional import example_logits
from tests.support.models import Chain, chain, toy_model

TASKS = [
    {"name": "one", "labels": ["a", "b"]},
    {"name": "number", "labels": []},
    {"name": "three", "labels": ["a", "b", "c"]},
]
ROWS, LENGTH = 6, 14


def config_of(kind: str, **changes: Any) -> PretrainedConfig:
    return toy_model("bert", "sequence-classification", conditional=kind, conditional_length=16, tasks=TASKS, **changes)


def shaken(model: Chain) -> Chain:
    """All parameters away from their first values, which hide much behind zeros."""
    generator = torch.Generator().manual_seed(5)
    for name in sorted(model.parameters):
        parameter = model.parameters[name].data
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model


def batch() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A mix of tasks and lengths."""
    generator = torch.Generator().manual_seed(3)
    lengths = torch.tensor([14, 5, 9, 14, 1, 12])
    mask = torch.arange(LENGTH) < lengths[:, None]
    tasks = torch.tensor([2, 0, 1, 2, 0, 1])
    ids = torch.randint(5, 90, (ROWS, LENGTH), generator=generator) * mask
    types = torch.randint(0, 2, (ROWS, LENGTH), generator=generator) * mask
    inputs = {"input_ids": ids, "token_type_ids": types, "attention_mask": mask, "task_ids": tasks}
    return inputs, {"task_ids": tasks}


@pytest.mark.parametrize("without", [None, *MODULES])
@pytest.mark.parametrize("kind", ["base", "large", "none"])
def test_it_is_the_model_written_out(kind: str, without: str | None) -> None:
    """With all modules, and with each of them left out."""
    config = config_of(kind, conditional_modules=[name for name in MODULES if name != without])
    model = shaken(chain(config, MultitaskHead))
    for parameter in model.parameters.values():
        parameter.data = parameter.data.double()
    inputs, labels = batch()
    logits = model.run(inputs, labels)["logits"]
    for row, task in enumerate(inputs["task_ids"].tolist()):
        mask = inputs["attention_mask"][row]
        expected = example_logits(
            config, model.parameters, task, inputs["input_ids"][row][mask], inputs["token_type_ids"][row][mask]
        )
        count = max(1, len(TASKS[task]["labels"]))
        assert (logits[row, :count] - expected).abs().max() <= 1e-6
        assert (logits[row, count:] == -torch.inf).all()


@pytest.mark.parametrize("kind", ["base", "large"])
def test_without_task_and_bottleneck_it_is_plain_bert(kind: str) -> None:
    """Transformers' own BERT, below the same decoders."""
    model = chain(config_of(kind, conditional_modules=["alignment", "attention", "norm"]), MultitaskHead)
    model.parameters["conditional.task_embedding.weight"].data.zero_()
    bert = BertModel(config_of("none")).eval()
    for name, parameter in bert.named_parameters():
        parameter.data = model.parameters[f"bert.{name}"].data
    inputs, labels = batch()
    pooled = bert(inputs["input_ids"], inputs["attention_mask"].long(), inputs["token_type_ids"]).pooler_output
    decoders = [model.parameters[f"conditional.decoders.{name}"] for name in ("weight", "bias")]
    expected = torch.nn.functional.linear(pooled, *decoders)
    logits, first = model.run(inputs, labels)["logits"], (0, 2, 3)
    for row, task in enumerate(inputs["task_ids"].tolist()):
        count = max(1, len(TASKS[task]["labels"]))
        assert (logits[row, :count] - expected[row, first[task] : first[task] + count]).abs().max() <= 1e-6


def test_every_parameter_has_a_gradient() -> None:
    for kind in ("base", "large"):
        model = shaken(chain(config_of(kind), MultitaskHead))
        inputs, labels = batch()
        logits = model.run(inputs, labels)["logits"]
        logits[logits.isfinite()].square().sum().backward()
        without = {name for name, item in model.parameters.items() if item.grad is None or not item.grad.abs().max()}
        # of the last layer of large, nothing but the stream that the bottleneck reads counts; all is used
        assert without == set()


@pytest.mark.parametrize(
    ("kind", "layers", "norms", "bottlenecks"),
    [
        ("base", 12, range(6, 12), [11]),
        ("base", 6, range(3, 6), [5]),
        ("base", 5, range(3, 5), [4]),
        ("large", 24, range(12, 24), range(24)),
        ("large", 6, range(3, 6), range(6)),
    ],
)
def test_modules_lie_relative_to_depth(kind: str, layers: int, norms: range, bottlenecks: Any) -> None:
    config = config_of(kind, num_hidden_layers=layers)
    places = [arrangement(config, index) for index in range(layers)]
    assert [index for index, place in enumerate(places) if place.norms] == list(norms)
    having = [index for index, place in enumerate(places) if place.bottleneck or place.side_stream]
    assert having == list(bottlenecks)


@pytest.mark.parametrize("kind", ["base", "large"])
def test_a_module_that_is_left_out_has_no_parameters(kind: str) -> None:
    """The paper's ablation (table 1) puts one after the other in."""
    parts = {
        "alignment": r"alignment\..*",
        "attention": r"layer\.\d\.attention\..*",
        "norm": r"layer\.\d\.(\w+_norm\.linear|bottleneck_film)\..*",
        "bottleneck": r"layer\.\d\.bottleneck.*",
    }
    whole = set(chain(config_of(kind), MultitaskHead).parameters)
    for name, part in parts.items():
        rest = set(chain(config_of(kind, conditional_modules=[*set(MODULES) - {name}]), MultitaskHead).parameters)
        assert whole - rest == {found for found in whole if re.fullmatch(rf"conditional\.{part}", found)}


@pytest.mark.parametrize(("kind", "names"), [("base", ["condition"]), ("large", ["condition", "side"]), ("none", [])])
def test_what_crosses_a_boundary_is_declared(kind: str, names: list[str]) -> None:
    config = config_of(kind)
    fields = conditional_carry(config, torch.float32, BatchShape(ROWS, LENGTH, True))
    assert [field.name for field in fields] == names and all(field.has_gradient for field in fields)
    inputs, labels = batch()
    *body, _ = (make() for make in model_layers(config, MultitaskHead))
    carry = inputs
    for layer in body:
        carry = layer(carry, labels)
        declared = carry_declaration(config, torch.float32)(ROWS, LENGTH, True)
        assert {field.name: field.shape for field in declared} == {name: item.shape for name, item in carry.items()}
