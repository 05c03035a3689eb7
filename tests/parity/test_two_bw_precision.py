"""2BW in bfloat16 follows 2BW in fp32."""

from dataclasses import replace

import numpy as np
import pytest

from ds_bert.engine.settings import EngineSettings
from tests.support.toy import toy_map
from tests.support.training import Case, train_cases

SETTINGS = EngineSettings("adamw", {"eps": 1e-6}, weight_decay=0.01, max_grad_norm=1.0, schedule="2bw", seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1])
def test_bf16_follows_fp32(zero: int) -> None:
    case = Case(replace(SETTINGS, zero_stage=zero), 1, 30, 1e-3, rows=8, same_batch=True)
    fp32, bf16, flushing = train_cases(
        toy_map(2, 2), [case, case.change(precision="bf16"), case.change(schedule="1f1b")]
    )
    apart = np.abs(bf16.losses - fp32.losses).max()
    assert apart < 0.02 * fp32.losses[0] and apart < 0.2 * np.abs(flushing.losses - fp32.losses).max() + 0.02
    assert bf16.losses[-1] < bf16.losses[0] - 0.5
