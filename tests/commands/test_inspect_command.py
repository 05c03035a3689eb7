"""`ds-bert inspect` of checkpoints, runs and Hugging Face folders."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ds_bert.checkpoint.saving import describe_model
from ds_bert.checkpoint.training_state import save_checkpoint
from ds_bert.cli import main
from ds_bert.data.vocabulary import load_tokenizer
from ds_bert.engine.process_group import start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.modeling.model import build_config
from ds_bert.stage_map import StageMap
from tests.support.checkpoints import toy_engine, toy_fields, train
from tests.support.hugging_face import tiny_model
from tests.support.processes import run_on_ranks
from tests.support.text import prepare_data
from tests.support.toy import toy_map

ARGUMENTS = {"train_path": "data/wiki", "seed": 3}


def _save(stage_map: StageMap, settings: EngineSettings, out: Path, family: str, head: str, tokenizer: Path) -> int:
    """Save a toy and return the elements of this process's parameters."""
    grid = start_process_group(stage_map, 30)
    engine = toy_engine(grid, settings, family, head)
    if head == "pretraining":
        train(engine, 0, 2)
    config = build_config(toy_fields(family), head)
    describe = describe_model(config, load_tokenizer(tokenizer))
    save_checkpoint(out, engine, describe, {"arguments": ARGUMENTS, "global_batch": 8, "data": "0123"})
    return sum(parameter.numel() for parameter in engine.module.parameters_by_name().values())


def inspect(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["inspect", str(path), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_data(tmp_path_factory.mktemp("data")) / "tokenizer"


def test_a_run_of_two_weight_versions(tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage_map = toy_map(2, 1, [[1], [0]])
    counts = run_on_ranks(
        _save, 2, stage_map, EngineSettings(schedule="2bw"), tmp_path, "bert", "pretraining", tokenizer
    )
    found = inspect(tmp_path, capsys)
    assert found["path"] == str(tmp_path / "checkpoint-2") and found["checkpoints"] == ["checkpoint-2"]
    assert (found["model_type"], found["head"], found["step"]) == ("bert", "pretraining", 2)
    assert found["sizes"]["num_hidden_layers"] == 4 and found["dtypes"] == {"float32": 4 * 16 + 14}
    words = 97 * 32  # the decoder's copy of the word embeddings, on the other process
    assert found["parameters"] == sum(counts) - words == sum(found["parameters_by_layer"].values())
    layers = list(found["parameters_by_layer"])
    assert layers == ["embeddings", *(f"encoder layer {index}" for index in range(4)), "pooler", "head"]
    assert found["moments"] == ["exp_avg", "exp_avg_sq", "previous_weights"] and found["weight_versions"] == 2
    assert found["stage_map"]["stage_to_rank_map"] == {"0": [1], "1": [0]}
    assert found["arguments"] == ARGUMENTS and found["state"]["data"] == "0123"
    assert found["tokenizer"]["tokens"] == 200 and not found["faults"] and not found["extra_weights"]
    assert main(["inspect", str(tmp_path / "checkpoint-2")]) == 0
    printed = capsys.readouterr().out
    for said in (
        "checkpoint-2, step 2",
        "encoder layer 3 ",
        "exp_avg, exp_avg_sq, previous_weights",
        "2 of the weights",
        "embeddings, encoder layers 0–1 on rank 1 | encoder layers 2–3, head on rank 0",
        "200 tokens",
    ):
        assert said in printed, printed


def test_weights_without_a_class_are_listed(
    tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (
        toy_map(1, 1),
        EngineSettings(precision="bf16"),
        tmp_path,
        "albert",
        "beam-question-answering",
        tokenizer,
    )
    run_on_ranks(_save, 1, *arguments)
    found = inspect(tmp_path / "checkpoint-0", capsys)
    assert found["extra_weights"] and all(name.startswith("beam_head.") for name in found["extra_weights"])
    assert found["parameters_by_layer"]["extra"] > 0 and found["parameters_by_layer"]["encoder group 0"] > 0
    assert found["weight_versions"] == 1
    (tmp_path / "checkpoint-0" / "trainer_state.json").unlink()
    assert "trainer_state.json: missing" in inspect(tmp_path / "checkpoint-0", capsys)["faults"][0]


@pytest.mark.parametrize("as_pickle", [False, True])
def test_a_hugging_face_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str], as_pickle: bool) -> None:
    model = tiny_model("albert", "sequence-classification", num_labels=3).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    if as_pickle:
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    found = inspect(tmp_path, capsys)
    assert (found["model_type"], found["head"], found["step"]) == ("albert", "sequence-classification", None)
    assert found["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert list(found["parameters_by_layer"]) == ["embeddings", "encoder group 0", "pooler", "head"]
    assert found["dtypes"].keys() == {"bfloat16"} and found["tokenizer"] is None and found["moments"] == []
    assert main(["inspect", str(tmp_path)]) == 0
    assert "tokenizer:   none" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("make", "said"), [(False, "no such folder"), (True, "neither a checkpoint nor a folder with")]
)
def test_what_is_no_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], make: bool, said: str) -> None:
    if make:
        (tmp_path / "x").mkdir()
    assert main(["inspect", str(tmp_path / "x")]) == 2
    assert said in capsys.readouterr().err
