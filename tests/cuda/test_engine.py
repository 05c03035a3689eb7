"""What the engine does on a GPU that it need not: waiting for it, copying what need not be copied, mixing devices."""

import pytest

from tests.cuda.cases import QUICK, SLOW
from tests.cuda.stage import CONDITIONAL, MICRO_BATCHES, Case, Report, Reports, run
from tests.support.fake_cuda.server import FakeCuda

CASES = [
    *(pytest.param(case, id=name) for name, case in QUICK.items()),
    *(pytest.param(case, id=name, marks=pytest.mark.slow) for name, case in SLOW.items()),
]
every_case = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module")
def report(fake_cuda: FakeCuda) -> Reports[Report]:
    return Reports(lambda case: fake_cuda.run(run, case))


@every_case
def test_all_that_a_stage_does_happens_on_one_device(report: Reports[Report], case: Case) -> None:
    found = report(case)
    computing = [f"step {step}" for step in range(case.steps)] + ["evaluate", "predict", "state"]
    assert all(found.phases[phase].kernels for phase in computing)


@every_case
def test_a_step_waits_for_the_device_once_at_most_and_for_the_step_before(report: Reports[Report], case: Case) -> None:
    """With several micro-batches in a step, nothing can be waited for in each of them."""
    steady = report(case).steady
    assert steady.waits.total() <= 1 < MICRO_BATCHES, steady.describe()
    assert all(wait.age >= 1 for wait in steady.waits), steady.describe()


@every_case
def test_a_micro_batch_goes_to_the_device_in_one_pinned_copy_each_of_inputs_and_labels(
    report: Reports[Report], case: Case
) -> None:
    steady, kinds = report(case).steady, case.is_first + case.is_last
    copies = [copy for copy in steady.copies.elements() if copy.to_device]
    assert all(copy.pinned and copy.non_blocking for copy in copies), steady.describe()
    # The votes come once in a step, and what the losses of many tasks are weighted with.
    once = 1 + (case.is_last and case.head == CONDITIONAL)
    assert 0 <= len(copies) - kinds * MICRO_BATCHES <= once, steady.describe()


@every_case
def test_evaluation_waits_for_its_sums_only(report: Reports[Report], case: Case) -> None:
    evaluation = report(case).phases["evaluate"]
    assert evaluation.waits.total() <= 1, evaluation.describe()
