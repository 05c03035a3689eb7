"""Products with the word embeddings whose weight gradient goes straight to where it is summed.

The word embeddings are the largest tensor of a small BERT, and autograd would fill and add a dense gradient of that
size twice for every micro-batch (look-up and decoder). Where the weight carries ``main_grad`` (a tensor of its shape
that sums the gradients of a global batch), these functions add into it and hand autograd nothing.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd import Function


class _Lookup(Function):
    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, ids: torch.Tensor, padding_id: int) -> torch.Tensor:
        ctx.weight, ctx.padding_id = weight, padding_id
        ctx.save_for_backward(ids)
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, None, None]:
        (ids,) = ctx.saved_tensors
        weight, padding_id = ctx.weight, ctx.padding_id
        main_grad = getattr(weight, "main_grad", None)
        if main_grad is None or main_grad.is_cuda:
            # On CUDA index_add_ sums in an order that changes from run to run; this kernel's order is fixed.
            grad = torch.ops.aten.embedding_dense_backward(grad_outputs[0], ids, weight.shape[0], padding_id, False)
            if main_grad is None:
                return grad, None, None
            main_grad.add_(grad)
            return None, None, None
        rows = grad_outputs[0].reshape(-1, weight.shape[1]).to(main_grad.dtype)
        flat_ids = ids.reshape(-1)
        rows = torch.where((flat_ids == padding_id).unsqueeze(1), 0.0, rows)
        main_grad.index_add_(0, flat_ids, rows)
        return None, None, None


class _Decode(Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        ctx.weight = weight
        ctx.save_for_backward(hidden, weight)
        return F.linear(hidden, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        hidden, weight = ctx.saved_tensors
        grad = grad_outputs[0]
        main_grad = getattr(ctx.weight, "main_grad", None)
        grad_weight = None
        if main_grad is None:
            grad_weight = grad.t() @ hidden
        elif main_grad.dtype == grad.dtype:
            main_grad.addmm_(grad.t(), hidden)
        else:
            main_grad.add_(grad.t() @ hidden)
        return grad @ weight, grad_weight, grad.sum(0)


def embedding_lookup(weight: torch.Tensor, ids: torch.Tensor, padding_id: int = -1) -> torch.Tensor:
    """Rows ``ids`` (any shape S) of ``weight`` (V, H), as (S, H).

    Row ``padding_id`` gets no gradient from the look-up, as in ``torch.nn.Embedding``.
    """
    return _Lookup.apply(weight, ids, padding_id)


def tied_decoder(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Logits (N, V) of ``hidden`` (N, H) over the vocabulary, with the word embeddings ``weight`` (V, H)."""
    return _Decode.apply(hidden, weight, bias)
