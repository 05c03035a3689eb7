"""What a checkpoint holds, and going on from one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from ds_bert.checkpoint import folders
from ds_bert.checkpoint.manifest import faults
from ds_bert.checkpoint.saving import CheckpointSaver, describe_model, save_checkpoint
from ds_bert.checkpoint.tensors import EXTRA, MOMENTS, TensorFolder, has_tensors
from ds_bert.checkpoint.training_state import load_checkpoint, load_newest, read_state
from ds_bert.engine.process_group import start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.errors import UserError
from ds_bert.modeling.model import build_config
from ds_bert.stage_map import load_stage_map
from tests.support.checkpoints import contents, describe, same, state_of, toy_engine, toy_fields, train
from tests.support.processes import run_on_ranks
from tests.support.toy import toy_map

ARGUMENTS = {"seed": 42, "learning_rate": 0.01}


class _Tokenizer:
    def save(self, folder: Path, model_max_length: int) -> None:
        (folder / "vocab.txt").write_text("[PAD]")


def _write(stage_map: Any, out: Path, family: str, head: str, steps: int, settings: EngineSettings) -> dict[str, Any]:
    engine = toy_engine(start_process_group(stage_map, timeout_seconds=30), settings, family, head)
    train(engine, 0, steps)
    config = build_config(toy_fields(family), head)
    state = {"arguments": ARGUMENTS, "global_batch": 8, "seed": 42}
    saver = CheckpointSaver(out, engine, describe_model(config, _Tokenizer()), state)
    saver.save({"best": 0.5}, notes={"best.json": {"step": steps}})
    return state_of(engine)


def test_the_files_of_a_checkpoint(tmp_path: Path) -> None:
    stage_map = toy_map(2, 1, [[1], [0]])
    by_rank = run_on_ranks(_write, 2, stage_map, tmp_path, "bert", "pretraining", 3, EngineSettings())
    checkpoint = tmp_path / "checkpoint-3"
    parts = [f"{part:05d}-of-00006.safetensors" for part in range(1, 7)]
    expected = {f"{kind}-{part}" for kind in ("model", "optimizer") for part in parts}
    expected |= {"config.json", "vocab.txt", "model.safetensors.index.json", "manifest.json"}
    expected |= {"trainer_state.json", "arguments.json", "stage_map.json"}
    assert {path.name for path in checkpoint.iterdir()} == expected and faults(checkpoint) == []
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    optimizer = {"scaler": None, "step": 3.0}
    assert state == {
        "step": 3, "optimizer": optimizer, "global_batch": 8, "examples_seen": 24, "seed": 42, "best": 0.5
    }  # fmt: skip
    assert read_state(checkpoint)["arguments"] == json.loads((checkpoint / "arguments.json").read_text()) == ARGUMENTS
    assert load_stage_map(checkpoint / "stage_map.json", 6) == stage_map
    assert json.loads((tmp_path / "best.json").read_text()) == {"step": 3}

    saved = by_rank[0] | by_rank[1]
    weights, moments = TensorFolder(checkpoint), TensorFolder(checkpoint, MOMENTS)
    found = {f"weights/{name}": weights.read(name) for name in weights.names()}
    found |= {name: moments.read(name) for name in moments.names()}
    assert same(found, saved)
    index = json.loads((checkpoint / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(weights.read(name).nbytes for name in weights.names())
    for file in set(index["weight_map"].values()):
        assert set(load_file(checkpoint / file)) == {name for name, at in index["weight_map"].items() if at == file}


@pytest.mark.parametrize(
    ("family", "head"), [("bert", "pretraining"), ("albert", "pretraining"), ("albert", "beam-question-answering")]
)
def test_transformers_loads_it_as_it_is(tmp_path: Path, family: str, head: str) -> None:
    steps = 1 if head == "pretraining" else 0
    by_rank = run_on_ranks(_write, 2, toy_map(2, 1), tmp_path, family, head, steps, EngineSettings())
    model, report = AutoModel.from_pretrained(tmp_path / f"checkpoint-{steps}", output_loading_info=True)
    assert not report["mismatched_keys"]
    assert all("pooler" in name for name in report["missing_keys"])
    ours = {name.removeprefix(f"weights/{family}."): tensor for part in by_rank for name, tensor in part.items()}
    theirs = model.state_dict()
    encoder = [name for name in theirs if name in ours]
    assert len(encoder) > 15 and all(torch.equal(theirs[name], ours[name]) for name in encoder)


def _load(out: Path, family: str, head: str) -> dict[str, Any]:
    grid = start_process_group(toy_map(1, 1), timeout_seconds=30)
    engine = toy_engine(grid, EngineSettings(), family, head)
    assert load_newest(out, engine) == folders.newest_checkpoint(out)
    return state_of(engine)


def test_what_hugging_face_has_no_class_for_lies_apart(tmp_path: Path) -> None:
    head = "beam-question-answering"
    by_rank = run_on_ranks(_write, 2, toy_map(2, 1), tmp_path, "bert", head, 0, EngineSettings())
    checkpoint, saved = tmp_path / "checkpoint-0", by_rank[0] | by_rank[1]
    extra = sorted(name.removeprefix("weights/") for name in saved if "beam_head." in name)
    assert len(extra) == 11
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["ds_bert"] == {"extra_weights": ["ds_bert.safetensors"], "parameters": extra}
    assert sorted(TensorFolder(checkpoint, EXTRA).names()) == extra
    index = json.loads((checkpoint / "model.safetensors.index.json").read_text())["weight_map"]
    assert index.keys() == {name.removeprefix("weights/") for name in saved} - set(extra)
    assert not has_tensors(checkpoint, MOMENTS)  # there are none before the first step
    (loaded,) = run_on_ranks(_load, 1, tmp_path, "bert", head)
    assert same(loaded, saved)


def _refuse_another_model(out: Path) -> list[str]:
    grid = start_process_group(toy_map(1, 1), timeout_seconds=30)
    engine = toy_engine(grid, EngineSettings(), "bert", "sequence-classification")
    save_checkpoint(out / "empty", engine, describe(engine), {})
    before, said = state_of(engine), []
    for name in ("pretrained", "wider"):
        with pytest.raises(UserError) as refusal:
            load_newest(out / name, engine)
        said.append(str(refusal.value))
    with pytest.raises(UserError, match="has no checkpoint"):
        load_newest(out / "nowhere", engine)
    assert same(before, state_of(engine)) and engine.steps_done == 0
    return said


def test_another_model_is_refused_before_any_weight_changes(tmp_path: Path) -> None:
    run_on_ranks(_write, 1, toy_map(1, 1), tmp_path / "pretrained", "bert", "pretraining", 1, EngineSettings())
    head = "sequence-classification"
    run_on_ranks(_write, 1, toy_map(1, 1), tmp_path / "wider", "bert", head, 0, EngineSettings())
    last = tmp_path / "wider" / "checkpoint-0" / "model-00006-of-00006.safetensors"
    tensors = load_file(last)
    save_file(tensors | {"classifier.weight": torch.zeros(7, 32)}, last, metadata={"format": "pt"})
    files = [path for path in last.parent.iterdir() if path.name != "manifest.json"]
    partial = folders.begin(tmp_path / "wider", 0)
    for path in files:
        path.rename(partial / path.name)
    folders.commit(tmp_path / "wider", 0)
    ((lacking, other_shape),) = run_on_ranks(_refuse_another_model, 1, tmp_path)
    assert "have no tensor classifier.weight" in lacking
    assert "classifier.weight has shape (7, 32), the model's has (2, 32)" in other_shape


def _change_precision(out: Path, precisions: list[str]) -> list[dict[str, torch.Tensor]]:
    grid = start_process_group(toy_map(1, 1), timeout_seconds=30)
    states = []
    for precision in precisions:
        engine = toy_engine(grid, EngineSettings(precision=precision, schedule="1f1b"))  # type: ignore[arg-type]
        checkpoint = load_newest(out, engine)
        assert engine.steps_done == folders.step_of(checkpoint)
        states.append(state_of(engine))
        computed_with = {parameter.dtype for parameter in engine.module.parameters_by_name().values()}
        assert computed_with == {torch.bfloat16 if precision == "bf16" else torch.float32}
        train(engine, engine.steps_done, engine.steps_done + 1)
        assert not same(states[-1], state_of(engine))
        save_checkpoint(out, engine, describe(engine), {})
    return states


def test_the_precision_may_change(tmp_path: Path) -> None:
    """The master copy is saved, and it is fp32 in both: nothing is lost on the way."""
    settings = EngineSettings(precision="bf16")
    (saved,) = run_on_ranks(_write, 1, toy_map(1, 1), tmp_path, "bert", "pretraining", 2, settings)
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    (states,) = run_on_ranks(_change_precision, 1, tmp_path, ["fp32", "bf16", "fp32"])
    assert same(states[0], saved)
    folder = TensorFolder(tmp_path / "checkpoint-3")
    assert all(torch.equal(states[1][f"weights/{name}"], folder.read(name)) for name in folder.names())


def _two_versions(out: Path, schedule: str) -> tuple[dict[str, torch.Tensor], int]:
    settings = EngineSettings(schedule=schedule, optimizer="sgd")  # type: ignore[arg-type]
    engine = toy_engine(start_process_group(toy_map(2, 1), timeout_seconds=30), settings)
    load_newest(out, engine)
    save_checkpoint(out.parent / schedule, engine, describe(engine), {})
    return state_of(engine), engine.steps_done


def test_two_weight_versions(tmp_path: Path) -> None:
    """2BW's are both there, and both come back; a schedule with one takes the newest."""
    settings = EngineSettings(schedule="2bw", optimizer="sgd")
    run_on_ranks(_write, 2, toy_map(2, 1), tmp_path / "out", "bert", "pretraining", 3, settings)
    checkpoint = tmp_path / "out" / "checkpoint-3"
    newest, previous = TensorFolder(checkpoint), TensorFolder(checkpoint, MOMENTS)
    assert {f"previous_weights/{name}" for name in newest.names()} == set(previous.names())
    assert any(not torch.equal(newest.read(name), previous.read(f"previous_weights/{name}")) for name in newest.names())
    for schedule in ("2bw", "1f1b"):
        by_rank = run_on_ranks(_two_versions, 2, tmp_path / "out", schedule)
        for state, step in by_rank:
            assert step == 3
            for name, tensor in state.items():
                kind, _, key = name.partition("/")
                assert torch.equal(tensor, newest.read(key) if kind == "weights" else previous.read(name))
    rewritten = contents(tmp_path / "2bw" / "checkpoint-3")
    written = contents(checkpoint)
    assert {name: written[name] for name in rewritten if "safetensors" in name} == {
        name: content for name, content in rewritten.items() if "safetensors" in name
    }


MOMENTUM = {"momentum": 0.9}


def _begin_moments_anew(out: Path, optimizer: str, options: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The moments of an engine that had some, after it has loaded a checkpoint; then it trains on."""
    engine = toy_engine(start_process_group(toy_map(1, 1), 30), EngineSettings(optimizer, options))  # type: ignore
    train(engine, 0, 2)
    load_newest(out, engine)
    assert engine.optimizer.scalars(9) == {"scaler": None} | ({} if optimizer == "sgd" else {"step": 0.0})
    found = {f"{share.kind}/{share.name}": share.part.clone() for share in engine.optimizer.shares(engine.steps_done)}
    train(engine, engine.steps_done, engine.steps_done + 1)
    return found


@pytest.mark.parametrize(("optimizer", "options"), [("adamw", {}), ("lamb", {}), ("sgd", MOMENTUM)])
@pytest.mark.parametrize("steps", [0, 2])
def test_moments_that_are_not_there_are_zero(
    tmp_path: Path, steps: int, optimizer: str, options: dict[str, Any]
) -> None:
    """They were not saved before the first step, or by an optimizer that has none."""
    before = EngineSettings(optimizer, options) if steps == 0 else EngineSettings("sgd")  # type: ignore[arg-type]
    run_on_ranks(_write, 1, toy_map(1, 1), tmp_path, "bert", "pretraining", steps, before)
    assert not has_tensors(tmp_path / f"checkpoint-{steps}", MOMENTS)
    (found,) = run_on_ranks(_begin_moments_anew, 1, tmp_path, optimizer, options)
    weights = TensorFolder(tmp_path / f"checkpoint-{steps}")
    for name, value in found.items():
        kind, _, key = name.partition("/")
        assert torch.equal(value, weights.read(key).reshape(-1) if kind == "weights" else torch.zeros_like(value)), name
    assert {name.partition("/")[0] for name in found} > {"weights"}


def _refuse(out: Path, stages: int) -> tuple[str, bool]:
    engine = toy_engine(start_process_group(toy_map(stages, 1), timeout_seconds=30), EngineSettings())
    before = state_of(engine)
    with pytest.raises(UserError) as refusal:
        load_newest(out, engine)
    return str(refusal.value), same(before, state_of(engine))


@pytest.mark.parametrize("lost", ["exp_avg_sq/bert.pooler.dense.bias", "exp_avg", "bert.pooler.dense.weight"])
@pytest.mark.parametrize("stages", [1, 2])
def test_what_one_process_lacks_is_refused_by_all(tmp_path: Path, stages: int, lost: str) -> None:
    """A tensor, or a whole kind: no process changes a weight, though only the last stage has the pooler."""
    run_on_ranks(_write, 1, toy_map(1, 1), tmp_path, "bert", "pretraining", 1, EngineSettings())
    checkpoint = tmp_path / "checkpoint-1"
    for file in checkpoint.glob("*-0000*-of-*.safetensors"):
        kept = {name: tensor for name, tensor in load_file(file).items() if name != lost}
        if lost == "exp_avg":
            kept = {name: tensor for name, tensor in kept.items() if not name.startswith("exp_avg/")}
        save_file(kept, file, metadata={"format": "pt"})
    entries = [path for path in checkpoint.iterdir() if path.name != "manifest.json"]
    partial = folders.begin(tmp_path, 1)
    for path in entries:
        path.rename(partial / path.name)
    folders.commit(tmp_path, 1)
    said = [said for said, stayed in run_on_ranks(_refuse, stages, tmp_path, stages) if stayed]
    assert len(said) == stages and len(set(said)) == 1 and f"have no tensor {lost}" in said[0]


def _load_missing(out: Path) -> None:
    engine = toy_engine(start_process_group(toy_map(1, 1), timeout_seconds=30), EngineSettings())
    with pytest.raises(UserError, match="not a checkpoint"):
        load_checkpoint(out, engine)


def test_a_folder_that_is_no_checkpoint(tmp_path: Path) -> None:
    run_on_ranks(_load_missing, 1, tmp_path)


def test_a_state_that_lost_a_key(tmp_path: Path) -> None:
    partial = folders.begin(tmp_path, 1)
    for text in ('{"step": 1}', "[]"):
        (partial / "trainer_state.json").write_text(text)
        checkpoint = folders.commit(tmp_path, 1)
        with pytest.raises(UserError, match=r"trainer_state.json: has no .*optimizer"):
            read_state(checkpoint)
        partial = folders.begin(tmp_path, 1)
