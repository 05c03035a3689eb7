"""The models the peers train: one transformers BertForPreTraining, whole or taken apart into pipeline layers.

``head`` says how the MLM logits are computed: "transformers" at every position, as BertForPreTraining does, or "masked"
at the masked positions only.
"""

import torch
import workload
from torch import nn
from torch.nn.functional import cross_entropy, linear
from transformers import BertConfig, BertForPreTraining
from workload import Batch

Message = tuple[torch.Tensor, ...]


def build_model(attention: str = "sdpa") -> BertForPreTraining:
    """Return the model in training mode with the same weights in every process, leaving the random state alone."""
    config = BertConfig(**workload.MODEL, attn_implementation=attention)
    with torch.random.fork_rng():
        torch.manual_seed(workload.SEED)
        return BertForPreTraining(config).train()


def at_positions(hidden_BTH: torch.Tensor, positions_BP: torch.Tensor) -> torch.Tensor:
    """Return the hidden states at ``positions``, (B, P, H)."""
    return hidden_BTH.gather(1, positions_BP[:, :, None].expand(-1, -1, hidden_BTH.shape[2]))


def pretraining_loss(logits: Message, target: torch.Tensor) -> torch.Tensor:
    """Return transformers' loss, the mean over masked tokens plus the mean over pairs, against `Batch.target`."""
    mlm_logits, nsp_logits = logits
    mlm_labels, nsp_labels = target[:, :-1], target[:, -1]
    return cross_entropy(mlm_logits.flatten(0, 1).float(), mlm_labels.flatten()) + cross_entropy(
        nsp_logits.float(), nsp_labels
    )


class WholeModel(nn.Module):
    """A micro-batch's loss from the whole model, for the systems that do not cut it."""

    def __init__(self, model: BertForPreTraining, head: str):
        super().__init__()
        self.model = model
        self.head = head

    def forward(self, batch: Batch) -> torch.Tensor:
        inputs = {"input_ids": batch.input_ids, "token_type_ids": batch.token_type_ids}
        if self.head == "transformers":
            return self.model(**inputs, labels=batch.labels, next_sentence_label=batch.next_sentence_label).loss
        encoded = self.model.bert(**inputs)
        masked = at_positions(encoded.last_hidden_state, batch.masked_positions)
        return pretraining_loss(self.model.cls(masked, encoded.pooler_output), batch.target(self.head))


class Stage(nn.Module):
    """One of two stages for torch.distributed.pipelining: embeddings and ``cut`` layers, or the others and the head."""

    def __init__(self, model: BertForPreTraining, cut: int, is_first: bool, precision: str):
        super().__init__()
        layers = model.bert.encoder.layer
        self.embeddings = model.bert.embeddings if is_first else None
        self.layers = layers[:cut] if is_first else layers[cut:]
        self.pooler = None if is_first else model.bert.pooler
        self.cls = None if is_first else model.cls
        self.use_autocast = precision == "bf16"

    @property
    def tied_weight(self) -> nn.Parameter:
        """This stage's copy of the matrix that word embeddings and MLM decoder share."""
        return self.cls.predictions.decoder.weight if self.cls else self.embeddings.word_embeddings.weight

    def forward(self, *inputs: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor | Message:
        """Map (ids, token types) to hidden states, or hidden states to (MLM logits, NSP logits)."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.use_autocast):
            hidden = self.embeddings(*inputs) if self.embeddings else inputs[0]
            for layer in self.layers:
                hidden = layer(hidden)
            if self.cls is None:
                return hidden
            pooled = self.pooler(hidden)
            return self.cls(hidden if positions is None else at_positions(hidden, positions), pooled)


# DeepSpeed's pipeline layers: each maps a tuple of tensors to the next one's. With the masked head the positions travel
# at the end of the tuple (``rest``). The word embeddings stand alone, because DeepSpeed ties whole modules.


class WordEmbeddings(nn.Module):
    """(ids, token types, *rest) to (word vectors, token types, *rest); its weight is also the decoder's."""

    def __init__(self, model: BertForPreTraining):
        super().__init__()
        self.weight = model.bert.embeddings.word_embeddings.weight

    def forward(self, inputs: Message) -> Message:
        input_ids, *others = inputs
        return nn.functional.embedding(input_ids, self.weight, padding_idx=0), *others

    @staticmethod
    def decode(tied: "WordEmbeddings", inputs: Message) -> Message:
        """Map (transformed hidden states, decoder bias, NSP logits) to (MLM logits, NSP logits)."""
        hidden, bias, nsp_logits = inputs
        return linear(hidden, tied.weight, bias), nsp_logits


class OtherEmbeddings(nn.Module):
    """(word vectors, token types, *rest) to (hidden states, *rest)."""

    def __init__(self, model: BertForPreTraining):
        super().__init__()
        embeddings = model.bert.embeddings
        self.position_embeddings = embeddings.position_embeddings
        self.token_type_embeddings = embeddings.token_type_embeddings
        self.layer_norm = embeddings.LayerNorm
        self.dropout = embeddings.dropout

    def forward(self, inputs: Message) -> Message:
        words, types, *rest = inputs
        positions = self.position_embeddings.weight[: words.shape[1]]
        return self.dropout(self.layer_norm(words + self.token_type_embeddings(types) + positions)), *rest


class EncoderLayer(nn.Module):
    """(hidden states, *rest) to the same through one BertLayer."""

    def __init__(self, model: BertForPreTraining, index: int):
        super().__init__()
        self.layer = model.bert.encoder.layer[index]

    def forward(self, inputs: Message) -> Message:
        # A tuple of one tensor arrives as the tensor where DeepSpeed has sent it to the next stage.
        hidden, *rest = inputs if isinstance(inputs, tuple) else (inputs,)
        return self.layer(hidden), *rest


class HeadTransform(nn.Module):
    """(hidden states, *rest) to (transformed hidden states, decoder bias, NSP logits)."""

    def __init__(self, model: BertForPreTraining):
        super().__init__()
        self.pooler = model.bert.pooler
        self.nsp = model.cls.seq_relationship
        self.transform = model.cls.predictions.transform
        self.bias = model.cls.predictions.decoder.bias

    def forward(self, inputs: Message) -> Message:
        hidden, *rest = inputs if isinstance(inputs, tuple) else (inputs,)
        masked = at_positions(hidden, rest[0]) if rest else hidden
        return self.transform(masked), self.bias, self.nsp(self.pooler(hidden))
