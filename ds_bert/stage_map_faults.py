"""What can be wrong with a stage map: each fault as a phrase that says what, where and what was expected."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from ds_bert.command_line import command_for, were_started

MODULES = "module_to_stage_map"
RANKS = "stage_to_rank_map"
DEPTHS = "stage_to_depth_map"

_STAGE_KEY = re.compile("0|[1-9][0-9]{0,8}")


class StageMapFaults:
    """The faults of one stage map.

    What is malformed is reported once, as such; checks that would need it are left out, so that each fault named is
    one to mend.
    """

    def __init__(self, data: dict[str, Any], num_layers: int, world_size: int | None) -> None:
        self._data = data
        self._num_layers = num_layers
        self._world_size = world_size
        self._faults: list[str] = []

    def collect(self) -> list[str]:
        """Check everything and return the faults, in the order of the file's keys; none means a usable map."""
        self._check_keys()
        stages = self._read_modules() if MODULES in self._data else []
        ranks = self._read_ranks() if RANKS in self._data else {}
        if stages and self._keys_are_stages(RANKS):
            self._check_stages_have_ranks(stages, ranks)
        if ranks:
            self._check_ranks_named_once(ranks)
            self._check_world(ranks)
            self._check_replicas(ranks)
        if self._data.get(DEPTHS) is not None:
            self._check_depths({stage for stage in stages if stage is not None} or set(ranks))
        return self._faults

    def _check_keys(self) -> None:
        known = (MODULES, RANKS, DEPTHS)
        for key in self._data:
            if key not in known:
                self._add(f"unknown key {_show(key)}, expected only {', '.join(known)}")
        for key in (MODULES, RANKS):
            if key not in self._data:
                self._add(f"{key} is missing")

    def _read_modules(self) -> list[int | None]:
        """Return the stage of each entry of the module map, None for a malformed entry."""
        entries, layers = self._data[MODULES], self._num_layers
        if not isinstance(entries, list):
            self._add(f"{MODULES}: found {_show(entries)}, expected a list of stages")
            return []
        stages = self._whole_numbers(entries, MODULES, "a stage")
        if not 2 <= len(stages) <= layers:
            self._add(
                f"{MODULES} has {len(stages)} entries, expected {layers} (one for each layer: embeddings, "
                f"{layers - 2} encoder layers, head) or d + 1 (d modules and the criterion, d from 1 to {layers - 2})"
            )
        elif len(stages) < layers and None not in stages[-2:] and stages[-1] != stages[-2]:
            self._add(
                f"{MODULES}[{len(stages) - 1}]: found stage {stages[-1]}, expected {stages[-2]}: with fewer than "
                f"{layers} entries the last one is the criterion, on the stage of the last module"
            )
        used = sorted({stage for stage in stages if stage is not None})
        for before, after in pairwise([-1, *used] if None not in stages else []):
            if after > before + 1:
                missing = _spell_range("stage", before + 1, after - 1)
                self._add(f"{MODULES}: no layer is on {missing}, expected every stage from 0 to {used[-1]}")
        return stages

    def _read_ranks(self) -> dict[int, list[int | None]]:
        """Return the ranks of each stage: None for a malformed rank, an empty list for a malformed list."""
        ranks: dict[int, list[int | None]] = {}
        for stage, entries in self._read_by_stage(RANKS).items():
            where = f'{RANKS}["{stage}"]'
            ranks[stage] = self._whole_numbers(entries, where, "a rank") if isinstance(entries, list) else []
            if not isinstance(entries, list):
                self._add(f"{where}: found {_show(entries)}, expected a list of ranks")
            elif not entries:
                self._add(f"{where} is empty, expected at least one rank")
        return ranks

    def _check_stages_have_ranks(self, stages: list[int | None], ranks: dict[int, list[int | None]]) -> None:
        used = {stage for stage in stages if stage is not None}
        for stage in sorted(used - set(ranks)):
            self._add(f"{RANKS}: no ranks for stage {stage}, which {MODULES}[{stages.index(stage)}] names")
        if None not in stages:
            # an unused stage below the highest one has been named as a gap
            for stage in sorted(stage for stage in ranks if stage > max(used)):
                self._add(f'{RANKS}["{stage}"]: no layer is on stage {stage}, expected only stages of {MODULES}')

    def _check_ranks_named_once(self, ranks: dict[int, list[int | None]]) -> None:
        places: dict[int, str] = {}
        for rank, where in _places(ranks):
            if rank in places:
                self._add(f"{where}: rank {rank} stands already in {places[rank]}, expected each rank once")
            places.setdefault(rank, where)

    def _check_world(self, ranks: dict[int, list[int | None]]) -> None:
        """Ranks must be 0 to one less than their number, which must be the number of processes started."""
        if not (all(ranks.values()) and self._keys_are_stages(RANKS)):
            return
        total = sum(map(len, ranks.values()))
        expected = f"expected 0 to {total - 1}, as {total} are named"
        for rank, where in _places(ranks):
            if rank >= total:
                self._add(f"{where}: rank {rank} is beyond the world, {expected}")
        if not any(None in entries for entries in ranks.values()):
            inside = sorted({rank for rank, _ in _places(ranks) if rank < total})
            for before, after in pairwise([-1, *inside, total]):
                if after > before + 1:
                    self._add(f"{RANKS}: {_spell_range('rank', before + 1, after - 1)} missing, {expected}")
        if self._world_size is not None and self._world_size != total:
            self._add(
                f"{RANKS} names {total} ranks, but {were_started(self._world_size)}: start {total} "
                f"({command_for(total)}) or use a map of {self._world_size}"
            )

    def _check_replicas(self, ranks: dict[int, list[int | None]]) -> None:
        counts = {stage: len(entries) for stage, entries in sorted(ranks.items()) if entries}
        if len(set(counts.values())) > 1:
            usual = Counter(counts.values()).most_common(1)[0][0]
            odd = ", ".join(f"stage {stage} has {count}" for stage, count in counts.items() if count != usual)
            self._add(
                f"{RANKS}: {odd} and not {usual} ranks, expected the same number for every stage, as each replica is "
                "one whole pipeline"
            )

    def _check_depths(self, stages: set[int]) -> None:
        depths = self._read_by_stage(DEPTHS)
        for stage, depth in depths.items():
            if stage not in stages:
                self._add(f'{DEPTHS}["{stage}"]: there is no stage {stage}')
            if not _is_whole(depth):
                self._add(f'{DEPTHS}["{stage}"]: found {_show(depth)}, expected a number of micro-batches from 0')
        for stage in sorted(stages - set(depths)) if self._keys_are_stages(DEPTHS) else ():
            self._add(f"{DEPTHS}: stage {stage} is missing, expected every stage")

    def _read_by_stage(self, key: str) -> dict[int, Any]:
        """Return an object's entries by stage, without the malformed ones."""
        entries = self._data[key]
        if not isinstance(entries, dict):
            self._add(f'{key}: found {_show(entries)}, expected an object with the stages "0", "1", … as keys')
            return {}
        for name in entries:
            if not _STAGE_KEY.fullmatch(name):
                self._add(f'{key}: found the key {_show(name)}, expected a stage: "0", "1", …')
        return {int(name): entry for name, entry in entries.items() if _STAGE_KEY.fullmatch(name)}

    def _keys_are_stages(self, key: str) -> bool:
        entries = self._data.get(key)
        return isinstance(entries, dict) and all(map(_STAGE_KEY.fullmatch, entries))

    def _whole_numbers(self, entries: list[Any], where: str, what: str) -> list[int | None]:
        """Return the entries, None for each that is no whole number from 0."""
        for place, entry in enumerate(entries):
            if not _is_whole(entry):
                self._add(f"{where}[{place}]: found {_show(entry)}, expected {what}, a whole number from 0")
        return [entry if _is_whole(entry) else None for entry in entries]

    def _add(self, fault: str) -> None:
        self._faults.append(fault)


def _places(ranks: dict[int, list[int | None]]) -> Iterator[tuple[int, str]]:
    """Yield each well-formed rank and where it stands."""
    for stage, entries in ranks.items():
        for place, rank in enumerate(entries):
            if rank is not None:
                yield rank, f'{RANKS}["{stage}"][{place}]'


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _show(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _spell_range(noun: str, first: int, last: int) -> str:
    return f"{noun} {first}" if first == last else f"{noun}s {first} to {last}"
