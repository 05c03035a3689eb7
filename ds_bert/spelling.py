"""What a misspelt name was probably meant to be."""

import difflib
from collections.abc import Iterable

_ALIKE = 0.75  # of difflib's ratio, 1 for equal names
_TIE = 0.05
_PREFIX = 3


def meant(found: str, known: Iterable[str]) -> list[str]:
    """Return the known names that ``found`` may stand for, the likeliest first; none if nothing is like it.

    Case, hyphens and underscores do not matter: "max-seq-len" and "maxSeqLength" are near to "max_seq_length".
    """
    names: dict[str, str] = {}
    for name in known:
        names.setdefault(_plain(name), name)
    found = _plain(found)
    if found in names:
        return [names[found]]
    begun = [name for plain, name in names.items() if len(found) >= _PREFIX and plain.startswith(found)]
    if len(begun) == 1:
        return begun
    close = difflib.get_close_matches(found, names, n=3, cutoff=_ALIKE)
    best = [_ratio(found, plain) for plain in close]
    near = [names[plain] for plain, ratio in zip(close, best, strict=True) if ratio > best[0] - _TIE]
    return near or begun[:3]


def did_you_mean(found: str, known: Iterable[str]) -> str:
    """Return "did you mean a or b?", or "" if nothing is like it."""
    names = meant(found, known)
    return f"did you mean {' or '.join(names)}?" if names else ""


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def _ratio(found: str, name: str) -> float:
    return difflib.SequenceMatcher(None, name, found).ratio()
