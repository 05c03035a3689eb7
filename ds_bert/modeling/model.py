"""A model as a pipeline, `[Embeddings, EncoderLayer x L, Head]`, and the Carry: the declared message between stages.

Layers hand each other a dictionary of tensors. What of it crosses a stage boundary is declared here, so that the
transport knows shapes and types without asking and a gradient travels back for what needs one and nothing else.
"""

import hashlib
from collections.abc import Callable, Mapping, MutableMapping
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import Function
from transformers import PretrainedConfig

from ds_bert.command_line import load_named
from ds_bert.errors import UserError
from ds_bert.modeling.config import has_side_stream, is_conditional
from ds_bert.modeling.families import family_of
from ds_bert.modeling.heads import MakeHead, head_named


class BatchShape(NamedTuple):
    """What the tensors of one micro-batch look like: known to every stage before the first byte arrives."""

    rows: int
    length: int
    padded: bool


class Field(NamedTuple):
    """One tensor of the Carry."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    has_gradient: bool


def encoder_carry(hidden_size: int, dtype: torch.dtype, shape: BatchShape) -> list[Field]:
    """Declare what one encoder layer hands to the next.

    ``hidden``: (B, T, H) activations. ``attention_mask``: (B, T) bool, True at real tokens; absent where nothing is
    padded, which lets attention take its faster path.
    """
    fields = [Field("hidden", (shape.rows, shape.length, hidden_size), dtype, has_gradient=True)]
    if shape.padded:
        fields.append(Field("attention_mask", (shape.rows, shape.length), torch.bool, has_gradient=False))
    return fields


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


# Products with the word embeddings whose weight gradient goes straight to where it is summed. They are the largest
# tensor of a small BERT, and autograd would fill and add a dense gradient of that size twice for every micro-batch
# (look-up and decoder). Where the weight carries ``main_grad`` (a tensor of its shape that sums the gradients of a
# global batch), these functions add into it and hand autograd nothing.


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


class Embeddings(Layer):
    """Token ids to hidden states: embeddings of width E, brought to the encoder's width H where that is another."""

    embeddings: Any

    def __init__(self, config: Any) -> None:
        super().__init__()
        family = family_of(config)
        self.embeddings, self.projection = family.embeddings(config), None
        self.prefixes = {"embeddings.": family.prefix + family.embedding_names[0]}
        if family.has_projection(vars(config)):
            self.projection = family.projection(config)
            self.prefixes["projection."] = family.prefix + family.embedding_names[1]

    def forward(self, inputs: Carry, labels: Carry | None = None) -> dict[str, torch.Tensor]:
        """Embed ``input_ids`` and ``token_type_ids`` (B, T) as ``hidden`` (B, T, H); pass on ``attention_mask``."""
        word = self.embeddings.word_embeddings
        padding_id = -1 if word.padding_idx is None else word.padding_idx
        words_BTE = embedding_lookup(word.weight, inputs["input_ids"], padding_id)
        embedded_BTE = self.embeddings(inputs_embeds=words_BTE, token_type_ids=inputs["token_type_ids"])
        carry = {"hidden": embedded_BTE if self.projection is None else self.projection(embedded_BTE)}
        if "attention_mask" in inputs:
            carry["attention_mask"] = inputs["attention_mask"]
        return carry


class EncoderLayer(Layer):
    """One encoder layer: transformers' module ``block``, whose names in a checkpoint begin with ``prefix``."""

    def __init__(self, block: nn.Module, prefix: str) -> None:
        super().__init__()
        self.prefixes = {"block.": prefix}
        self.block = block

    def forward(self, carry: Carry, labels: Carry | None = None) -> dict[str, torch.Tensor]:
        """Replace ``hidden`` (B, T, H); tokens outside ``attention_mask`` (B, T) are not attended to."""
        mask_BT = carry.get("attention_mask")
        mask_B11T = None if mask_BT is None else mask_BT[:, None, None, :]
        return {**carry, "hidden": self.block(carry["hidden"], mask_B11T)}


def encoder_layers(config: Any) -> list[Callable[[], EncoderLayer]]:
    """Describe the encoder; each layer is built by calling it.

    Layers with one set of parameters that are built in one process hold one module; on other stages, they are tied by
    its name.
    """
    groups: MutableMapping[int, nn.Module] = WeakValueDictionary()
    return [partial(_encoder_layer, config, index, groups) for index in range(config.num_hidden_layers)]


def _encoder_layer(config: Any, index: int, groups: MutableMapping[int, nn.Module]) -> EncoderLayer:
    family = family_of(config)
    number = family.group(vars(config), index)
    block = groups.get(number)
    if block is None:
        block = groups[number] = family.encoder_layer(config, number)
    return EncoderLayer(block, f"{family.prefix}{family.layer_name}{number}.")


class FirstTokenPooler(nn.Linear):
    """Hidden states (B, T, H) to the sequence's state (B, H)."""

    def forward(self, hidden_BTH: torch.Tensor) -> torch.Tensor:
        """Apply the layer and tanh to the first token."""
        return torch.tanh(super().forward(hidden_BTH[:, 0]))


class PretrainingHead(Layer):
    """Predictions of masked words and of a sentence pair (Devlin et al. 2019, section 3.1; Lan et al. 2020, 3.1).

    Word logits are computed at masked positions only. The decoder's matrix is the word embeddings, tied by its name.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        family = family_of(config)
        self.prefixes = {
            "pooler.": family.prefix + family.pooler_name,
            "transform.": family.transform_name,
            "bias": f"{family.predictions_name}bias",
            "seq_relationship.": family.seq_relationship_name,
            "decoder_weight": family.word_embeddings,
        }
        self.pooler = family.pooler(config)
        self.transform, self.seq_relationship = family.transform(config), family.seq_relationship(config)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.decoder_weight = nn.Parameter(torch.empty(config.vocab_size, family.embedding_size(vars(config))))

    def forward(self, carry: Carry, labels: Carry | None = None) -> dict[str, torch.Tensor]:
        """Predict at the ``masked_positions`` (N,) of the labels, counted over the flattened (B, T) tokens.

        Returns ``mlm_logits`` (N, V), in the order of the positions (all B·T without labels), and ``nsp_logits``
        (B, 2): whether the second sentence follows, or whether two are swapped.
        """
        hidden_BTH = carry["hidden"]
        tokens_NH = hidden_BTH.flatten(0, 1)
        if labels is not None:
            tokens_NH = tokens_NH.index_select(0, labels["masked_positions"])
        mlm_logits_NV = tied_decoder(self.transform(tokens_NH), self.decoder_weight, self.bias)
        return {"mlm_logits": mlm_logits_NV, "nsp_logits": self.seq_relationship(self.pooler(hidden_BTH))}


# What a configuration says of labels, and of the folder that it was read from: its weights' type and what they lack.
_OF_LABELS = ("num_labels", "id2label", "label2id", "problem_type", "finetuning_task")
_CONDITIONAL = "ds_bert.modeling.conditional:conditional_layers"  # named, as they build on the layers here
_OF_FOLDER = ("dtype", "torch_dtype", "ds_bert")


def build_config(fields: Mapping[str, Any], head: str | MakeHead = "pretraining") -> PretrainedConfig:
    """Build transformers' configuration of what is trained, and saved in fp32.

    Attention is named explicitly: transformers leaves it unset outside its own models, and then drops padding masks.

    Args:
        fields: those of a ``config.json`` that `load_model_config` has checked; ``num_labels`` overrides what labels
            the file names, unless there are as many. A head without labels has none, whatever the file says: some of
            transformers' classes would size it by them.
        head: a name in `ds_bert.modeling.heads.HEADS`, or a layer of the user's own: which of transformers' classes
            ``architectures`` names.

    Raises:
        UserError: the family has no such head.
    """
    family, entry = family_of(fields), head_named(head)
    if isinstance(head, str) and family.heads is not None and head not in family.heads:
        raise UserError(f"a model of the family {family.model_type} has no head {head}, only {', '.join(family.heads)}")
    labels = fields.get("num_labels")
    if labels is not None and len(fields.get("id2label") or ()) != labels:
        fields = {key: value for key, value in fields.items() if key not in ("id2label", "label2id")}
    has_labels = entry.labels == "of a task" or not isinstance(head, str)
    foreign = _OF_FOLDER if has_labels else (*_OF_FOLDER, *_OF_LABELS)
    kept = {key: value for key, value in fields.items() if key not in foreign}
    architectures = [family.class_prefix + (entry.class_ending or "Model")]
    config = family.whole("Config")(**{**kept, "architectures": architectures, "dtype": "float32"})
    config._attn_implementation = "sdpa"
    return config


def model_layers(config: PretrainedConfig, head: str | MakeHead) -> list[Callable[[], Layer]]:
    """Describe the L + 2 layers of one model; each is built by calling it.

    Args:
        config: from `build_config`; where it has ``conditional``, the layers are those of
            `ds_bert.modeling.conditional`.
        head: a name in `ds_bert.modeling.heads.HEADS`, or a function (or class) that makes the layer of ``config``.
    """
    last = partial(head_named(head).make, config)
    if is_conditional(config):
        return [*load_named(_CONDITIONAL)(config), last]
    return [partial(Embeddings, config), *encoder_layers(config), last]


def carry_declaration(config: PretrainedConfig, dtype: torch.dtype) -> Callable[[int, int, bool], list[Field]]:
    """Return the function that declares what crosses a boundary, from a micro-batch's (rows, length, padded).

    Args:
        config: the model's.
        dtype: of activations.
    """

    def declare(rows: int, length: int, padded: bool) -> list[Field]:
        shape = BatchShape(rows, length, padded)
        return [*encoder_carry(config.hidden_size, dtype, shape), *conditional_carry(config, dtype, shape)]

    return declare


def conditional_carry(config: Any, dtype: torch.dtype, shape: BatchShape) -> list[Field]:
    """Declare what a conditional model's layers hand on beside `encoder_carry`; nothing for a plain model."""
    if not is_conditional(config):
        return []
    hidden = config.hidden_size
    fields = [Field("condition", (shape.rows, hidden), dtype, has_gradient=True)]
    if has_side_stream(config):
        fields.append(Field("side", (shape.rows, shape.length, hidden), dtype, has_gradient=True))
    return fields
