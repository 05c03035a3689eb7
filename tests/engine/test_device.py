"""Which device and backend a process gets, on machines with GPUs that are not here."""

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.torch_version import TorchVersion

from ds_bert.engine.process_group import choose_backend, choose_device, keep_nccls_last_calls
from ds_bert.errors import UserError


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make a machine with so many GPUs visible to this process."""

    monkeypatch.setattr(os, "environ", {**os.environ})

    def make(count: int) -> list[torch.device]:
        used: list[torch.device] = []
        os.environ.pop("DS_ACCELERATOR", None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", used.append)
        return used

    return make


@pytest.mark.parametrize(
    ("visible", "local_rank", "transport", "index"),
    [
        (8, 0, "auto", 0),
        (8, 7, "auto", 7),
        (1, 0, "auto", 0),
        (1, 3, "auto", 0),  # a scheduler that shows each task its own GPU only
        (1, 3, "nccl", 0),
        (2, 3, "gloo", 1),
        (1, 1, "gloo", 0),
    ],
)
def test_each_process_finds_its_gpu(gpus: Any, visible: int, local_rank: int, transport: Any, index: int) -> None:
    used = gpus(visible)
    assert choose_device(local_rank, transport) == torch.device("cuda", index)
    assert used == [torch.device("cuda", index)]


@pytest.mark.parametrize("transport", ["auto", "nccl"])
def test_too_few_gpus_are_named(gpus: Any, transport: Any) -> None:
    gpus(2)
    with pytest.raises(UserError, match=r"process 2 .* finds 2 GPUs; needed .* --transport gloo"):
        choose_device(2, transport)


def test_the_cpu_where_there_is_no_gpu(gpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(0)
    assert choose_device(1, "auto") == choose_device(1, "gloo") == torch.device("cpu")
    with pytest.raises(UserError, match="--transport nccl needs GPUs"):
        choose_device(0, "nccl")
    gpus(4)
    os.environ["DS_ACCELERATOR"] = "cpu"
    assert choose_device(1, "auto") == torch.device("cpu")


@pytest.mark.parametrize(
    ("names", "transport", "backend"),
    [
        (["a", "b", "c"], "auto", "nccl"),
        (["a", "b", "c"], "nccl", "nccl"),
        (["a", "b", "c"], "gloo", "gloo"),
        (["a", "a", "b"], "auto", "gloo"),
        (["a", "a", "b"], "gloo", "gloo"),
    ],
)
def test_ranks_that_share_a_gpu_talk_through_gloo(
    names: list[str], transport: Any, backend: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    found = [_backend_of(rank, names, transport, monkeypatch) for rank in (2, 1, 0)]  # which lets all have told by then
    assert found == [backend] * 3
    assert ("ranks 0 and 1 share a GPU" in capfd.readouterr().err) == (backend == "gloo" and transport == "auto")


def test_nccl_on_one_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="ranks 1 and 2 compute on the same GPU"):
        _backend_of(0, ["a", "b", "b"], "nccl", monkeypatch)


def _backend_of(rank: int, names: list[str], transport: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    store = dist.HashStore()
    monkeypatch.setattr("ds_bert.engine.process_group.socket.gethostname", lambda: "node")
    for other, name in enumerate(names):
        store.set(f"gpu/{other}", f"node {name}")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=names[rank]))
    return choose_backend(transport, torch.device("cuda", 0), store, rank, len(names))


@pytest.mark.parametrize(
    ("version", "name"),
    [
        ("2.6.0", "TORCH_NCCL_TRACE_BUFFER_SIZE"),
        ("2.8.1+cu128", "TORCH_NCCL_TRACE_BUFFER_SIZE"),
        ("2.9.0", "TORCH_FR_BUFFER_SIZE"),
        ("2.13.0+cpu", "TORCH_FR_BUFFER_SIZE"),
    ],
)
def test_nccls_last_calls_are_kept_as_many_as_the_user_says(
    version: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(torch, "__version__", TorchVersion(version))
    keep_nccls_last_calls()
    assert os.environ == {name: "2000"}
    for chosen in ("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE"):
        monkeypatch.setattr(os, "environ", {chosen: "0"})
        keep_nccls_last_calls()
        assert os.environ == {chosen: "0"}
