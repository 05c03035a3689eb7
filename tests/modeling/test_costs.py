"""Counted costs against transformers' own models, torch's own counter and the published formulas."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AlbertConfig, AlbertForPreTraining, BertConfig, BertForPreTraining

from ds_bert.files import shipped_configs
from ds_bert.modeling.config import load_model_config
from ds_bert.modeling.costs import default_predictions, layer_costs, stage_memory, stage_parameters
from ds_bert.modeling.heads import trainable_heads
from tests.support.models import BOTH, chain, toy_model

MODELS = sorted(path.stem for path in (shipped_configs() / "models").glob("*.json"))
BERTS = [name for name in MODELS if not name.startswith("albert")]
ALBERTS = [name for name in MODELS if name.startswith("albert")]
TINY = {
    "vocab_size": 50,
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
}


def counted(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", BERTS)
def test_parameters_are_those_of_transformers(name):
    config = load_model_config(name)
    with torch.device("meta"):
        model = BertForPreTraining(BertConfig(**config))
    embeddings, *encoder, head = layer_costs(config, 128, 20)
    assert embeddings.parameters == counted(model.bert.embeddings)
    assert [layer.parameters for layer in encoder] == [counted(layer) for layer in model.bert.encoder.layer]
    tied = model.bert.embeddings.word_embeddings.weight.numel()
    assert head.parameters == counted(model.bert.pooler) + counted(model.cls) - tied
    assert head.tied_parameters == tied
    assert stage_parameters([embeddings, *encoder, head]) == counted(model)
    assert stage_parameters([*encoder, head]) == counted(model) - embeddings.parameters + tied


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("name", ALBERTS)
def test_alberts_shared_parameters_are_counted_once(name, groups):
    config = load_model_config(name) | {"num_hidden_groups": groups, "inner_group_num": groups}
    with torch.device("meta"):
        model = AlbertForPreTraining(AlbertConfig(**config))
    embeddings, *encoder, head = layers = layer_costs(config, 128, 20)
    projection = model.albert.encoder.embedding_hidden_mapping_in
    group = counted(model.albert.encoder.albert_layer_groups[0])
    tied = model.albert.embeddings.word_embeddings.weight.numel()
    assert embeddings.parameters == counted(model.albert.embeddings) + counted(projection)
    assert sum(layer.parameters for layer in encoder) == counted(model.albert.encoder) - counted(projection)
    assert stage_parameters(layers) == counted(model)
    assert stage_parameters(encoder[1:3]) == stage_parameters(encoder[:1]) == group
    assert stage_parameters(encoder[-3:]) == group
    assert stage_parameters([encoder[-1], head]) == group + head.parameters + tied


@pytest.mark.parametrize("head", trainable_heads())
@pytest.mark.parametrize("family", BOTH)
def test_parameters_and_flops_are_those_of_our_layers(family, head):
    """The products of one sequence, forward, as torch counts them: a third of those of a training step."""
    tokens, config = 16, toy_model(family, head, num_hidden_groups=2, num_choices=1)
    config._attn_implementation = "eager"  # whose products are counted one by one
    labels = {name: torch.tensor([value]) for name, value in
              {"context_begin": 1, "context_end": 9, "start_positions": 2, "masked_positions": 3}.items()}  # fmt: skip
    carry = {"input_ids": torch.ones(1, tokens, dtype=torch.int64), "token_type_ids": torch.zeros(1, tokens).long()}
    layers, seen = chain(config, head).layers, set()
    for layer, cost in zip(layers, layer_costs(config, tokens, 1, head=head), strict=True):
        with FlopCounterMode(display=False) as counter:
            carry = layer.train()(carry, labels)
        names = {layer.hugging_face_name(name): value for name, value in layer.named_parameters()}
        own = {name: value.numel() for name, value in names.items() if name not in seen}
        seen |= own.keys()
        assert (sum(own.values()), 3 * counter.get_total_flops()) == (cost.parameters, cost.flops)
        assert cost.tied_parameters == sum(value.numel() for value in names.values()) - cost.parameters


def test_flops_are_those_torch_counts():
    tokens = 8
    model = BertForPreTraining(BertConfig(**TINY, attn_implementation="eager"))
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, tokens, dtype=torch.long))
    encoder = sum(counter.get_flop_counts()["BertForPreTraining.bert.encoder"].values())
    # plain transformers computes the logits of every position
    embeddings, *layers, head = layer_costs(TINY, tokens, max_predictions=tokens)
    assert embeddings.flops == 0
    assert [layer.flops for layer in layers] == [encoder] * 3  # three layers forward are one layer's three passes
    assert head.flops == 3 * (counter.get_total_flops() - encoder)


def test_backward_takes_twice_the_forward():
    model = BertForPreTraining(BertConfig(**TINY, attn_implementation="eager"))
    hidden = torch.randn(1, 8, TINY["hidden_size"], requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        model.bert.encoder(hidden).last_hidden_state.sum().backward()
    assert sum(layer.flops for layer in layer_costs(TINY, 8, 1)[1:-1]) == counter.get_total_flops()


@pytest.mark.parametrize("family", BOTH)
def test_activations_are_those_torch_keeps(family):
    tokens, hidden, heads = 64, 48, 3
    sizes = {"hidden_size": hidden, "intermediate_size": 80, "max_position_embeddings": tokens}
    config = toy_model(family, "pretraining", **sizes, num_attention_heads=heads)
    config._attn_implementation = "eager"
    layer = chain(config, "pretraining").layers[1].train()
    owned = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}
    kept = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in owned:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer({"hidden": torch.randn(1, tokens, hidden, requires_grad=True)})
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    hidden_masks = 2 if family == "bert" else 1
    masks_and_dropped_scores = hidden_masks * tokens * hidden + heads * tokens**2 * (1 + 4)
    counted_bytes = layer_costs(config, tokens, 1)[1].activation_bytes - masks_and_dropped_scores
    statistics_of_layer_norms = 2 * 2 * tokens * 4
    assert measured == counted_bytes + statistics_of_layer_norms


@pytest.mark.parametrize("name", ["bert-base-uncased", "bert24"])
def test_an_encoder_layer_is_the_published_formula(name):
    config = load_model_config(name)
    hidden, heads, tokens = config["hidden_size"], config["num_attention_heads"], 512
    layer = layer_costs(config, tokens, 77, bytes_per_value=2)[1]
    assert layer.flops == 3 * (24 * tokens * hidden**2 + 4 * tokens**2 * hidden)
    assert layer.activation_bytes == tokens * hidden * 34 + 5 * heads * tokens**2


def test_the_head_computes_masked_positions_only():
    few, many = (layer_costs(TINY, 8, predictions)[-1] for predictions in (2, 4))
    hidden, vocabulary = TINY["hidden_size"], TINY["vocab_size"]
    assert many.flops - few.flops == 3 * 2 * (2 * hidden * hidden + 2 * hidden * vocabulary)
    assert many.activation_bytes - few.activation_bytes == 2 * 4 * (4 * hidden + vocabulary)


def test_a_configuration_object_counts_as_its_mapping_does():
    assert layer_costs(BertConfig(**TINY), 8, 2) == layer_costs(TINY, 8, 2)
    albert = AlbertConfig(**TINY)
    assert layer_costs(albert, 8, 2) == layer_costs(albert.to_dict(), 8, 2) != layer_costs(TINY, 8, 2)


def test_a_head_of_ones_own_counts_as_nothing():
    head = layer_costs(TINY, 8, 2, head=torch.nn.Identity)[-1]
    assert (head.name, head.parameters, head.flops, head.activation_bytes) == ("head", 0, 0, 0)


def test_scores_follow_the_number_of_labels():
    named = TINY | {"id2label": {"0": "a", "1": "b", "2": "c"}}
    costs = [layer_costs(config, 8, 2, head="token-classification")[-1].parameters
             for config in (TINY, named, TINY | {"num_labels": 5})]  # fmt: skip
    assert costs == [(TINY["hidden_size"] + 1) * labels for labels in (2, 3, 5)]


@pytest.mark.parametrize(("tokens", "predictions"), [(128, 20), (512, 77), (1, 1)])
def test_default_predictions_are_15_percent_rounded_up(tokens, predictions):
    assert default_predictions(tokens) == predictions


@pytest.mark.parametrize(
    ("zero_stage", "bf16", "bytes_of_weights", "bytes_of_optimizer"),
    [(0, False, 4, 8), (1, False, 4, 8 / 4), (0, True, 2, 12), (1, True, 2, 12 / 4)],
)
def test_stage_memory_by_precision_and_zero(zero_stage, bf16, bytes_of_weights, bytes_of_optimizer):
    layers = layer_costs(TINY, 8, 2)[2:]
    parameters = sum(layer.parameters for layer in layers) + TINY["vocab_size"] * TINY["hidden_size"]
    memory = stage_memory(
        layers, micro_batch_size=5, micro_batches_in_flight=3, replicas=4, zero_stage=zero_stage, bf16=bf16
    )
    assert memory.weights == bytes_of_weights * parameters
    assert memory.gradients == 4 * parameters
    assert memory.optimizer == pytest.approx(bytes_of_optimizer * parameters, abs=1)
    assert memory.activations == 15 * sum(layer.activation_bytes for layer in layers)
    assert memory.total == memory.weights + memory.gradients + memory.optimizer + memory.activations
