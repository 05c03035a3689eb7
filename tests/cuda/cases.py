"""The jobs whose ranks run on the fake device: every head on every stage, every setting at least once."""

from dataclasses import replace
from itertools import product
from typing import Any

from ds_bert.multitask.model import Frozen
from tests.cuda.stage import CONDITIONAL, REGRESSION, Case, Place
from tests.support.fine_tuning import BEAM

FIRST, LAST, ONLY, MIDDLE = Place(2, 0), Place(2, 1), Place(), Place(3, 1)
PLACES = {"first": FIRST, "middle": MIDDLE, "last": LAST, "only": ONLY}
HEADS = {
    "nsp": Case(head="pretraining"),
    "sop": Case(head="pretraining", pairs="sop"),
    "classes": Case(head="sequence-classification"),
    "numbers": Case(head=REGRESSION),
    "tokens": Case(head="token-classification"),
    "spans": Case(head="question-answering"),
    "beam": Case(head=BEAM),
    "choices": Case(head="multiple-choice"),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "lamb": {"optimizer": "lamb", "precision": "bf16"},
    "adam": {"optimizer": "adam"},
    "sgd": {"optimizer": "sgd"},
    "uncorrected": {"optimizer_options": {"bias_correction": False}, "precision": "fp16"},
    "unclipped": {"max_grad_norm": 0.0},
    "recompute": {"recompute": True},
    "gpipe": {"schedule": "gpipe"},
    "2bw": {"schedule": "2bw", "precision": "bf16"},
    "2bw, fp32": {"schedule": "2bw"},
}
FROZEN: dict[str, dict[str, Any]] = {
    "1 layer frozen": {"is_trained": Frozen(1), "precision": "bf16"},
    "2 layers frozen": {"is_trained": Frozen(2)},
}


def _case(head: str, place: Place, settings: str, shares: bool = False, **changes: Any) -> Case:
    """A case of a head or, for "base", "large" or "none", of many tasks; ``shares``: ZeRO 1, two replicas."""
    found = HEADS.get(head) or Case(head=CONDITIONAL, model={"conditional": head})
    given = (SETTINGS | FROZEN)[settings]
    if shares:
        place, given = replace(place, replicas=2, replica=1), given | {"zero_stage": 1}
    return replace(found, **{"place": place, "settings": given, **changes})


QUICK = {
    "first, 2bw, ZeRO 1": _case("nsp", FIRST, "2bw", shares=True),
    "last, 2bw, ZeRO 1": _case("nsp", LAST, "2bw", shares=True),
    "middle, LAMB, ZeRO 1": _case("nsp", MIDDLE, "lamb", shares=True),
    "only, sop, ALBERT, full rows": _case("sop", ONLY, "plain", family="albert", padded=False),
    "last, beam, without bias correction": _case("beam", LAST, "uncorrected"),
    "last, many tasks": _case("base", LAST, "bf16"),
}
SLOW = {
    "last, classes, fp16": _case("classes", LAST, "fp16"),
    "last, numbers, adam": _case("numbers", LAST, "adam"),
    "last, tokens, recompute": _case("tokens", LAST, "recompute"),
    "last, spans, gpipe": _case("spans", LAST, "gpipe"),
    "last, choices, sgd": _case("choices", LAST, "sgd"),
}
SLOW |= {
    f"{place}, {head}, {family}": _case(head, PLACES[place], "bf16", family=family)
    for family in ("bert", "albert")
    for place, head in [*product(["last"], HEADS), *product(["first"], ("nsp", "choices")), *product(["only"], HEADS)]
    if place != "only" or family == "albert"
}
SLOW |= {
    f"{place}, {name}, {'ZeRO 1, padded' if shares else 'full rows'}": _case(
        "nsp", PLACES[place], name, shares, padded=shares
    )
    for (number, place), (other, name) in product(enumerate(PLACES), enumerate(SETTINGS))
    for shares in [(number + other) % 2 == 0]
}
SLOW |= {
    f"{place}, {kind}, many tasks": _case(kind, PLACES[place], "plain")
    for place, kind in product(PLACES, ("base", "large", "none"))
}
SLOW |= {
    f"{place}, many tasks, {name}": _case("base", PLACES[place], name)
    for place, name in product(("first", "last", "only"), ("1 layer frozen", "2 layers frozen"))
}
