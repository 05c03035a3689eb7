"""The optimizers behind the boundary: their state is there before the first step, and is what torch would make."""

from typing import Any

import pytest
import torch

from ds_bert.engine.buckets import Bucket, make_torch_optimizer
from ds_bert.engine.settings import EngineSettings, ParameterGroup

CPU = torch.device("cpu")
TORCHS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "adamw": [{}, {"amsgrad": True}],
    "adam": [{"eps": 1e-3, "betas": (0.5, 0.9)}],
    "sgd": [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}],
}
CASES = [(kind, options) for kind, several in OPTIONS.items() for options in several]


def _buckets(dtype: torch.dtype) -> list[tuple[Bucket, ParameterGroup]]:
    buckets = []
    for seed, decays in enumerate((True, False)):
        weight = torch.randn(7, 5, generator=torch.Generator().manual_seed(seed)).to(dtype)
        bucket = Bucket({"a": torch.nn.Parameter(weight)}, None, [0], 0, dtype, dtype, sharded=False)
        buckets.append((bucket, ParameterGroup(decays)))
    return buckets


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("kind", "options"), CASES, ids=str)
def test_state_and_course_are_torchs(kind: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    settings = EngineSettings(kind, options, weight_decay=0.1)  # type: ignore[arg-type]
    ours = make_torch_optimizer(_buckets(dtype), settings, CPU)
    groups = [{**group, "params": [torch.nn.Parameter(group["params"][0].clone())]} for group in ours.param_groups]
    theirs = TORCHS[kind](groups, lr=0.0, fused=True, **options)
    at_first = [dict(ours.state[group["params"][0]]) for group in ours.param_groups]
    for step in range(3):
        for left, right in zip(ours.param_groups, theirs.param_groups, strict=True):
            generator = torch.Generator().manual_seed(step)
            gradient = torch.randn(left["params"][0].shape, generator=generator).to(dtype)
            left["params"][0].grad, right["params"][0].grad = gradient.clone(), gradient.clone()
            left["lr"] = right["lr"] = 0.1
        ours.step()
        theirs.step()
        for before, left, right in zip(at_first, ours.param_groups, theirs.param_groups, strict=True):
            assert torch.equal(left["params"][0], right["params"][0])
            found, expected = ours.state[left["params"][0]], theirs.state[right["params"][0]]
            assert found.keys() == before.keys() == {name for name in expected if expected[name] is not None}
            for name, value in found.items():
                assert torch.equal(value, expected[name]) and value.dtype == expected[name].dtype, name
                assert value is before[name], "made anew"


@pytest.mark.parametrize("options", [{}, {"bias_correction": False}])
@pytest.mark.parametrize("kind", ["adamw", "lamb"])
def test_moments_are_zero_at_first(kind: str, options: dict[str, Any]) -> None:
    settings = EngineSettings(kind, options)  # type: ignore[arg-type]
    optimizer = make_torch_optimizer(_buckets(torch.float32), settings, CPU)
    assert len(optimizer.state) == 2
    for state in optimizer.state.values():
        assert state.keys() == {"step", "exp_avg", "exp_avg_sq"} and not any(value.any() for value in state.values())
