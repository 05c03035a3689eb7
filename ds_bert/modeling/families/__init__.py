"""Model families: what each is asked for, and which there are.

One is its file in this folder, and its line in `FAMILIES`; docs/extending.md adds one. All but what builds modules
works without torch, as the command line reads configurations and counts costs without it.
"""

import re
from collections import UserDict
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from ds_bert.command_line import load_named

if TYPE_CHECKING:
    from torch import nn

Fields = Mapping[str, Any]
"""A ``config.json``'s content, or what stands for it."""


class Family:
    """One family of encoders. What stands here holds for most; a subclass says the rest, and where it differs.

    ``config`` is transformers' configuration of a model, ``fields`` what its ``config.json`` says.
    """

    # --- Its configuration -------------------------------------------------------------------------------------------
    model_type: ClassVar[str]
    """What ``config.json`` calls it: "bert"."""
    class_prefix: ClassVar[str]
    """What the names of transformers' classes begin with: "Bert"."""
    defaults: ClassVar[Fields]
    """What a key is where ``config.json`` lacks it."""
    sizes: ClassVar[tuple[str, ...]] = ()
    """Keys that are whole numbers from 1, beside `ds_bert.modeling.config.SIZES`."""
    classifier_dropout_key: ClassVar[str] = "classifier_dropout"
    """The key of the dropout before a classifier."""
    pretraining: ClassVar[Fields] = {}
    """How it was pre-trained, where that is not how BERT was: the defaults of `PretrainArguments`."""
    heads: ClassVar[tuple[str, ...] | None] = None
    """Names of the heads that can stand on it; None for all."""

    # --- What can be done to its layers ------------------------------------------------------------------------------
    shares_layers: ClassVar[bool] = False
    """Whether several encoder layers may have one set of parameters."""
    adapter_places: ClassVar[tuple[str, ...]] = ()
    """Modules of an encoder layer after whose ``dropout`` an adapter can stand; none where adapters have no place."""
    can_be_conditional: ClassVar[bool] = False
    """Whether CA-MTL's modules fit into its layers."""
    hidden_dropouts: ClassVar[int] = 2
    """Dropouts of hidden states in an encoder layer."""

    # --- The names of its weights, after the prefix ------------------------------------------------------------------
    embedding_names: ClassVar[tuple[str, ...]] = ("embeddings.",)
    """What the parameters of the first layer begin with; the second one is that of `projection`."""
    layer_name: ClassVar[str] = "encoder.layer."
    """What stands before the number of an encoder layer."""
    pooler_name: ClassVar[str] = "pooler."
    feed_forward: ClassVar[str] = r"intermediate\.|output\."
    """What, after an encoder layer's number, the parameters of its feed-forward block match."""

    # --- The names of the pre-training head's weights, without prefix ------------------------------------------------
    predictions_name: ClassVar[str] = "cls.predictions."
    """What those of masked words begin with."""
    transform_name: ClassVar[str] = "cls.predictions.transform."
    """What those of the layers before the decoder begin with."""
    seq_relationship_name: ClassVar[str] = "cls.seq_relationship."
    """What those of the sentence pair's classifier begin with."""

    # --- The names that others give them; see `ds_bert.checkpoint.convert` -------------------------------------------
    layer_modules: ClassVar[tuple[str, ...]] = ()
    """Modules of an encoder layer that have a weight and a bias; none where pieces of a model cannot be joined."""
    other_names: ClassVar[Mapping[str, str]] = {}
    """Modules outside the encoder layers: what their name ends with in other systems -> in a Hugging Face folder."""
    tensorflow_config: ClassVar[str | None] = None
    """The configuration's file in Google's folders; None where Google published none."""
    tensorflow_names: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Regular expressions of variables' names in Google's checkpoints -> names in a Hugging Face folder."""

    @property
    def prefix(self) -> str:
        """What the encoder's names in a checkpoint begin with: "bert."."""
        return f"{self.model_type}."

    @property
    def bare_names(self) -> tuple[str, ...]:
        """What names begin with in a folder of the encoder alone, without the prefix."""
        return (*self.embedding_names, f"{self.layer_name.partition('.')[0]}.", self.pooler_name)

    @property
    def word_embeddings(self) -> str:
        """The full name of the word embeddings, which the decoder of pre-training is tied to."""
        return f"{self.prefix}embeddings.word_embeddings.weight"

    def faults(self, fields: Fields) -> list[str]:
        """Return one phrase for each fault of a configuration that follows from two of its keys."""
        return []

    def embedding_size(self, fields: Fields) -> int:
        """Width of the embeddings; where it is not that of the encoder, there is a `projection`."""
        return fields["hidden_size"]

    def has_projection(self, fields: Fields) -> bool:
        """Whether there is a `projection`."""
        return self.embedding_size(fields) != fields["hidden_size"]

    def num_groups(self, fields: Fields) -> int:
        """Sets of parameters that the encoder layers have."""
        return fields["num_hidden_layers"]

    def group(self, fields: Fields, layer: int) -> int:
        """The number of an encoder layer's set of parameters."""
        return layer

    def blocks(self, fields: Fields) -> int:
        """Transformer blocks of an encoder layer."""
        return 1

    def block_name(self, group: int) -> str:
        """What the names of the first transformer block of a set of parameters begin with, prefix included."""
        return f"{self.prefix}{self.layer_name}{group}."

    def tensorflow_fields(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Say what a configuration of Google's means in the words of transformers."""
        return fields

    # --- Which layer a weight is of ----------------------------------------------------------------------------------
    def is_embedding(self, name: str) -> bool:
        """Whether a parameter, by its full name, is of the first layer."""
        return name.startswith(tuple(self.prefix + names for names in self.embedding_names))

    def encoder_part(self, name: str) -> tuple[int, str] | None:
        """Split the full name of an encoder layer's parameter into (number of its group, the rest); None for others."""
        found = re.match(rf"{re.escape(self.prefix + self.layer_name)}(\d+)\.(.*)", name)
        return (int(found[1]), found[2]) if found else None

    def is_feed_forward(self, name: str) -> bool:
        """Whether a parameter, by its full name, is of an encoder layer's feed-forward block."""
        part = self.encoder_part(name)
        return part is not None and re.match(self.feed_forward, part[1]) is not None

    # --- Its modules, which the layers of the pipeline are made of; see `ds_bert.modeling.model` -----------
    def theirs(self, name: str) -> Any:
        """Return transformers' class of a part of the model: "Layer" is BertLayer."""
        room = self.model_type.replace("-", "_")
        return getattr(import_module(f"transformers.models.{room}.modeling_{room}"), self.class_prefix + name)

    def whole(self, ending: str) -> Any:
        """Return transformers' class that ends so: "Config" is BertConfig, "ForMaskedLM" BertForMaskedLM."""
        import transformers

        return getattr(transformers, self.class_prefix + ending)

    def has_whole(self, ending: str) -> bool:
        """Whether transformers has a class that ends so."""
        import transformers

        return hasattr(transformers, self.class_prefix + ending)

    def embeddings(self, config: Any) -> "nn.Module":
        """Build the embeddings of tokens, types and positions, their sum's norm and dropout."""
        return self.theirs("Embeddings")(config)

    def projection(self, config: Any) -> "nn.Module":
        """Build what brings embeddings to the width of the encoder; named by the second of `embedding_names`."""
        from torch import nn

        return nn.Linear(self.embedding_size(vars(config)), config.hidden_size)

    def encoder_layer(self, config: Any, group: int) -> "nn.Module":
        """Build an encoder layer, a function of hidden states (B, T, H) and a mask, with fresh parameters."""
        return self.theirs("Layer")(config, layer_idx=group)

    def pooler(self, config: Any) -> "nn.Module":
        """Build what makes a sequence's state (B, H) of its hidden states (B, T, H)."""
        return self.theirs("Pooler")(config)

    def classifier_dropout(self, config: Any) -> float:
        """The dropout before a classifier."""
        dropout = getattr(config, self.classifier_dropout_key, None)
        return config.hidden_dropout_prob if dropout is None else dropout

    def transform(self, config: Any) -> "nn.Module":
        """Build what stands before the decoder of masked words, from (N, H) to (N, E)."""
        return self.theirs("PredictionHeadTransform")(config)

    def seq_relationship(self, config: Any) -> "nn.Module":
        """Build the classifier of a sentence pair, from its state (B, H) to two logits."""
        from torch import nn

        return nn.Linear(config.hidden_size, 2)


class _Families(UserDict[str, Any]):
    """Families by name; one that stands as "module:name" is loaded when it is first asked for."""

    def __getitem__(self, name: str) -> Family:
        self.data[name] = load_named(self.data[name])
        return self.data[name]


FAMILIES = _Families(
    bert="ds_bert.modeling.families.bert:BERT",
    albert="ds_bert.modeling.families.albert:ALBERT",
)
"""By "model_type" of ``config.json``."""


def fields_of(config: object) -> Fields:
    """Return the fields of a model's configuration: a mapping, or transformers' object."""
    return config if isinstance(config, Mapping) else vars(config)


def family_of(config: object) -> Family:
    """Return the family that a configuration is of; BERT where a mapping does not say."""
    kept = fields_of(config).get("model_type", getattr(config, "model_type", "bert"))
    return FAMILIES[kept]


def is_embedding(name: str) -> bool:
    """Whether a parameter, by its full name, is of a family's first layer."""
    return any(family.is_embedding(name) for family in FAMILIES.values())


def encoder_part(name: str) -> tuple[int, str] | None:
    """Split the full name of an encoder layer's parameter into (number of its group, the rest); None for others."""
    return next((part for family in FAMILIES.values() if (part := family.encoder_part(name))), None)


def is_feed_forward(name: str) -> bool:
    """Whether a parameter, by its full name, is of an encoder layer's feed-forward block."""
    return any(family.is_feed_forward(name) for family in FAMILIES.values())


def families_that(has: str) -> str:
    """Name the families of which an attribute is true: "bert or electra"."""
    return " or ".join(family.model_type for family in FAMILIES.values() if getattr(family, has))


def pretraining_defaults(name: str) -> str:
    """Say which families were pre-trained with another value of an argument than its default: " Default for …"."""
    said = {family.class_prefix: family.pretraining.get(name) for family in FAMILIES.values()}
    return "".join(f" Default for {title}: {str(value).lower()}." for title, value in said.items() if value is not None)
