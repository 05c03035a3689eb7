"""A job that runs out of memory says where, and what would help that it does not do yet."""

import os
import re
import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import psutil
import pytest
import torch

from ds_bert.engine.process_group import start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.errors import exit_on_user_error
from ds_bert.stage_map import StageMap
from ds_bert.training.arguments import TrainingArguments
from ds_bert.training.lifecycle import OutOfMemory, explaining_out_of_memory, failing_by_name
from tests.support.meters import fake_engine
from tests.support.processes import run_on_ranks
from tests.support.toy import toy_map
from tests.support.training import Case, build_engine, micro_batches

GIB = 2**30


def _too_much_for_torch() -> None:
    torch.empty(2**55)


def _too_much_for_numpy() -> None:
    np.empty(2**55)


def _too_much_for_cuda() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def _too_much_for_cublas() -> None:
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def _engine(
    number: int | None = None, training: bool = True, device: str = "cpu", replicas: int = 1, **settings: Any
) -> Any:
    """One that has done 5 steps of 4 micro-batches each and is at micro-batch ``number``."""
    engine = fake_engine(toy_map(1, replicas), 0, device, **settings)
    engine.execution, engine.module = SimpleNamespace(under_way=number), SimpleNamespace(training=training)
    engine.steps_done, engine.micro_batches = 5, 4
    return engine


def _sentence(engine: Any, fail: Any = _too_much_for_torch, **changes: Any) -> str:
    with pytest.raises(OutOfMemory) as raised, explaining_out_of_memory(engine, TrainingArguments(**changes)):
        fail()
    return str(raised.value)


@pytest.mark.parametrize("fail", [_too_much_for_torch, _too_much_for_numpy, _too_much_for_cuda, _too_much_for_cublas])
def test_whoever_says_that_there_is_no_memory(fail: Any) -> None:
    sentence = _sentence(_engine(2), fail)
    assert sentence.startswith("out of memory in step 6, micro-batch 3 of 4: this process holds ")
    total = psutil.virtual_memory().total / GIB
    assert f"of the machine's {total:.2f} GiB are free; what helps: " in sentence


@pytest.mark.parametrize("error", [RuntimeError("shape '[3]' is invalid"), OSError("no space"), ValueError("memory")])
def test_other_errors_are_left_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, explaining_out_of_memory(_engine(), TrainingArguments()):
        raise error
    assert raised.value is error


@pytest.mark.parametrize(
    ("number", "training", "settings", "where"),
    [
        (0, True, {}, "in step 6, micro-batch 1 of 4: "),
        (3, True, {}, "in step 6, micro-batch 4 of 4: "),
        (None, True, {}, "in step 6: "),  # in the update
        (22, True, {"schedule": "2bw"}, "in step 6, micro-batch 3 of 4: "),  # numbered on from step to step
        (19, True, {"schedule": "2bw"}, "in step 5, micro-batch 4 of 4: "),  # its backward is still under way
        (6, False, {}, "while evaluating, micro-batch 7: "),
        (None, False, {}, "while evaluating: "),
    ],
)
def test_where(number: int | None, training: bool, settings: dict[str, Any], where: str) -> None:
    assert _sentence(_engine(number, training, **settings)).startswith(f"out of memory {where}")


SMALLER = "a smaller --per_device_train_batch_size (now 8) with more --gradient_accumulation_steps (now 1)"
STAGES = "more stages (--num_stages, --stage_map)"
ZERO = "ZeRO stage 1 (zero_optimization.stage in --deepspeed_config)"


@pytest.mark.parametrize(
    ("engine", "size", "expected"),
    [
        ({}, 8, f"{SMALLER}, --gradient_checkpointing, {STAGES}"),
        ({"replicas": 2}, 8, f"{SMALLER}, --gradient_checkpointing, {STAGES}, {ZERO}"),
        ({"replicas": 2, "zero_stage": 1, "recompute": True}, 8, f"{SMALLER}, {STAGES}"),
        ({"recompute": True}, 1, STAGES),
        ({"schedule": "gpipe", "recompute": True}, 1, f"--schedule 1f1b, {STAGES}"),
        ({"training": False}, 8, "a smaller --per_device_eval_batch_size (now 6)"),
    ],
)
def test_what_helps_is_what_the_run_does_not_do_yet(engine: dict[str, Any], size: int, expected: str) -> None:
    found = _sentence(_engine(**engine), per_device_train_batch_size=size, per_device_eval_batch_size=6)
    assert found.partition("; what helps: ")[2] == expected


def test_on_cuda_the_device_s_accounts_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 7 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 9.5 * GIB)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (GIB, 16 * GIB))
    sentence = _sentence(_engine(2, device="cuda:0"), _too_much_for_cuda)
    assert ": 7.00 GiB allocated and 9.50 GiB reserved of the device's 16.00 GiB; what helps: " in sentence


def _starve_rank_1(stage_map: StageMap, folder: Path) -> int:
    """Train; from the third step's second micro-batch on, rank 1 may have no more memory than it has, and a little."""
    rank = os.environ["RANK"]
    os.dup2(os.open(folder / f"{rank}.err", os.O_WRONLY | os.O_CREAT), 2)
    grid = start_process_group(stage_map, 20)
    case = Case(EngineSettings(), micro_batch_size=2, model={"hidden_size": 64, "num_attention_heads": 2})
    engine = build_engine(grid, stage_map.cuts, case)

    def starve(*_: object) -> None:
        if rank == "1" and engine.steps_done == 2 and engine.execution.under_way == 1:
            limit = psutil.Process().memory_info().vms + 2**22
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
            torch.empty(2**28)

    engine.module.register_forward_pre_hook(starve)

    def job() -> int:
        arguments = TrainingArguments(per_device_train_batch_size=2, gradient_accumulation_steps=4)
        with failing_by_name(grid, lambda: engine.steps_done), explaining_out_of_memory(cast(Any, engine), arguments):
            for step in range(5):
                engine.train_batch(micro_batches(grid, case.batch(step), 2), 1e-3)
        return 0

    return exit_on_user_error(job)


def test_the_rank_is_named_on_all_ranks(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):  # the other rank, whose peer is gone, raises
        run_on_ranks(_starve_rank_1, 2, toy_map(2, 1), tmp_path)
    said = [(tmp_path / f"{rank}.err").read_text() for rank in range(2)]
    told = r"out of memory in step 3, micro-batch 2 of 4: this process holds .*; what helps: "
    assert re.search(rf"^error: rank 1 \(stage 1, replica 0\): after step 2: {told}", said[1], re.MULTILINE), said
    assert "Traceback" not in said[1]
    assert re.search(rf"^error: rank 0 .*: rank 1 \(stage 1, replica 0\) failed: {told}", said[0], re.MULTILINE), said
