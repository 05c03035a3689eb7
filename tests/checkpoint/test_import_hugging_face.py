"""`ds-bert import --from huggingface`: folders of any age, and pickles that hold more than tensors."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from ds_bert.checkpoint.convert.foreign_model import load_pickle
from ds_bert.cli import main
from ds_bert.errors import UserError
from tests.support.hugging_face import CLASSES, PREFIX, assert_same_model, tensors_in, tiny_fields, tiny_model

FAMILIES = ("bert", "albert")


def run_import(source: Path, output: Path, *flags: str) -> int:
    return main(["import", "--from", "huggingface", str(source), "--output_dir", str(output), *flags])


def load(folder: Path, family: str, head: str) -> Any:
    model, report = getattr(transformers, PREFIX[family] + CLASSES[head]).from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return model


def as_pickle(folder: Path, **extra: Any) -> None:
    """Replace a folder's safetensors by pytorch_model.bin."""
    tensors = tensors_in(folder)
    (folder / "model.safetensors").unlink()
    torch.save({**tensors, **extra}, folder / "pytorch_model.bin")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", CLASSES)
def test_every_class_comes_through_bit_equal(tmp_path: Path, family: str, head: str) -> None:
    model = tiny_model(family, head, num_labels=2 if head == "question-answering" else 3)
    model.save_pretrained(tmp_path / "source")
    assert run_import(tmp_path / "source", tmp_path / "out") == 0
    assert_same_model(load(tmp_path / "out", family, head), model)
    assert json.loads((tmp_path / "out/config.json").read_text())["architectures"] == [PREFIX[family] + CLASSES[head]]


def test_types_and_what_else_the_configuration_says_are_kept(tmp_path: Path) -> None:
    model = tiny_model("bert", "sequence-classification", num_labels=3, id2label={0: "no", 1: "maybe", 2: "yes"})
    model.to(torch.bfloat16).save_pretrained(tmp_path / "source")
    assert run_import(tmp_path / "source", tmp_path / "out") == 0
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert config.dtype == torch.bfloat16 and config.id2label == {0: "no", 1: "maybe", 2: "yes"}
    assert {tensor.dtype for tensor in tensors_in(tmp_path / "out").values()} == {torch.bfloat16}


def test_names_of_old_are_understood(tmp_path: Path) -> None:
    model = tiny_model("bert", "pretraining")
    model.save_pretrained(tmp_path / "source")
    old = {}
    for name, tensor in tensors_in(tmp_path / "source").items():
        for ending, before in (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")):
            name = name.replace(ending, before)
        old[f"module.{name}"] = tensor
    old["module.bert.embeddings.position_ids"] = torch.arange(20)
    old["module.cls.predictions.decoder.weight"] = old["module.bert.embeddings.word_embeddings.weight"].clone()
    torch.save(old, tmp_path / "source" / "pytorch_model.bin")
    (tmp_path / "source" / "model.safetensors").unlink()
    assert run_import(tmp_path / "source", tmp_path / "out") == 0
    assert_same_model(load(tmp_path / "out", "bert", "pretraining"), model)


def test_another_decoder_is_left_out_with_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model("bert", "masked-lm")
    model.save_pretrained(tmp_path / "source")
    words = model.bert.embeddings.word_embeddings.weight.detach().clone()
    words[3, 4] += 0.5
    as_pickle(tmp_path / "source", **{"cls.predictions.decoder.weight": words})
    assert run_import(tmp_path / "source", tmp_path / "out") == 0
    assert "the decoder's matrix differs from the word embeddings (by up to 0.5)" in capsys.readouterr().out
    assert_same_model(load(tmp_path / "out", "bert", "masked-lm"), model)


def test_files_of_a_split_pickle_are_joined_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, source = tiny_model("albert", "base"), tmp_path / "source"
    model.save_pretrained(source)
    tensors = sorted(tensors_in(source).items())
    (source / "model.safetensors").unlink()
    for number, part in enumerate((tensors[:5], tensors[5:])):
        torch.save(dict(part), source / f"pytorch_model-0000{number + 1}-of-00002.bin")
    assert run_import(source, tmp_path / "out") == 0
    assert_same_model(load(tmp_path / "out", "albert", "base"), model)
    (source / "pytorch_model-00001-of-00002.bin").unlink()
    assert run_import(source, tmp_path / "again") == 2
    assert "has 1 of the 2 files" in capsys.readouterr().err


def test_a_tokenizer_that_cannot_be_used_is_copied_as_it_is(tmp_path: Path) -> None:
    tiny_model("bert", "base").save_pretrained(tmp_path / "source")
    (tmp_path / "source" / "vocab.txt").write_text("[PAD]\n")
    assert run_import(tmp_path / "source", tmp_path / "out") == 0
    assert (tmp_path / "out" / "vocab.txt").read_text() == "[PAD]\n"


class Evil:
    """Pickled, it is a command that whoever unpickles it runs."""

    def __init__(self, trap: Path) -> None:
        self.trap = trap

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trap}",)


@pytest.mark.parametrize("form", ["zip", "legacy", "bare"])
def test_a_pickle_with_code_is_refused_and_never_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    source, trap = tmp_path / "source", tmp_path / "trap"
    tiny_model("bert", "base").save_pretrained(source)
    (source / "model.safetensors").unlink()
    data = {"embeddings.word_embeddings.weight": torch.ones(120, 16), "evil": Evil(trap)}
    if form == "bare":
        (source / "pytorch_model.bin").write_bytes(pickle.dumps(data["evil"], protocol=2))
    else:
        torch.save(data, source / "pytorch_model.bin", _use_new_zipfile_serialization=form == "zip")
    capsys.readouterr()  # save_pretrained's progress bar
    assert run_import(source, tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {source / 'pytorch_model.bin'}: ") and said.count("\n") == 1
    assert "code" in said or form == "bare"
    assert not trap.exists() and not (tmp_path / "out").exists()
    if form != "bare":
        torch.load(source / "pytorch_model.bin", weights_only=False)
        assert trap.exists()  # it would have


def _break(source: Path, how: str) -> None:
    tensors = tensors_in(source)
    if how == "no weights":
        (source / "model.safetensors").unlink()
    elif how == "no config":
        (source / "config.json").unlink()
    elif how == "garbage":
        (source / "model.safetensors").rename(source / "pytorch_model.bin")
    elif how == "cut short":
        as_pickle(source)
        path = source / "pytorch_model.bin"
        path.write_bytes(path.read_bytes()[:2000])
    elif how == "a list":
        as_pickle(source)
        torch.save(list(tensors.values()), source / "pytorch_model.bin")
    elif how == "another size":
        (source / "config.json").write_text(json.dumps(tiny_fields("bert", intermediate_size=32)))
    elif how == "another family":
        (source / "config.json").write_text(json.dumps({**tiny_fields("bert"), "model_type": "roberta"}))
    elif how == "a layer too few":
        (source / "config.json").write_text(json.dumps(tiny_fields("bert", num_hidden_layers=3)))
    elif how == "unknown weights":
        as_pickle(source, **{"beam_head.start.weight": torch.ones(3)})


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no weights", "has neither model.safetensors nor pytorch_model.bin"),
        ("no config", "has no config.json"),
        ("garbage", "pytorch_model.bin: not a file of torch.save"),
        ("cut short", "pytorch_model.bin: not a file of torch.save, or damaged"),
        ("a list", "holds no dictionary of named tensors"),
        ("another size", "has shape (24, 16), but its configuration says (32, 16)"),
        ("another family", '"model_type" is "roberta"'),
        ("a layer too few", "lacks 16 parameters of the encoder, such as bert.encoder.layer.2."),
        ("unknown weights", "1 tensors have no place in BertModel, such as beam_head.start.weight"),
    ],
)
def test_what_is_wrong_is_refused_and_nothing_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str, said: str
) -> None:
    source = tmp_path / "source"
    tiny_model("bert", "base").save_pretrained(source)
    _break(source, how)
    capsys.readouterr()  # save_pretrained's progress bar
    assert run_import(source, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ") and error.count("\n") == 1, error
    assert not (tmp_path / "out").exists()
    if how == "unknown weights":
        assert run_import(source, tmp_path / "out", "--drop_unknown") == 0
        assert "left out: beam_head.start.weight" in capsys.readouterr().out


def test_a_file_of_old_that_is_cut_anywhere_in_its_header(tmp_path: Path) -> None:
    """The pickles before the tensors' bytes; their reader fails in other ways than that of zip files."""
    path = tmp_path / "pytorch_model.bin"
    torch.save({"weight": torch.ones(3), "bias": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)
    whole, header = path.read_bytes(), path.read_bytes().index(b"weight") + 200
    for length in range(min(header, len(whole) - 1)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"pytorch_model\.bin: (not a file of torch\.save|asks for)"):
            load_pickle(path)


def test_flags_of_other_sources_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_import(tmp_path, tmp_path / "out", "--epoch", "3") == 2
    assert "--epoch: is for --from pipedream, found --from huggingface" in capsys.readouterr().err
    assert main(["import", "--from", "deepspeed", str(tmp_path), "--output_dir", str(tmp_path / "out")]) == 2
    assert "--config_name is missing" in capsys.readouterr().err
