"""The beam head against loops over examples, starts and ends."""

from collections.abc import Mapping

import pytest
import torch

from ds_bert.modeling.head_layers import BeamQuestionAnsweringHead
from tests.support.beam import answer_logit, end_logit, start_logits
from tests.support.models import BOTH, chain, toy_model

HEAD = "beam-question-answering"
ROWS, LENGTH, WIDTH = 4, 12, 32
CONTEXT = {"context_begin": torch.tensor([3, 5, 1, 10]), "context_end": torch.tensor([9, 12, 12, 12])}
STARTS = torch.tensor([3, 11, 0, 10])
NEVER = -1e30


def head_and_hidden(**changes: int) -> tuple[BeamQuestionAnsweringHead, torch.Tensor]:
    """A head with large weights, so that scores differ, and hidden states."""
    head = chain(toy_model("albert", HEAD, initializer_range=0.5, **changes), HEAD).layers[-1]
    assert isinstance(head, BeamQuestionAnsweringHead)
    return head, torch.randn(ROWS, LENGTH, WIDTH, generator=torch.Generator().manual_seed(0))


def weights(head: BeamQuestionAnsweringHead) -> Mapping[str, torch.Tensor]:
    return {head.hugging_face_name(name): parameter.detach() for name, parameter in head.named_parameters()}


def scored_starts(head: BeamQuestionAnsweringHead, hidden: torch.Tensor, row: int) -> dict[int, torch.Tensor]:
    begin, end = (int(CONTEXT[name][row]) for name in ("context_begin", "context_end"))
    return start_logits(weights(head), hidden[row], begin, end)


def test_training_scores_the_end_given_the_true_start() -> None:
    head, hidden = head_and_hidden()
    found = head.train()({"hidden": hidden}, {**CONTEXT, "start_positions": STARTS})
    assert found.keys() == {"start_logits", "end_logits", "answer_logits"}
    for row in range(ROWS):
        starts = scored_starts(head, hidden, row)
        ends = {end: end_logit(weights(head), hidden[row], int(STARTS[row]), end) for end in starts}
        answer = answer_logit(weights(head), hidden[row], starts)
        for position in range(LENGTH):
            assert found["start_logits"][row, position].item() == pytest.approx(
                float(starts.get(position, NEVER)), rel=1e-4
            )
            assert found["end_logits"][row, position].item() == pytest.approx(
                float(ends.get(position, NEVER)), rel=1e-4
            )
        assert found["answer_logits"][row].item() == pytest.approx(float(answer), rel=1e-4)


def test_inference_searches_the_best_starts_and_their_best_ends() -> None:
    head, hidden = head_and_hidden(start_n_top=3, end_n_top=2)
    found = head({"hidden": hidden}, CONTEXT)
    trained = head.train()({"hidden": hidden}, {**CONTEXT, "start_positions": STARTS})
    assert torch.equal(found["answer_logits"], trained["answer_logits"])
    both = head.eval()({"hidden": hidden}, {**CONTEXT, "start_positions": STARTS.where(STARTS != 11, -100)})
    known = STARTS != 11
    for name, value in {**found, **trained}.items():
        assert torch.equal(both[name][known], value[known]), name
    assert both.keys() == found.keys() | trained.keys() and all(value.isfinite().all() for value in both.values())
    assert found["end_top_index"].shape == (ROWS, 3, 2)
    for row in range(ROWS):
        starts = scored_starts(head, hidden, row)
        for i, start in enumerate(best(starts, 3)):
            assert found["start_top_index"][row, i] == start
            assert torch.allclose(found["start_top_log_probs"][row, i], log_probability(starts, start), atol=1e-4)
            ends = {end: end_logit(weights(head), hidden[row], start, end) for end in starts}
            for j, end in enumerate(best(ends, 2)):
                assert found["end_top_index"][row, i, j] == end
                assert torch.allclose(found["end_top_log_probs"][row, i, j], log_probability(ends, end), atol=1e-4)


def best(scores: Mapping[int, torch.Tensor], count: int) -> list[int]:
    return sorted(scores, key=lambda position: -scores[position].item())[:count]


def log_probability(scores: Mapping[int, torch.Tensor], position: int) -> torch.Tensor:
    return scores[position] - torch.stack(list(scores.values())).exp().sum().log()


def test_what_may_be_in_no_answer_comes_last() -> None:
    """Row 3 has three tokens that may be in an answer: [CLS], 10 and 11."""
    head, hidden = head_and_hidden()
    found = head({"hidden": hidden}, CONTEXT)
    assert found["start_top_index"].shape == (ROWS, 5)
    assert set(found["start_top_index"][3, :3].tolist()) == {0, 10, 11}
    assert (found["start_top_log_probs"][3, 3:] < -1e29).all() and (found["start_top_log_probs"][3, :3] > -100).all()
    assert all(torch.isfinite(value).all() for value in found.values())


def test_short_sequences_have_fewer_candidates() -> None:
    head, hidden = head_and_hidden(start_n_top=20, end_n_top=20)
    found = head({"hidden": hidden}, CONTEXT)
    assert found["end_top_log_probs"].shape == (ROWS, LENGTH, LENGTH)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_finite_float32(dtype: torch.dtype) -> None:
    head, hidden = head_and_hidden()
    for labels in (CONTEXT, {**CONTEXT, "start_positions": STARTS}):
        found = head.to(dtype)({"hidden": hidden.to(dtype)}, labels)
        floats = [value for value in found.values() if value.is_floating_point()]
        assert all(value.dtype == torch.float32 and torch.isfinite(value).all() for value in floats)


@pytest.mark.parametrize("family", BOTH)
def test_names_have_a_prefix_that_transformers_does_not_use(family: str) -> None:
    config = toy_model(family, HEAD)
    names = [name for name in chain(config, HEAD).parameters if not name.startswith(f"{family}.")]
    assert len(names) == 11 and all(name.startswith("beam_head.") for name in names)
    assert config.architectures == [f"{family.title()}Model"]
