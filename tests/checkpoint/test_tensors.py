"""Named tensors in safetensors files."""

import hashlib
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from ds_bert.checkpoint.manifest import hash_file
from ds_bert.checkpoint.tensors import (
    EXTRA,
    INDEX,
    MOMENTS,
    TensorFolder,
    describe_weights,
    has_tensors,
    part_name,
    write_tensors,
)
from ds_bert.errors import UserError

A = torch.arange(6.0).view(2, 3)
B = torch.tensor([1.5, -2.0], dtype=torch.bfloat16)


def test_one_file(tmp_path: Path) -> None:
    write_tensors(tmp_path / part_name("model", 0, 1), {"a": A.t(), "b": B})
    folder = TensorFolder(tmp_path)
    assert sorted(folder.names()) == ["a", "b"] and "a" in folder and "c" not in folder
    assert folder.shape("a") == (3, 2)
    assert torch.equal(folder.read("a"), A.t())
    assert torch.equal(folder.read("b"), B) and folder.read("b").dtype == B.dtype


DTYPES = [
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
]


def test_the_file_is_what_safetensors_reads_and_writes(tmp_path: Path) -> None:
    tensors = {f"of {dtype}": torch.arange(7).to(dtype) for dtype in DTYPES}
    tensors |= {"scalar": torch.tensor(3.0), "empty": torch.zeros(0, 4), "größe": torch.ones(2, 1, 3)}
    write_tensors(tmp_path / "model.safetensors", tensors)
    read = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor), name
    begin = 8 + int.from_bytes((tmp_path / "model.safetensors").read_bytes()[:8], "little")
    assert begin % 8 == 0  # so that all tensors are aligned
    safetensors.torch.save_file(tensors, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    theirs = safetensors.safe_open(tmp_path / "theirs.safetensors", "pt")
    assert theirs.metadata() == safetensors.safe_open(tmp_path / "model.safetensors", "pt").metadata()


def test_the_checksum_is_that_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {"b": B, "a": A}
    for block in (3, 2**20):
        monkeypatch.setattr("ds_bert.checkpoint.tensors._BLOCK", block)
        entry = write_tensors(tmp_path / "model.safetensors", tensors)
        content = (tmp_path / "model.safetensors").read_bytes()
        assert (entry.size, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert hash_file(tmp_path / "model.safetensors") == entry
    assert write_tensors(tmp_path / "reversed", dict(reversed(tensors.items()))) == entry


def test_a_write_that_fails_names_the_file() -> None:
    with pytest.raises(OSError, match=r"No space left on device: '/dev/full'"):
        write_tensors(Path("/dev/full"), {"a": A})


def test_several_files_and_their_index(tmp_path: Path) -> None:
    files = {"a": part_name("model", 0, 2), "b": part_name("model", 1, 2)}
    assert files == {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    write_tensors(tmp_path / files["a"], {"a": A})
    write_tensors(tmp_path / files["b"], {"b": B})
    describe_weights(tmp_path, files, {files["a"]: 24, files["b"]: 4})
    assert json.loads((tmp_path / INDEX).read_text()) == {"metadata": {"total_size": 28}, "weight_map": files}
    assert TensorFolder(tmp_path).read_all(["b", "a"]).keys() == {"a", "b"}
    (tmp_path / files["b"]).unlink()
    with pytest.raises(UserError, match=f"{files['b']} is missing"):
        TensorFolder(tmp_path)


def test_kinds_are_kept_apart(tmp_path: Path) -> None:
    write_tensors(tmp_path / "model.safetensors", {"a": A})
    write_tensors(tmp_path / "optimizer.safetensors", {"exp_avg/a": A})
    assert TensorFolder(tmp_path).names() == ["a"]
    assert TensorFolder(tmp_path, MOMENTS).names() == ["exp_avg/a"]
    assert has_tensors(tmp_path, MOMENTS) and not has_tensors(tmp_path, EXTRA)
    with pytest.raises(UserError, match="no tensor b"):
        TensorFolder(tmp_path).read_all(["a", "b"])


def test_what_hugging_face_has_no_class_for_is_among_the_weights(tmp_path: Path) -> None:
    write_tensors(tmp_path / "model.safetensors", {"a": A})
    write_tensors(tmp_path / "ds_bert.safetensors", {"beam_head.start.weight": B})
    assert sorted(TensorFolder(tmp_path).names()) == ["a", "beam_head.start.weight"]
    assert torch.equal(TensorFolder(tmp_path).read("beam_head.start.weight"), B)
    assert TensorFolder(tmp_path, EXTRA).names() == ["beam_head.start.weight"]


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


@pytest.mark.parametrize("piece", [1, 40, 200, 2**24])
@pytest.mark.parametrize("shape", [(), (1,), (13,), (5, 7), (1, 30), (4, 3, 5), (0, 3), (3, 0)], ids=str)
def test_any_part_of_a_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], piece: int
) -> None:
    """Every range of elements, in its own type and another."""
    monkeypatch.setattr("ds_bert.checkpoint.tensors._PIECE", piece)
    for stored in (torch.float32, torch.bfloat16):
        whole = torch.randn(shape).to(stored)
        write_tensors(tmp_path / "model.safetensors", {"a": whole, "b": A})
        folder, flat = TensorFolder(tmp_path), whole.reshape(-1)
        for begin in range(len(flat) + 1):
            for end in range(begin, len(flat) + 1):
                for wanted in (torch.float32, torch.bfloat16):
                    buffer = torch.full((len(flat) + 2,), 9.0, dtype=wanted)
                    folder.read_part("a", begin, buffer[1 : 1 + end - begin])
                    assert torch.equal(buffer[1 : 1 + end - begin], flat[begin:end].to(wanted))
                    assert (buffer[0] == 9) and (buffer[1 + end - begin :] == 9).all()


def test_a_tensor_that_is_not_what_is_needed(tmp_path: Path) -> None:
    write_tensors(tmp_path / "model.safetensors", {"a": A})
    folder = TensorFolder(tmp_path)
    folder.check("a", (2, 3))
    with pytest.raises(UserError, match=r"a has shape \(2, 3\), the model's has \(3, 2\)"):
        folder.check("a", (3, 2))
    with pytest.raises(UserError, match="no tensor b"):
        folder.check("b", (2, 3))
