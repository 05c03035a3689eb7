"""`ds-bert import --from tensorflow`: Google's names and kernels; what TensorFlow itself writes, in the slow tier."""

import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from ds_bert.checkpoint.convert.tensorflow import read_tensorflow, weights_from_variables
from ds_bert.cli import main
from ds_bert.errors import UserError
from tests.support.hugging_face import CLASSES, PREFIX, assert_same_model, tiny_fields, tiny_model

# Google's name of each module, by what Hugging Face's begins with; written down from Google's modelling code.
BERT = {
    r"bert\.embeddings\.(\w+)_embeddings\.weight": r"bert/embeddings/\1_embeddings",
    r"bert\.embeddings\.LayerNorm\.": r"bert/embeddings/LayerNorm/",
    r"bert\.encoder\.layer\.(\d+)\.attention\.self\.(\w+)\.": r"bert/encoder/layer_\1/attention/self/\2/",
    r"bert\.encoder\.layer\.(\d+)\.attention\.output\.(\w+)\.": r"bert/encoder/layer_\1/attention/output/\2/",
    r"bert\.encoder\.layer\.(\d+)\.(intermediate|output)\.(\w+)\.": r"bert/encoder/layer_\1/\2/\3/",
    r"bert\.pooler\.dense\.": r"bert/pooler/dense/",
    r"cls\.predictions\.transform\.(\w+)\.": r"cls/predictions/transform/\1/",
    r"cls\.predictions\.bias": r"cls/predictions/output_bias",
    r"cls\.seq_relationship\.weight": r"cls/seq_relationship/output_weights",
    r"cls\.seq_relationship\.bias": r"cls/seq_relationship/output_bias",
}
INNER = r"albert\.encoder\.albert_layer_groups\.(\d+)\.albert_layers\.(\d+)\."
GROUP = r"bert/encoder/transformer/group_\1/inner_group_\2/"
ALBERT = {
    r"albert\.embeddings\.(\w+)_embeddings\.weight": r"bert/embeddings/\1_embeddings",
    r"albert\.embeddings\.LayerNorm\.": r"bert/embeddings/LayerNorm/",
    r"albert\.encoder\.embedding_hidden_mapping_in\.": r"bert/encoder/embedding_hidden_mapping_in/",
    INNER + r"attention\.(query|key|value)\.": GROUP + r"attention_1/self/\3/",
    INNER + r"attention\.dense\.": GROUP + r"attention_1/output/dense/",
    INNER + r"attention\.LayerNorm\.": GROUP + r"LayerNorm/",
    INNER + r"ffn\.": GROUP + r"ffn_1/intermediate/dense/",
    INNER + r"ffn_output\.": GROUP + r"ffn_1/intermediate/output/dense/",
    INNER + r"full_layer_layer_norm\.": GROUP + r"LayerNorm_1/",
    r"albert\.pooler\.": r"bert/pooler/dense/",
    r"predictions\.(dense|LayerNorm)\.": r"cls/predictions/transform/\1/",
    r"predictions\.bias": r"cls/predictions/output_bias",
    r"sop_classifier\.classifier\.weight": r"cls/seq_relationship/output_weights",
    r"sop_classifier\.classifier\.bias": r"cls/seq_relationship/output_bias",
}
FINE_TUNED = {
    "sequence-classification": {r"classifier\.weight": "output_weights", r"classifier\.bias": "output_bias"},
    "question-answering": {
        r"qa_outputs\.weight": "cls/squad/output_weights",
        r"qa_outputs\.bias": "cls/squad/output_bias",
    },
}


def google_variables(model: Any, family: str, head: str) -> dict[str, np.ndarray]:
    """A model as Google's code names its variables; kernels are (in, out)."""
    rules = {**(BERT if family == "bert" else ALBERT), **FINE_TUNED.get(head, {})}
    variables = {}
    for name, parameter in model.named_parameters():
        value = parameter.detach().numpy()
        pattern = next(pattern for pattern in rules if re.match(pattern, name))
        found = re.match(pattern, name)
        assert found is not None
        variable = found.expand(rules[pattern])
        if variable.endswith("/"):
            is_norm, kind = "norm" in name.lower(), name[found.end() :]
            variable += {"weight": "gamma" if is_norm else "kernel", "bias": "beta" if is_norm else "bias"}[kind]
            value = value.T if variable.endswith("kernel") else value
        variables[variable] = value
    return variables


HEADS = ("pretraining", "sequence-classification", "question-answering")


def made(family: str, head: str) -> Any:
    changes = {"num_hidden_groups": 2, "inner_group_num": 2} if family == "albert" else {}
    return tiny_model(family, head, num_labels=3 if head == "sequence-classification" else 2, **changes)


@pytest.mark.parametrize("family", PREFIX)
@pytest.mark.parametrize("head", HEADS)
def test_variables_get_hugging_face_s_names_and_shapes(family: str, head: str) -> None:
    model = made(family, head)
    variables = google_variables(model, family, head)
    optimizer = {f"{name}/adam_{moment}": value for name, value in variables.items() for moment in "mv"}
    weights, ignored = weights_from_variables({**variables, **optimizer, "global_step": np.array(7)}, family, "x")
    expected = dict(model.named_parameters())
    assert weights.keys() == expected.keys() and len(ignored) == len(optimizer) + 1
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_an_unknown_variable_is_refused() -> None:
    with pytest.raises(UserError, match="x: bert/adapter/kernel is no variable of a bert model that is known here"):
        weights_from_variables({"bert/adapter/kernel": np.ones((2, 2))}, "bert", "x")


def test_without_tensorflow_the_way_to_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("tensorflow"):
        pytest.skip("TensorFlow is installed")
    (tmp_path / "bert_config.json").write_text(json.dumps(tiny_fields("bert")))
    (tmp_path / "bert_model.ckpt.index").touch()
    assert main(["import", "--from", "tensorflow", str(tmp_path), "--output_dir", str(tmp_path / "out")]) == 2
    assert "pip install 'ds_bert[tensorflow]'" in capsys.readouterr().err


def test_a_folder_without_one_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither bert_config.json nor albert_config.json"):
        read_tensorflow(tmp_path)
    (tmp_path / "albert_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"needed is one checkpoint .* found none"):
        read_tensorflow(tmp_path)
    for name in ("model.ckpt-1.index", "model.ckpt-2.index"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"found model.ckpt-1, model.ckpt-2; name one as SOURCE"):
        read_tensorflow(tmp_path)
    with pytest.raises(UserError, match=r"there is no model.ckpt-3.index"):
        read_tensorflow(tmp_path / "model.ckpt-3")


def write_with_tensorflow(prefix: Path, variables: dict[str, np.ndarray]) -> None:
    tensorflow = pytest.importorskip("tensorflow", reason="TensorFlow is an optional extra")
    graph = tensorflow.Graph()
    with graph.as_default(), tensorflow.compat.v1.Session(graph=graph) as session:
        for name, value in variables.items():
            tensorflow.compat.v1.get_variable(name, initializer=value)
        session.run(tensorflow.compat.v1.global_variables_initializer())
        tensorflow.compat.v1.train.Saver().save(session, str(prefix), write_meta_graph=False)


@pytest.mark.slow
@pytest.mark.parametrize("family", PREFIX)
@pytest.mark.parametrize("head", HEADS)
def test_what_tensorflow_itself_writes(tmp_path: Path, family: str, head: str) -> None:
    model, source = made(family, head), tmp_path / "google"
    source.mkdir()
    variables = google_variables(model, family, head)
    first = next(iter(variables))
    others = {f"{first}/adam_m": variables[first], "global_step": np.array(7)}
    name = "bert_model.ckpt" if family == "bert" else "model.ckpt-best"
    write_with_tensorflow(source / name, {**variables, **others})
    fields = {key: value for key, value in model.config.to_dict().items() if key in tiny_fields(family)}
    fields |= {"num_hidden_groups": 2, "inner_group_num": 2, "hidden_act": "gelu"} if family == "albert" else {}
    del fields["model_type"]
    (source / f"{family}_config.json").write_text(json.dumps(fields))
    words = ["import", "--from", "tensorflow", str(source if head != "pretraining" else source / name)]
    assert main([*words, "--output_dir", str(tmp_path / "out")]) == 0
    found = getattr(transformers, PREFIX[family] + CLASSES[head]).from_pretrained(tmp_path / "out")
    assert_same_model(found, model)
    if family == "albert":
        assert found.config.hidden_act == "gelu_new"
    shutil.copyfile(source / f"{name}.index", source / "model.ckpt-9.index")
    assert main([*words[:3], str(source / "model.ckpt-9"), "--output_dir", str(tmp_path / "again")]) == 2
