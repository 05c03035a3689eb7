"""A run's folder stands for its best checkpoint, or else its newest whole one, here and in transformers, always."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertTokenizer

from ds_bert.checkpoint import folders
from ds_bert.checkpoint.pretrained import checkpoint_in, local_folder, model_in, offer_model
from ds_bert.checkpoint.saving import STATE
from ds_bert.cli import main
from ds_bert.errors import UserError
from ds_bert.files import write_json
from tests.support.tokenizer_folders import wordpiece_tokens

INDEX = "model.safetensors.index.json"
ONE_FILE, SEVERAL = "50GB", "20KB"


def write(output_dir: Path, step: int, best: int | None = None, size: str = ONE_FILE) -> Path:
    """Write a checkpoint as transformers writes a model; its classifier's bias is the step."""
    partial = folders.begin(output_dir, step)
    tokens = {token: place for place, token in enumerate(wordpiece_tokens())}
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertForSequenceClassification(BertConfig(vocab_size=len(tokens), max_position_embeddings=16, **sizes))
    torch.nn.init.constant_(model.classifier.bias, step)
    model.save_pretrained(partial, max_shard_size=size)
    BertTokenizer(vocab=tokens).save_pretrained(partial)
    known = None if best is None else {"step": best, "metric": "f1", "value": 0.5}
    write_json(partial / STATE, {"step": step, "optimizer": {}, "best": known})
    write_json(partial / "arguments.json", {"seed": step})
    return folders.commit(output_dir, step)


def step_in_transformers(folder: Path) -> int:
    """The step of the model that transformers reads in a folder, none of whose weights is missing."""
    model, report = BertForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "mismatched_keys", "unexpected_keys"))
    assert AutoTokenizer.from_pretrained(folder)("a b").input_ids
    return int(model.classifier.bias[0])


@pytest.mark.parametrize("size", [ONE_FILE, SEVERAL])
def test_transformers_reads_what_was_offered_wherever_the_folder_is(tmp_path: Path, size: str) -> None:
    out = tmp_path / "out"
    for step in (2, 4, 6):
        offer_model(out, write(out, step, size=size))
        assert step_in_transformers(out) == step
    offer_model(out, out / "checkpoint-4")
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    offer_model(out, out / "checkpoint-4")
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    folders.remove_oldest(out, 1, best=4)
    shutil.copytree(out, tmp_path / "copied")
    out.rename(tmp_path / "moved")
    assert [step_in_transformers(tmp_path / name) for name in ("copied", "moved")] == [4, 4]
    assert not (tmp_path / "moved" / "arguments.json").exists() and not (tmp_path / "moved" / STATE).exists()
    weights = sum(path.stat().st_size for path in (tmp_path / "moved").glob("*.safetensors"))
    assert weights == 0  # they are on the disk once


def damage(checkpoint: Path, how: str) -> None:
    if how == "gone":
        shutil.rmtree(checkpoint)
    elif how == "truncated":
        os.truncate(checkpoint / "model.safetensors", 100)
    elif how == "without manifest":
        (checkpoint / "manifest.json").unlink()


@pytest.mark.parametrize("best", [None, 2, 4, 6])
@pytest.mark.parametrize(
    ("damaged", "how"),
    [(None, ""), *((step, how) for step in (2, 4, 6) for how in ("gone", "truncated", "without manifest"))],
)
def test_the_best_or_else_the_newest_whole_one(tmp_path: Path, best: int | None, damaged: int | None, how: str) -> None:
    for step in (2, 4, 6):
        write(tmp_path, step, best if best is None or best <= step else None)
    if damaged is not None:
        damage(tmp_path / f"checkpoint-{damaged}", how)
    newest = 4 if damaged == 6 else 6
    known = best if best is None or best <= newest else None
    expected = newest if known in (None, damaged) else known
    said: list[str] = []
    assert model_in(tmp_path, said.append) == tmp_path / f"checkpoint-{expected}"
    assert checkpoint_in(tmp_path) == local_folder(str(tmp_path)) == tmp_path / f"checkpoint-{expected}"
    why = "its run (f1 0.5000)" if known == expected else "its run"
    assert said[-1].startswith(f"starting from {tmp_path / f'checkpoint-{expected}'}, the ") and why in said[-1]
    assert ("not whole" in said[-1]) == (known is not None and known == damaged)


def test_no_run_stands_for_itself(tmp_path: Path) -> None:
    checkpoint = write(tmp_path / "run", 3)
    trainer = tmp_path / "trainer"  # as transformers' Trainer leaves it: its checkpoints have names like ours
    for folder in (trainer, trainer / "checkpoint-500"):
        shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
        (folder / "manifest.json").unlink()
    for folder in (checkpoint, trainer, trainer / "checkpoint-500", tmp_path):
        assert model_in(folder) == folder
    assert checkpoint_in(checkpoint) == checkpoint
    for folder, said in ((trainer, "neither a checkpoint nor"), (tmp_path / "nowhere", "no such folder")):
        with pytest.raises(UserError, match=said):
            checkpoint_in(folder)


def test_runs_of_several_seeds_are_to_be_named(tmp_path: Path) -> None:
    for seed in (1, 12):
        write(tmp_path / f"seed-{seed}", 3)
    with pytest.raises(UserError, match=r"several seeds; name one of them, such as .*seed-1$"):
        model_in(tmp_path)
    assert model_in(tmp_path / "seed-12") == tmp_path / "seed-12" / "checkpoint-3"


def test_none_is_whole(tmp_path: Path) -> None:
    for step in (3, 6):
        damage(write(tmp_path, step), "truncated")
    with pytest.raises(UserError, match=r"no whole checkpoint .*checkpoint-6.*nor is any of the 1 before it"):
        model_in(tmp_path)


def test_commands_take_the_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    write(out, 2, 2)
    offer_model(out, write(out, 4, 2, SEVERAL))
    assert main(["inspect", str(out), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["path"], shown["step"]) == (str(out / "checkpoint-2"), 2)
    assert shown["checkpoints"] == ["checkpoint-2", "checkpoint-4"]
    assert main(["verify", str(out)]) == 0
    assert capsys.readouterr().out.count("are whole") == 2
    assert main(["export", str(out), "--output_dir", str(tmp_path / "exported")]) == 0
    words = ["import", "--from", "huggingface", str(out), "--output_dir", str(tmp_path / "imported")]
    assert main(words) == 0
    assert [step_in_transformers(tmp_path / name) for name in ("exported", "imported")] == [2, 2]
    assert "checkpoint-2, the best checkpoint of its run (f1 0.5000)" in capsys.readouterr().err


class Killed(BaseException):
    pass


@pytest.mark.parametrize(("module", "call"), [(os, "fsync"), (os, "replace"), (shutil, "copyfile")])
@pytest.mark.parametrize("before", [None, 2])
def test_killed_at_any_time_it_is_as_before_or_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, call: str, before: int | None
) -> None:
    """Also where configuration and tokenizer have changed meanwhile, as a resumed run's may."""
    finished = False
    for after in range(30):
        out = tmp_path / str(after)
        if before:
            offer_model(out, write(out, before))
        write(out, 4)
        change_texts(out / "checkpoint-4")
        calls, real = iter(range(100)), getattr(module, call)

        def die(*arguments: Any, **options: Any) -> Any:
            if next(calls) == after:  # noqa: B023
                raise Killed
            return real(*arguments, **options)  # noqa: B023

        with monkeypatch.context() as patch:
            patch.setattr(module, call, die)
            try:
                offer_model(out, out / "checkpoint-4")
                finished = True
            except Killed:
                pass
        if (out / INDEX).exists():
            assert step_in_transformers(out) in (before, 4)
        else:
            assert before is None and not finished
        folders.clean(out)
        assert not list(out.glob(".*"))
        if finished:
            break
    assert finished and step_in_transformers(out) == 4
    assert after > 1


def change_texts(checkpoint: Path) -> None:
    """Change configuration and tokenizer so that every file is written anew; the manifest says so, too."""
    config = json.loads((checkpoint / "config.json").read_text())
    write_json(checkpoint / "config.json", {**config, "hidden_dropout_prob": 0.25})
    settings = json.loads((checkpoint / "tokenizer_config.json").read_text())
    write_json(checkpoint / "tokenizer_config.json", {**settings, "model_max_length": 12})
