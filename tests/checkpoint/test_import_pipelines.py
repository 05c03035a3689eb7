"""`ds-bert import` of what pipelines have saved module by module: PipeDream's stages, DeepSpeed's layers."""

import json
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from ds_bert.checkpoint.convert.pipeline_checkpoints import assemble
from ds_bert.cli import main
from ds_bert.engine.process_group import start_process_group
from ds_bert.errors import UserError
from ds_bert.modeling.model import build_config, model_layers
from tests.support.hugging_face import PREFIX, assert_same_model, tensors_in, tiny_fields, tiny_model
from tests.support.processes import run_on_ranks
from tests.support.text import write_documents
from tests.support.toy import toy_map

LAYERS = 5


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "bert.json"
    path.write_text(json.dumps(tiny_fields("bert", num_hidden_layers=LAYERS)))
    return path


def pipedream_stages(model: Any, cuts: tuple[int, ...], global_numbers: bool) -> list[dict[str, dict[str, Any]]]:
    """A BERT's parameters as PipeDream's modules hold them: a module per stage, and the criterion in the last."""
    parts: list[dict[str, Any]] = [{} for _ in cuts[1:]]
    for name, tensor in model.state_dict().items():
        words = name.split(".")
        if name.startswith("bert.embeddings."):
            parts[0][f"embedding_layer.{'.'.join(words[2:])}"] = tensor
        elif name.startswith("bert.encoder."):
            layer = int(words[3])
            stage = next(stage for stage, (a, b) in enumerate(pairwise(cuts)) if a <= layer < b)
            parts[stage][f"layers.{layer - cuts[stage]}.{'.'.join(words[4:])}"] = tensor
        elif name.startswith("bert.pooler."):
            parts[-1][f"pooling_layer.{'.'.join(words[2:])}"] = tensor
        elif name != "cls.predictions.decoder.bias":
            parts[-1][f"pre_training_heads_layer.{'.'.join(words[1:])}"] = tensor
    numbers = range(len(parts)) if global_numbers else [0] * len(parts)
    stages = [{f"module{number}": part} for number, part in zip(numbers, parts, strict=True)]
    stages[-1][f"module{numbers[-1] + 1}"] = {}
    return stages


def write_pipedream(folder: Path, stages: list[dict[str, dict[str, Any]]], epoch: int, **extra: Any) -> None:
    folder.mkdir(exist_ok=True)
    for stage, state in enumerate(stages):
        data = {"epoch": epoch, "state_dict": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, **extra}
        torch.save(data, folder / f"checkpoint.{stage}.pth.tar.epoch.{epoch}")


def import_pipedream(folder: Path, output: Path, config: Path, *flags: str) -> int:
    words = ["import", "--from", "pipedream", str(folder), "--output_dir", str(output), "--config_name", str(config)]
    return main([*words, *flags])


def test_stages_of_pipedream_become_one_model(tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [tiny_model("bert", "pretraining", seed, num_hidden_layers=LAYERS) for seed in (1, 2)]
    write_pipedream(tmp_path / "runs", pipedream_stages(models[0], (0, 2, 5), global_numbers=False), 0)
    write_pipedream(tmp_path / "runs", pipedream_stages(models[1], (0, 1, 3, 4, 5), global_numbers=True), 11)
    assert import_pipedream(tmp_path / "runs", tmp_path / "last", config) == 0
    assert "epoch 11, 4 stages" in capsys.readouterr().out
    assert import_pipedream(tmp_path / "runs", tmp_path / "first", config, "--epoch", "0") == 0
    for folder, model in (("first", models[0]), ("last", models[1])):
        found = transformers.BertForPreTraining.from_pretrained(tmp_path / folder)
        assert_same_model(found, model)


def test_more_than_nine_layers_of_a_stage_keep_their_order(tmp_path: Path) -> None:
    config = tmp_path / "bert.json"
    config.write_text(json.dumps(tiny_fields("bert", num_hidden_layers=12)))
    model = tiny_model("bert", "pretraining", num_hidden_layers=12)
    write_pipedream(tmp_path / "runs", pipedream_stages(model, (0, 12), global_numbers=True), 3)
    assert import_pipedream(tmp_path / "runs", tmp_path / "out", config) == 0
    assert_same_model(transformers.BertForPreTraining.from_pretrained(tmp_path / "out"), model)


def test_names_of_old_and_a_vocabulary(tmp_path: Path) -> None:
    """Norms with gamma and beta, activations inside the dense layer, as the modelling code of that time had them."""
    text = write_documents(tmp_path / "text.txt")
    prepare = ["prepare", "--input", str(text), "--train_vocab", "120", "--num_workers", "1"]
    assert main([*prepare, "--output_dir", str(tmp_path / "data")]) == 0
    model = tiny_model("bert", "pretraining", num_hidden_layers=LAYERS)
    (stage,) = pipedream_stages(model, (0, LAYERS), global_numbers=True)
    for old, new in (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")):
        stage["module0"] = {name.replace(new, old): tensor for name, tensor in stage["module0"].items()}
    stage["module0"] = {
        name.replace("intermediate.dense.", "intermediate.dense_act."): tensor
        for name, tensor in stage["module0"].items()
    }
    write_pipedream(tmp_path / "runs", [stage], 3)
    (tmp_path / "bert.json").write_text(json.dumps(tiny_fields("bert", num_hidden_layers=LAYERS)))
    vocabulary = tmp_path / "data" / "tokenizer" / "vocab.txt"
    flags = ["--tokenizer_name", str(vocabulary)]
    assert import_pipedream(tmp_path / "runs", tmp_path / "out", tmp_path / "bert.json", *flags) == 0
    assert_same_model(transformers.BertForPreTraining.from_pretrained(tmp_path / "out"), model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.get_vocab() == {word: place for place, word in enumerate(vocabulary.read_text().splitlines())}


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /nowhere/evil",)


def lose_a_stage(folder: Path) -> None:
    (folder / "checkpoint.1.pth.tar.epoch.7").unlink()


def lose_the_last_stage(folder: Path) -> None:
    (folder / "checkpoint.2.pth.tar.epoch.7").unlink()


def lose_all(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def plant_code(folder: Path) -> None:
    path = folder / "checkpoint.2.pth.tar.epoch.7"
    torch.save({**torch.load(path), "args": Evil()}, path)


def cut_short(folder: Path) -> None:
    path = folder / "checkpoint.0.pth.tar.epoch.7"
    path.write_bytes(path.read_bytes()[:5000])


def name_wrongly(folder: Path) -> None:
    path = folder / "checkpoint.2.pth.tar.epoch.7"
    data = torch.load(path)
    data["state_dict"]["module2"]["adapter.weight"] = torch.ones(2)
    torch.save(data, path)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lose_a_stage, "epoch 7 has stage 2 but not stage 1"),
        (lose_the_last_stage, "3 encoder layers are there, the configuration has 5"),
        (lose_all, "has no checkpoint.<stage>.pth.tar.epoch.<epoch>"),
        (plant_code, "checkpoint.2.pth.tar.epoch.7: asks for posix.system, which is code and is not run"),
        (cut_short, "checkpoint.0.pth.tar.epoch.7: not a file of torch.save, or damaged"),
        (name_wrongly, "module2: adapter.weight is no parameter of a bert model that is known here"),
    ],
)
def test_what_is_wrong_with_stages_is_said(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], said: str
) -> None:
    model = tiny_model("bert", "pretraining", num_hidden_layers=LAYERS)
    write_pipedream(tmp_path / "runs", pipedream_stages(model, (0, 2, 3, 5), global_numbers=True), 7)
    damage(tmp_path / "runs")
    assert import_pipedream(tmp_path / "runs", tmp_path / "out", config) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (tmp_path / "out").exists(), error
    assert import_pipedream(tmp_path / "runs", tmp_path / "out", config, "--epoch", "1") == 2


def _save_with_deepspeed(family: str, folder: Path, as_pipeline: bool) -> dict[str, torch.Tensor]:
    """Save a model with DeepSpeed's own engine; return its parameters by Hugging Face's names."""
    import deepspeed
    from deepspeed.pipe import PipelineModule

    start_process_group(toy_map(1, 1), timeout_seconds=30)
    torch.manual_seed(3)
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
    }
    if not as_pipeline:
        whole = tiny_model(family, "pretraining", num_hidden_layers=LAYERS)
        engine, *_ = deepspeed.initialize(model=whole, config=settings, model_parameters=whole.parameters())
        engine.save_checkpoint(str(folder), tag="global_step5")
        return {name: parameter.detach().clone() for name, parameter in whole.named_parameters()}
    config = build_config(tiny_fields(family, num_hidden_layers=LAYERS), "pretraining")
    layers = [make() for make in model_layers(config, "pretraining")]
    expected: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for layer in layers:
            for name, parameter in layer.named_parameters():
                parameter.copy_(expected.setdefault(layer.hugging_face_name(name), torch.randn(parameter.shape)))
    pipeline = PipelineModule(layers=layers, num_stages=1)
    engine, *_ = deepspeed.initialize(model=pipeline, config=settings, model_parameters=pipeline.parameters())
    engine.save_checkpoint(str(folder), tag="global_step5")
    return expected


@pytest.mark.parametrize("family", ["bert", "albert"])
@pytest.mark.parametrize("as_pipeline", [True, False])
def test_what_deepspeed_itself_saves(tmp_path: Path, family: str, as_pipeline: bool) -> None:
    (expected,) = run_on_ranks(_save_with_deepspeed, 1, family, tmp_path / "saved", as_pipeline)
    assert bool(list((tmp_path / "saved/global_step5").glob("layer_*"))) == as_pipeline
    config = tmp_path / "model.json"
    config.write_text(json.dumps(tiny_fields(family, num_hidden_layers=LAYERS)))
    words = ["import", "--from", "deepspeed", str(tmp_path / "saved"), "--config_name", str(config)]
    assert main([*words, "--output_dir", str(tmp_path / "out")]) == 0
    found = tensors_in(tmp_path / "out")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    report = getattr(transformers, f"{PREFIX[family]}ForPreTraining").from_pretrained(
        tmp_path / "out", output_loading_info=True
    )[1]
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert main([*words, "--output_dir", str(tmp_path / "again"), "--tag", "global_step6"]) == 2


def test_one_slice_of_a_tensor_parallel_model_is_refused(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for slice_number in (0, 1):
        torch.save({}, tmp_path / f"layer_00-model_0{slice_number}-model_states.pt")
    words = ["import", "--from", "deepspeed", str(tmp_path), "--config_name", str(config)]
    assert main([*words, "--output_dir", str(tmp_path / "out")]) == 2
    assert "one slice of a tensor-parallel model" in capsys.readouterr().err


def test_a_parameter_that_comes_twice_must_be_the_same() -> None:
    fields = tiny_fields("bert", num_hidden_layers=0)
    words = {"word_embeddings.weight": torch.ones(3, 2)}
    assert assemble([("one", words), ("two", words)], fields).keys() == {"bert.embeddings.word_embeddings.weight"}
    with pytest.raises(UserError, match=r"two: word_embeddings.weight would be a second bert\.embeddings"):
        assemble([("one", words), ("two", {"word_embeddings.weight": torch.zeros(3, 2)})], fields)


def test_layers_that_share_their_parameters_must_be_the_same() -> None:
    """Four layers of two groups; the layers of one group are equal, unless one of them was trained by itself."""
    fields = tiny_fields("albert", num_hidden_layers=4, num_hidden_groups=2)
    pieces = [("saved", {f"layers.{index}.ffn.bias": torch.full((2,), float(index // 2))}) for index in range(4)]
    found = assemble(pieces, fields)
    names = [f"albert.encoder.albert_layer_groups.{group}.albert_layers.0.ffn.bias" for group in range(2)]
    assert list(found) == names and [found[name][0].item() for name in names] == [0.0, 1.0]
    for other in (torch.full((2,), 5.0), torch.ones(3)):
        pieces[3] = ("saved", {"layers.3.ffn.bias": other})
        with pytest.raises(
            UserError, match=r"saved: encoder layers 2 and 3 \(counted from 0\) differ in ffn\.bias, but"
        ):
            assemble(pieces, fields)
    pieces[3] = ("saved", {"layers.3.ffn.weight": torch.ones(3)})
    with pytest.raises(UserError, match=r"layers 2 and 3 .* differ in ffn\."):
        assemble(pieces, fields)
