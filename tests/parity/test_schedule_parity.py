"""1F1B and GPipe are the same arithmetic in another order, whatever the micro-batches' number and lengths."""

import numpy as np
import pytest

from ds_bert.engine.settings import EngineSettings
from tests.support.reference import deviation
from tests.support.toy import toy_map
from tests.support.training import Case, train_cases

CASE = Case(EngineSettings("sgd", weight_decay=0.01, max_grad_norm=1.0, seed=1), micro_batch_size=2, dropout=0.1)


SLOW = [pytest.param(*case, marks=pytest.mark.slow) for case in [(2, 1, 1), (2, 2, 2), (4, 1, 8), (4, 1, 1)]]


@pytest.mark.parametrize(("stages", "replicas", "size"), [(4, 1, 4), *SLOW])
def test_gpipe_is_1f1b(stages: int, replicas: int, size: int) -> None:
    """From one micro-batch on four stages to eight; the toy's micro-batches differ in length."""
    case = Case(CASE.settings, micro_batch_size=size, dropout=0.1)
    cases = [case, case.change(schedule="gpipe"), case.change(schedule="gpipe", zero_stage=1)]
    one_f_one_b, *others = train_cases(toy_map(stages, replicas), cases)
    for other in others:
        np.testing.assert_allclose(other.losses, one_f_one_b.losses, rtol=1e-6)
        assert deviation(other, one_f_one_b).weights <= 1e-5
