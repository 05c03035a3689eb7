"""How a class is told from another: label embeddings, scores, and the loss of a batch."""

import torch
from torch.nn import functional as F

from ds_bert.modeling.layers import Carry


def class_means(rows_BE: torch.Tensor, labels_B: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Average the rows of each class, (N, E); every class must have one."""
    members_NB = F.one_hot(labels_B, num_classes).to(rows_BE.dtype).t()
    return members_NB @ rows_BE / members_NB.sum(1, keepdim=True)


def scores(encoding_BD: torch.Tensor, weights_NE: torch.Tensor, euclidean: bool = False) -> torch.Tensor:
    """Score the classes, (B, N): h·wᵀ + b, where b is the last of the E = D + 1 columns; or −‖h − w‖²."""
    weights_ND = weights_NE[:, :-1]
    if euclidean:
        return -(encoding_BD[:, None] - weights_ND[None]).square().sum(-1)
    return encoding_BD @ weights_ND.t() + weights_NE[:, -1]


def batch_loss(scores_BN: torch.Tensor, labels: Carry) -> torch.Tensor:
    """Mean cross-entropy of a batch."""
    return F.cross_entropy(scores_BN, labels["labels"])
