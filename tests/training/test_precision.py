"""Peaks are those of the card and the precision; TF32 is on where it was asked for, and nowhere else."""

from collections.abc import Iterator
from contextlib import suppress

import pytest
import torch

from ds_bert.engine.process_group import Grid
from ds_bert.engine.settings import EngineSettings, Precision
from ds_bert.training.arguments import TrainingArguments
from ds_bert.training.lifecycle import fp32_products
from ds_bert.training.meter import known_peak
from ds_bert.training.settings import apply_deepspeed_config
from tests.support.meters import ONE


@pytest.mark.parametrize(
    ("name", "half", "tf32", "fp32"),
    [
        ("NVIDIA A100-SXM4-80GB", 312, 156, 19.5),
        ("NVIDIA A100 80GB PCIe", 312, 156, 19.5),
        ("NVIDIA A10", 125, 62.5, 31.2),
        ("NVIDIA H100 80GB HBM3", 989, 494.5, 67),
        ("NVIDIA H100 PCIe", 756, 378, 51),
        ("NVIDIA H100 NVL", 835, 417.5, 60),
        ("NVIDIA H200", 989, 494.5, 67),
        ("NVIDIA B200", 2250, 1125, 75),
        ("NVIDIA L40S", 362, 183, 91.6),
        ("NVIDIA L4", 121, 60, 30.3),
        ("NVIDIA GeForce RTX 4090", 165, 82.6, 82.6),
    ],
)
def test_a_known_card_has_a_peak_for_each_precision(name: str, half: float, tf32: float, fp32: float) -> None:
    assert known_peak(name, "bf16", False) == known_peak(name, "fp16", True) == half * 1e12
    assert known_peak(name, "fp32", True) == tf32 * 1e12
    assert known_peak(name, "fp32", False) == fp32 * 1e12
    assert known_peak(name, "fp64", False) is None


@pytest.mark.parametrize(("name", "half"), [("Tesla V100-SXM2-32GB", 125), ("Tesla V100-PCIE-16GB", 112)])
def test_what_a_card_has_no_units_for(name: str, half: float) -> None:
    assert known_peak(name, "fp16", False) == half * 1e12
    assert known_peak(name, "bf16", False) is None
    assert known_peak(name, "fp32", True) == known_peak(name, "fp32", False) < 16e12


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA A100-SXM4-80GB MIG 1g.10gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA GB200",
        "NVIDIA GH200 480GB",
        "NVIDIA A1000",
        "Quadro P4000",
        "",
    ],
)
def test_a_slice_or_a_relative_of_a_known_card_is_not_known(name: str) -> None:
    for precision in ("bf16", "fp16", "fp32"):
        assert known_peak(name, precision, True) is None


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Give torch's settings back afterwards."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    yield monkeypatch
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def _after(device: str, settings: EngineSettings, rank: int = 0) -> tuple[str, bool, bool]:
    """What is set while a run lasts in a process that had all of it the other way round, and has it so afterwards."""
    before = ("highest" if settings.tf32 else "high", not settings.tf32)
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]
    with suppress(KeyboardInterrupt), fp32_products(Grid(ONE, rank, torch.device(device), 30.0), settings):
        found = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        in_cuda = torch.backends.cuda.matmul.allow_tf32
        raise KeyboardInterrupt
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
    return *found, in_cuda


LINE = "fp32 matrix products in TF32; --tf32 false for full fp32\n"


def test_tf32_is_on_where_asked_for_and_off_where_not(products: None, capfd: pytest.CaptureFixture) -> None:
    assert _after("cuda:0", EngineSettings(tf32=True)) == ("high", True, True)
    assert capfd.readouterr().out == LINE
    assert _after("cuda:0", EngineSettings(tf32=False)) == ("highest", False, False)
    assert capfd.readouterr().out == ""
    assert _after("cuda:0", EngineSettings(tf32=True), rank=1) == ("high", True, True)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("tf32", [True, False])
@pytest.mark.parametrize(
    ("device", "precision"), [("cpu", "fp32"), ("cuda:0", "bf16"), ("cuda:0", "fp16"), ("cpu", "bf16")]
)
def test_other_runs_are_left_alone(
    products: None, capfd: pytest.CaptureFixture, device: str, precision: Precision, tf32: bool
) -> None:
    found = _after(device, EngineSettings(tf32=tf32, precision=precision))
    assert found[:2] == ("highest" if tf32 else "high", not tf32)
    assert capfd.readouterr().out == ""


def test_a_card_without_tf32_is_not_said_to_use_it(products: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    products.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    _after("cuda:0", EngineSettings(tf32=True))
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("tf32", [True, False])
def test_the_flag_reaches_the_engine_whose_own_default_is_full_fp32(tf32: bool) -> None:
    _, settings = apply_deepspeed_config(TrainingArguments(tf32=tf32), set(), 1)
    assert settings.tf32 is tf32
    assert TrainingArguments().tf32 is True and EngineSettings().tf32 is False
