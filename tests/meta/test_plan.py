"""The passes of a task: which batch when, and what each query's loss weighs."""

from dataclasses import replace

import pytest

from ds_bert.meta.task import query_steps, query_weights, task_passes
from ds_bert.meta.tasks.episode import order_of_batches
from ds_bert.modeling.adapters import Selection
from ds_bert.schedules.schedule import Backward, Forward, tasks_in_flight


def test_eight_batches_are_one_for_the_labels_and_seven_steps() -> None:
    passes = task_passes(num_batches=8, inner_epochs=1, every=3)
    assert [item.part for item in passes if item.kind == "support"] == [1, 2, 3, 4, 5, 6, 7]
    kinds = "".join(item.kind[0] for item in passes)
    assert kinds == "gq" + "sss" + "q" + "sss" + "q" + "s" + "q" + "r"
    assert passes[0].number == passes[-1].number == 0  # one dropout
    assert len({item.number for item in passes[:-1]}) == len(passes) - 1


def test_later_queries_weigh_twice_as_much_a_step() -> None:
    assert query_steps(7, 3) == [0, 3, 6, 7] and query_steps(6, 3) == [0, 3, 6] and query_steps(5, 0) == [0, 5]
    weights = query_weights([0, 3, 6, 7], 7)
    assert sum(weights) == pytest.approx(1.0)
    assert [weight / weights[-1] for weight in weights] == pytest.approx([2**-7, 2**-4, 2**-1, 1])


def test_inner_epochs_have_steps_of_their_own() -> None:
    assert [item.part for item in task_passes(3, 2, 0) if item.kind == "support"] == [1, 2, 3, 4]


def test_each_inner_epoch_shuffles_the_batches_and_leaves_the_first_out() -> None:
    """As the published loop does, which draws a permutation of all batches and steps on those from the second on."""
    for number in range(20):
        order = order_of_batches(4, 3, seed=5, number=number)
        assert order[:4] == [0, 1, 2, 3] and len(order) == 1 + 3 * 3
        later = [order[4:7], order[7:]]
        assert all(len(set(epoch)) == 3 and set(epoch) <= {0, 1, 2, 3} for epoch in later)
        assert order == order_of_batches(4, 3, seed=5, number=number)
    orders = [tuple(order_of_batches(4, 2, 5, number)[4:]) for number in range(200)]
    assert len(set(orders)) == 24  # all that there are
    assert order_of_batches(8, 1, 5, 0) == list(range(8))


NAMES = {
    "embeddings": "bert.embeddings.word_embeddings.weight",
    "norm": "bert.encoder.layer.1.output.LayerNorm.weight",
    "query": "bert.encoder.layer.1.attention.self.query.weight",
    "feed forward": "bert.encoder.layer.1.intermediate.dense.weight",
    "task adapter": "bert.encoder.layer.1.output.dropout.adapter.task.up.weight",
    "global adapter": "bert.encoder.layer.1.output.dropout.adapter.global.up.weight",
    "head": "meta.head.0.weight",
    "generator": "meta.generator.0.weight",
    "step size": "meta.step_size.layer.1",
    "head's step size": "meta.step_size.head.2",
}
EFFICIENT = Selection(parameter_efficient=True, global_adapters=True)


OUTER = {"head", "generator", "step size", "head's step size"}


@pytest.mark.parametrize(
    ("selection", "adapted", "trained"),
    [
        (Selection(), set(NAMES) - OUTER | {"head"}, set(NAMES)),
        (Selection(warp_layers=True), {"embeddings", "query", "head"}, set(NAMES) - {"head's step size"}),
        (Selection(min_layer_with_grad=2), {"head"}, set(NAMES)),
        (EFFICIENT, {"norm", "task adapter"}, {"global adapter", *OUTER}),
        (Selection(True), {"norm", "task adapter"}, {"norm", "task adapter", *OUTER}),
        (
            replace(EFFICIENT, warp_layers=True),
            {"norm", "task adapter", "head"},
            {"global adapter", *OUTER} - {"head's step size"},
        ),
    ],
)
def test_what_is_adapted_and_what_is_trained(selection: Selection, adapted: set[str], trained: set[str]) -> None:
    """Warped, the head's step size is 0, so that only its inner gradient's norm counts."""
    assert {kind for kind, name in NAMES.items() if selection.is_adapted(name)} == adapted
    assert {kind for kind, name in NAMES.items() if selection.is_trained(name)} == trained


@pytest.mark.parametrize("tasks", [1, 2, 4])
@pytest.mark.parametrize("stages", [1, 2, 4])
def test_a_pass_begins_after_its_tasks_last_backward_and_all_are_run(stages: int, tasks: int) -> None:
    for stage in range(stages):
        order = list(tasks_in_flight(stage, stages, 12, tasks))
        assert len(order) == 24
        for number in range(tasks, 12):
            assert order.index(Backward(number - tasks)) < order.index(Forward(number))
