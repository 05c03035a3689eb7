"""`ds-bert export --head …`: what is taken, fresh, left out or refused; exact round trips; the model card."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import pipeline

from ds_bert.checkpoint import folders
from ds_bert.checkpoint.pretrained import PretrainedWeights
from ds_bert.checkpoint.tensors import describe_weights, write_tensors
from ds_bert.cli import main
from ds_bert.files import write_json
from ds_bert.modeling.config import load_model_config
from ds_bert.modeling.model import build_config, model_layers
from tests.support.hugging_face import CLASSES, PREFIX, assert_same_model, tensors_in, tiny_fields, tiny_model
from tests.support.text import write_documents

OURS = ("pretraining", "sequence-classification", "multiple-choice", "question-answering", "token-classification")
STATE = {"step": 7, "optimizer": {}, "global_batch": 32, "examples_seen": 224, "data": "0123abcd"}


def write_checkpoint(run: Path, fields: dict[str, Any], tensors: dict[str, torch.Tensor], **state: Any) -> Path:
    """Write checkpoint-7 of a run, its weights spread over two files, those of no class of transformers apart."""
    folder = folders.begin(run, 7)
    extra = {name: tensor for name, tensor in tensors.items() if "beam_head" in name}
    names = sorted(tensors.keys() - extra)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    parts |= {"ds_bert.safetensors": sorted(extra)} if extra else {}
    for file, chosen in parts.items():
        write_tensors(folder / file, {name: tensors[name] for name in chosen})
    write_json(folder / "config.json", fields)
    files = {name: file for file, chosen in parts.items() for name in chosen}
    describe_weights(folder, files, dict.fromkeys(parts, 1))
    write_json(folder / "trainer_state.json", {**STATE, **state})
    write_json(folder / "arguments.json", {"train_path": "data/wiki", "learning_rate": 1e-4, "seed": 3})
    write_json(folder / "stage_map.json", {"module_to_stage_map": [0, 1], "stage_to_rank_map": {"0": [0], "1": [1]}})
    return folders.commit(run, 7)


def through_our_layers(folder: Path, head: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Load a Hugging Face folder into the pipeline's layers; return what they save: configuration and weights."""
    fields = {**load_model_config(folder), "num_choices": 2}
    config, weights = build_config(fields, head), PretrainedWeights(folder, fields["model_type"])
    saved: dict[str, torch.Tensor] = {}
    for make_layer in model_layers(config, head):
        layer = make_layer()
        with torch.no_grad():
            for name, parameter in layer.named_parameters():
                parameter.copy_(weights.read(layer.hugging_face_name(name)))
                saved[layer.hugging_face_name(name)] = parameter.detach().clone()
    return json.loads(config.to_json_string(use_diff=False)), saved


def export(checkpoint: Path, output: Path, *flags: str) -> int:
    return main(["export", str(checkpoint), "--output_dir", str(output), *flags])


def load(folder: Path, family: str, head: str) -> Any:
    model_class = getattr(transformers, PREFIX[family] + CLASSES[head])
    model, report = model_class.from_pretrained(folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return model.eval()


@pytest.mark.parametrize("family", PREFIX)
@pytest.mark.parametrize("head", OURS)
def test_hugging_face_to_pipeline_to_hugging_face_is_exact(tmp_path: Path, family: str, head: str) -> None:
    model = tiny_model(family, head, num_labels=3 if "classification" in head else 2)
    model.save_pretrained(tmp_path / "source")
    words = ["import", "--from", "huggingface", str(tmp_path / "source"), "--output_dir", str(tmp_path / "in")]
    assert main(words) == 0
    checkpoint = write_checkpoint(tmp_path / "run", *through_our_layers(tmp_path / "in", head))
    assert export(checkpoint, tmp_path / "out") == 0
    found = load(tmp_path / "out", family, head)
    assert_same_model(found, model)
    ids = torch.arange(12).view(1, 12) if head != "multiple-choice" else torch.arange(24).view(1, 2, 12)
    with torch.no_grad():
        torch.testing.assert_close(found(ids)[0], model(ids)[0])


@pytest.fixture(params=sorted(PREFIX))
def pretrained(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Any, Path]:
    """(family, model, checkpoint) of a pre-training run."""
    model = tiny_model(request.param, "pretraining")
    fields = json.loads(model.config.to_json_string(use_diff=False))
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return request.param, model, write_checkpoint(tmp_path / "run", fields, tensors)


@pytest.mark.parametrize("head", CLASSES)
def test_a_pretrained_model_with_every_head(
    tmp_path: Path, pretrained: tuple[str, Any, Path], head: str, capsys: pytest.CaptureFixture[str]
) -> None:
    family, model, checkpoint = pretrained
    labels = ["--num_labels", "5"] if head in ("sequence-classification", "token-classification") else []
    assert export(checkpoint, tmp_path / "out", "--head", head, *labels) == 0
    printed = capsys.readouterr().out
    found = load(tmp_path / "out", family, head)
    before = dict(model.named_parameters())
    prefix = f"{family}." if head == "base" else ""
    fresh, kept = [], {prefix + name: parameter for name, parameter in found.named_parameters()}
    for name, parameter in kept.items():
        if name in before:
            assert torch.equal(parameter, before[name]), name
        else:
            fresh.append(name)
            assert name.startswith(("classifier.", "qa_outputs."))
            assert parameter.abs().max() < 0.1 and (name.endswith("weight") or not parameter.any())
    dropped = sorted(before.keys() - kept.keys())
    assert found.config.num_labels == (5 if labels else 2)
    assert ("fresh, to be trained: " + ", ".join(fresh) in printed) == bool(fresh)
    assert (f"left out: {', '.join(dropped)}" in printed) == bool(dropped)
    if labels:
        assert kept["classifier.weight"].shape == (5, 16)


def test_fresh_weights_follow_from_the_seed(tmp_path: Path, pretrained: tuple[str, Any, Path]) -> None:
    heads = []
    for number, seed in enumerate((1, 1, 2)):
        flags = ["--head", "question-answering", "--seed", str(seed)]
        assert export(pretrained[2], tmp_path / str(number), *flags) == 0
        heads.append(tensors_in(tmp_path / str(number))["qa_outputs.weight"])
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def test_one_head_s_classifier_is_not_another_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model("bert", "sequence-classification", num_labels=2, id2label={0: "bad", 1: "good"})
    fields = json.loads(model.config.to_json_string(use_diff=False))
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    checkpoint = write_checkpoint(tmp_path / "run", {**fields, "architectures": None}, tensors)
    assert export(checkpoint, tmp_path / "same") == 0
    assert load(tmp_path / "same", "bert", "sequence-classification").config.id2label == {0: "bad", 1: "good"}
    assert_same_model(load(tmp_path / "same", "bert", "sequence-classification"), model)
    assert export(checkpoint, tmp_path / "tokens", "--head", "token-classification") == 0
    assert "fresh, to be trained: classifier.weight, classifier.bias" in capsys.readouterr().out
    found = load(tmp_path / "tokens", "bert", "token-classification")
    assert found.config.id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert not torch.equal(found.classifier.weight, model.classifier.weight)


def test_what_no_class_can_hold_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model("albert", "base")
    fields = json.loads(model.config.to_json_string(use_diff=False))
    tensors = {f"albert.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    tensors |= {"beam_head.start.weight": torch.ones(1, 16), "beam_head.start.bias": torch.ones(1)}
    checkpoint = write_checkpoint(tmp_path / "run", fields, tensors)
    assert "ds_bert" in json.loads((checkpoint / "config.json").read_text())
    for head in (None, "base", "question-answering"):
        assert export(checkpoint, tmp_path / "out", *(["--head", head] if head else [])) == 2
        error = capsys.readouterr().err
        assert "cannot hold 2 of its parameters, such as beam_head.start.bias" in error and error.count("\n") == 1
        assert not (tmp_path / "out").exists()
    assert export(checkpoint, tmp_path / "out", "--drop_extra_weights") == 0
    assert "left out: beam_head.start.bias, beam_head.start.weight" in capsys.readouterr().out
    assert "beam_head.start.weight" in (tmp_path / "out" / "README.md").read_text()
    assert "ds_bert" not in json.loads((tmp_path / "out" / "config.json").read_text())
    assert_same_model(load(tmp_path / "out", "albert", "base"), model)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--head", "base", "--num_labels", "3"], "--num_labels 3: --head base has no labels to choose"),
        (["--head", "token-classification", "--num_labels", "0"], "--num_labels is 0, expected at least 1"),
        (["--head", "poetry"], "argument --head: invalid choice: 'poetry'"),
    ],
)
def test_wrong_flags_are_refused(
    tmp_path: Path,
    pretrained: tuple[str, Any, Path],
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    said: str,
) -> None:
    assert export(pretrained[2], tmp_path / "out", *flags) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_damaged_checkpoint_is_refused(
    tmp_path: Path, pretrained: tuple[str, Any, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = pretrained[2] / "model-00001-of-00002.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert export(pretrained[2], tmp_path / "out") == 2
    assert str(path) in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_the_model_card_says_where_it_comes_from(tmp_path: Path, pretrained: tuple[str, Any, Path]) -> None:
    family, _, checkpoint = pretrained
    entries = [
        {"step": 5, "eval/loss": 3.5, "train/loss": 4.0},
        {"step": 7, "train/loss": 3.25},
        {"step": 9, "eval/loss": 1.0},
    ]
    log = "".join(json.dumps(entry) + "\n" for entry in entries) + '{"step": 9, "ev'
    (checkpoint.parent / "log.jsonl").write_text(log)
    assert export(checkpoint.parent, tmp_path / "out", "--head", "sequence-classification") == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: text-classification\ntags:\n")
    for said in (
        "7 optimizer steps",
        "| train_path | data/wiki |",
        "| data | 0123abcd |",
        "| examples seen | 224 |",
        "| seed | 3 |",
        "| eval/loss | 3.5000 |",
        "| train/loss | 3.2500 |",
        '"stage_to_rank_map": {"0": [0], "1": [1]}',
        "freshly drawn: `classifier.weight`, `classifier.bias`. Fine-tune before use.",
        f"{PREFIX[family]}ForSequenceClassification.from_pretrained(",
    ):
        assert said in card, said


@pytest.mark.parametrize(
    ("head", "task"),
    [
        ("masked-lm", "fill-mask"),
        ("sequence-classification", "text-classification"),
        ("token-classification", "token-classification"),
        ("base", "feature-extraction"),
    ],
)
def test_transformers_pipelines_take_it(tmp_path: Path, head: str, task: Any) -> None:
    text = write_documents(tmp_path / "text.txt")
    prepare = ["prepare", "--input", str(text), "--train_vocab", "120", "--num_workers", "1"]
    assert main([*prepare, "--output_dir", str(tmp_path / "data")]) == 0
    model = tiny_model("bert", "pretraining")
    folder = tmp_path / "source"
    model.save_pretrained(folder)
    for file in (tmp_path / "data" / "tokenizer").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    fields, tensors = through_our_layers(folder, "pretraining")
    checkpoint = write_checkpoint(tmp_path / "run", fields, tensors)
    for file in (tmp_path / "data" / "tokenizer").iterdir():
        (checkpoint / file.name).write_bytes(file.read_bytes())
    recommit(checkpoint)
    assert export(checkpoint, tmp_path / "out", "--head", head) == 0
    assert pipeline(task, model=str(tmp_path / "out"))("[MASK] b c")


def recommit(checkpoint: Path) -> None:
    """Let the manifest list the files that are there now."""
    (checkpoint / "manifest.json").unlink()
    checkpoint.rename(folders.partial_folder(checkpoint.parent, 7))
    folders.commit(checkpoint.parent, 7)


def test_the_configuration_s_tiny_fields_are_enough(tmp_path: Path) -> None:
    """A checkpoint whose config.json leaves out what the family's defaults say."""
    model = tiny_model("bert", "masked-lm")
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    checkpoint = write_checkpoint(tmp_path / "run", tiny_fields("bert"), tensors)
    assert export(checkpoint, tmp_path / "out") == 0
    assert_same_model(load(tmp_path / "out", "bert", "masked-lm"), model)
