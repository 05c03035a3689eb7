"""Model families. One is its file in this folder, and its line in `FAMILIES`; docs/extending.md adds one."""

from collections.abc import Mapping

from ds_bert.modeling.families.albert import Albert
from ds_bert.modeling.families.bert import Bert
from ds_bert.modeling.families.family import Family, Fields

FAMILIES: dict[str, Family] = {
    "bert": Bert(),
    "albert": Albert(),
}
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
