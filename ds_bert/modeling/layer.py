"""What every pipeline layer has in common: Hugging Face's names for its parameters, and its first weights."""

import hashlib
from collections.abc import Mapping

import torch
from torch import nn

Carry = Mapping[str, torch.Tensor]


class Layer(nn.Module):
    """One entry of the pipeline: from a Carry to the next, or, as the last one, to the outputs.

    A subclass sets ``prefixes``: where a parameter's local name begins with the key, Hugging Face's begins with the
    value. A name that occurs in two layers is one tied parameter, whatever stages they lie on.
    """

    prefixes: dict[str, str]

    def hugging_face_name(self, local_name: str) -> str:
        """Translate a parameter's name in this module into its name in a Hugging Face checkpoint.

        Raises:
            KeyError: no prefix of this layer covers ``local_name``.
        """
        for local, hugging_face in self.prefixes.items():
            if local_name.startswith(local):
                return hugging_face + local_name.removeprefix(local)
        raise KeyError(local_name)


@torch.no_grad()
def initialize(name: str, parameter: torch.Tensor, std: float, seed: int, padding_id: int | None = None) -> None:
    """Fill ``parameter`` in place with the initial weights of BERT and its relatives: N(0, std), norms 1, biases 0.

    Row ``padding_id`` of the word embeddings is 0. A norm's name ends in "norm.weight", in any case of letters.

    The values follow from ``(seed, name)`` alone, so that they do not depend on the cut or on the process.
    """
    if name.endswith("bias"):
        parameter.zero_()
    elif name.lower().endswith("norm.weight"):
        parameter.fill_(1.0)
    else:
        digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        parameter.copy_(torch.empty(parameter.shape, dtype=torch.float32).normal_(0.0, std, generator=generator))
        if padding_id is not None and name.endswith("word_embeddings.weight"):
            parameter[padding_id].zero_()
