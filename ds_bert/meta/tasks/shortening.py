"""Encoded examples cut to a length, as their texts would have been."""

from itertools import pairwise

from ds_bert.data.features import Features, join_pair, make_features


def shortened(features: Features, max_length: int) -> Features:
    """Cut encoded texts and pairs to so many tokens, as `join_pair` would have; those that fit stay as they are."""
    if (features.lengths <= max_length).all():
        return features
    rows = [
        _cut(features.tokens[begin:end].tolist(), first, max_length)
        for (begin, end), first in zip(pairwise(features.starts), features.first_segments.tolist(), strict=True)
    ]
    ids, firsts = zip(*rows, strict=True)
    return make_features(ids, firsts, features.pad_id, features.columns)


def _cut(ids: list[int], first: int, max_length: int) -> tuple[list[int], int]:
    """Cut one sequence, [CLS] … [SEP] or [CLS] … [SEP] … [SEP], whose ``first`` tokens are of type 0."""
    if len(ids) <= max_length:
        return ids, first
    is_pair = 2 <= first < len(ids)
    left, right = (ids[1 : first - 1], ids[first:-1]) if is_pair else (ids[1:-1], None)
    cut, size = join_pair(left, right, ids[0], ids[-1], max_length)
    return cut, size if is_pair else min(first, size)
