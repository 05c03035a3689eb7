"""The second, simpler implementation of the beam head: one token at a time, each rule written out."""

from collections.abc import Mapping

import torch

Weights = Mapping[str, torch.Tensor]


def start_logits(weights: Weights, hidden: torch.Tensor, begin: int, end: int) -> dict[int, torch.Tensor]:
    """Logits, by position, of the tokens of one example that may be in an answer; ``hidden`` is (T, H)."""
    allowed = [0, *range(max(begin, 1), end)]
    return {
        position: (hidden[position] * weights["beam_head.start.weight"][0]).sum() + weights["beam_head.start.bias"][0]
        for position in allowed
    }


def end_logit(weights: Weights, hidden: torch.Tensor, start: int, end: int) -> torch.Tensor:
    """Logit of one end given one start."""
    both = torch.cat([hidden[end], hidden[start]])
    state = torch.tanh(weights["beam_head.end.dense.weight"] @ both + weights["beam_head.end.dense.bias"])
    state = (state - state.mean()) / torch.sqrt(state.var(correction=0) + 1e-12)
    state = state * weights["beam_head.end.LayerNorm.weight"] + weights["beam_head.end.LayerNorm.bias"]
    return weights["beam_head.end.classifier.weight"][0] @ state + weights["beam_head.end.classifier.bias"][0]


def answer_logit(weights: Weights, hidden: torch.Tensor, starts: Mapping[int, torch.Tensor]) -> torch.Tensor:
    """Logit of "there is no answer", given `start_logits`."""
    total = sum(logit.exp() for logit in starts.values())
    mean = sum(logit.exp() / total * hidden[position] for position, logit in starts.items())
    both = torch.cat([torch.as_tensor(mean), hidden[0]])
    state = torch.tanh(weights["beam_head.answer.dense.weight"] @ both + weights["beam_head.answer.dense.bias"])
    return weights["beam_head.answer.classifier.weight"][0] @ state
