"""Model families: their layers, and Hugging Face's names for them."""

from typing import Any

from ds_bert.modeling.families.albert import ALBERT
from ds_bert.modeling.families.bert import BERT
from ds_bert.modeling.families.family import Family

FAMILIES = {"bert": BERT, "albert": ALBERT}


def family_of(config: Any) -> Family:
    """Return the family that transformers' configuration ``config`` belongs to."""
    return FAMILIES[config.model_type]
