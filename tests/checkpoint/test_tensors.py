"""Named tensors in safetensors files."""

import json
from pathlib import Path

import pytest
import torch

from ds_bert.checkpoint.tensors import INDEX, TensorFolder, part_name, write_index, write_tensors
from ds_bert.errors import UserError

A = torch.arange(6.0).view(2, 3)
B = torch.tensor([1.5, -2.0], dtype=torch.bfloat16)


def test_one_file(tmp_path: Path) -> None:
    write_tensors(tmp_path / part_name("model", 0, 1), {"a": A.t(), "b": B})
    folder = TensorFolder(tmp_path)
    assert sorted(folder.names()) == ["a", "b"] and "a" in folder and "c" not in folder
    assert folder.shape("a") == (3, 2)
    assert (
        torch.equal(folder.read("a"), A.t()) and torch.equal(folder.read("b"), B) and folder.read("b").dtype == B.dtype
    )


def test_several_files_and_their_index(tmp_path: Path) -> None:
    files = {"a": part_name("model", 0, 2), "b": part_name("model", 1, 2)}
    assert files == {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    write_tensors(tmp_path / files["a"], {"a": A})
    write_tensors(tmp_path / files["b"], {"b": B})
    write_index(tmp_path, files, 28)
    assert json.loads((tmp_path / INDEX).read_text()) == {"metadata": {"total_size": 28}, "weight_map": files}
    assert TensorFolder(tmp_path).read_all(["b", "a"]).keys() == {"a", "b"}
    (tmp_path / files["b"]).unlink()
    with pytest.raises(UserError, match=f"{files['b']} is missing"):
        TensorFolder(tmp_path)


def test_kinds_are_kept_apart(tmp_path: Path) -> None:
    write_tensors(tmp_path / "model.safetensors", {"a": A})
    write_tensors(tmp_path / "optimizer.safetensors", {"exp_avg/a": A})
    assert TensorFolder(tmp_path).names() == ["a"]
    assert TensorFolder(tmp_path, "optimizer").names() == ["exp_avg/a"]
    with pytest.raises(UserError, match="no tensor b"):
        TensorFolder(tmp_path).read_all(["a", "b"])


@pytest.mark.parametrize("text", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "{"])
def test_a_damaged_index(tmp_path: Path, text: str) -> None:
    write_tensors(tmp_path / "model-00001-of-00001.safetensors", {"a": A})
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(UserError, match=INDEX):
        TensorFolder(tmp_path)


def test_files_that_are_no_tensors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no model\.safetensors"):
        TensorFolder(tmp_path)
    write_tensors(tmp_path / "model.safetensors", {"a": A})
    whole = (tmp_path / "model.safetensors").read_bytes()
    for damaged in (b"", whole[:-1], b"\xff" * len(whole)):
        (tmp_path / "model.safetensors").write_bytes(damaged)
        with pytest.raises(UserError, match=r"model\.safetensors: not a readable safetensors file"):
            TensorFolder(tmp_path)
