"""The stage map: which layers run on which ranks, in PipeDream's JSON. Knows no model and no tensors.

A pipeline of a model with L encoder layers has L + 2 layers: the embeddings, the encoder layers and the head.
In words an encoder layer goes by its number among the encoder layers, from 0, everywhere (see `layers_in_words`).
`module_to_stage_map` gives the stage of each layer, or is PipeDream's own, coarser list of d + 1 entries: d modules
and the loss criterion, which repeats the stage of the last module (see `encoder_layers_per_module`).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import fsum
from pathlib import Path
from typing import Literal

from ds_bert.errors import UserError
from ds_bert.files import read_json
from ds_bert.stage_map_faults import DEPTHS, MODULES, RANKS, StageMapFaults

# BERT-24 was published cut in two as 11 + 13: {(encoder layers, modules): encoder layers of each module}
_PUBLISHED_CUTS = {(24, 2): (11, 13)}


class StageMapError(UserError):
    """A stage map that cannot be used; the message names every fault of it."""

    def __init__(self, source: str, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        count = f"{len(faults)} faults: " if len(faults) > 1 else ""
        super().__init__(f"{source}: {count}{'; '.join(faults)}")


@dataclass(frozen=True)
class StageMap:
    """A valid map of L + 2 layers to stages, and of stages to ranks.

    A *launcher rank* is the number the launcher gave a process, and the one the map speaks of. A *grid rank* is
    ``stage * num_replicas + replica``: the number the process takes in the grid of stages and replicas.
    """

    layer_to_stage: tuple[int, ...]
    """The stage of each layer: embeddings, encoder layers, head."""
    stage_to_ranks: tuple[tuple[int, ...], ...]
    """Replica r of stage s runs on launcher rank ``stage_to_ranks[s][r]``."""
    stage_to_depth: tuple[int, ...] | None = None
    """The warm-up forward passes of each stage; None: PipeDream's default."""

    @property
    def num_layers(self) -> int:
        """Layers of the pipeline, L + 2."""
        return len(self.layer_to_stage)

    @property
    def num_stages(self) -> int:
        """Stages of the pipeline."""
        return len(self.stage_to_ranks)

    @property
    def num_replicas(self) -> int:
        """Copies of the pipeline."""
        return len(self.stage_to_ranks[0])

    @property
    def world_size(self) -> int:
        """Ranks of all stages together."""
        return self.num_stages * self.num_replicas

    @property
    def cuts(self) -> tuple[int, ...]:
        """Layer bounds, one more than stages: stage s holds the layers from ``cuts[s]`` to below ``cuts[s + 1]``.

        Raises:
            ValueError: the stages are not in ascending order (see `require_ascending`).
        """
        if list(self.layer_to_stage) != sorted(self.layer_to_stage):
            raise ValueError(f"stages that do not ascend have no cuts: {self.layer_to_stage}")
        return (0, *accumulate(self.layer_to_stage.count(stage) for stage in range(self.num_stages)))

    def layers_of(self, stage: int) -> str:
        """Return the layers of ``stage`` in words, as `layers_in_words` does."""
        layers = [layer for layer, owner in enumerate(self.layer_to_stage) if owner == stage]
        return layers_in_words(layers, self.num_layers)

    def ranks_of(self, stage: int) -> str:
        """Return the launcher ranks of ``stage`` in words: "0–3", or "3, 1"."""
        return numbers_in_words(self.stage_to_ranks[stage])

    def in_words(self) -> str:
        """Return the cut: "embeddings, encoder layers 0–5 on rank 0 | encoder layers 6–11, head on rank 1"."""
        ranks = "rank" if self.num_replicas == 1 else "ranks"
        stages = range(self.num_stages)
        return " | ".join(f"{self.layers_of(stage)} on {ranks} {self.ranks_of(stage)}" for stage in stages)

    def position(self, rank: int) -> tuple[int, int]:
        """Return the (stage, replica) that launcher rank ``rank`` runs."""
        for stage, ranks in enumerate(self.stage_to_ranks):
            if rank in ranks:
                return stage, ranks.index(rank)
        raise ValueError(f"rank {rank} is not in the map")

    def grid_rank(self, rank: int) -> int:
        """Return the grid rank of launcher rank ``rank``."""
        stage, replica = self.position(rank)
        return stage * self.num_replicas + replica

    def launcher_rank(self, grid_rank: int) -> int:
        """Return the launcher rank of ``grid_rank``; the inverse of `grid_rank`."""
        stage, replica = divmod(grid_rank, self.num_replicas)
        return self.stage_to_ranks[stage][replica]

    def warmup(self, stage: int) -> int:
        """Return how many forward passes ``stage`` does before its first backward pass.

        PipeDream's default is ⌊(N − 1 − Σ_{i<s} |R_i|) / |R_s|⌋, which is p − 1 − s as all stages have equally many
        ranks.
        """
        return self.num_stages - 1 - stage if self.stage_to_depth is None else self.stage_to_depth[stage]


def layers_in_words(layers: Sequence[int], num_layers: int) -> str:
    """Return how layers are spoken of: "embeddings, encoder layers 0–5", "encoder layer 11, head".

    Args:
        layers: their numbers in the pipeline, in ascending order: 0 for the embeddings, 1 for encoder layer 0, …
        num_layers: layers of the pipeline, L + 2.
    """
    encoder = [layer - 1 for layer in layers if 0 < layer < num_layers - 1]
    noun = "encoder layer" if len(encoder) == 1 else "encoder layers"
    names = [
        *(["embeddings"] if 0 in layers else []),
        *([f"{noun} {numbers_in_words(encoder)}"] if encoder else []),
        *(["head"] if num_layers - 1 in layers else []),
    ]
    return ", ".join(names)


def numbers_in_words(numbers: Sequence[int]) -> str:
    """Return consecutive numbers as a range, "0–3", others as a list, "3, 1"."""
    first, last = numbers[0], numbers[-1]
    if len(numbers) > 1 and list(numbers) == list(range(first, last + 1)):
        return f"{first}–{last}"
    return ", ".join(map(str, numbers))


def load_stage_map(path: str | Path, num_layers: int, world_size: int | None = None) -> StageMap:
    """Read a stage map from a JSON file.

    Args:
        path: the file.
        num_layers: layers of the pipeline, L + 2.
        world_size: processes that were started; None when none were.

    Raises:
        UserError: the file cannot be read or is not JSON.
        StageMapError: the map cannot be used; the message names every fault.
    """
    return parse_stage_map(read_json(Path(path)), str(path), num_layers, world_size)


def parse_stage_map(data: object, source: str, num_layers: int, world_size: int | None = None) -> StageMap:
    """Turn JSON's ``data`` into a `StageMap`; ``source`` names it in messages. See `load_stage_map`."""
    if not isinstance(data, dict):
        raise StageMapError(source, [f'the top level is not an object, expected {{"{MODULES}": …, "{RANKS}": …}}'])
    faults = StageMapFaults(data, num_layers, world_size).collect()
    if faults:
        raise StageMapError(source, faults)
    ranks, depths = data[RANKS], data.get(DEPTHS)
    stages = range(len(ranks))
    return StageMap(
        layer_to_stage=_stage_of_each_layer(data[MODULES], num_layers),
        stage_to_ranks=tuple(tuple(ranks[str(stage)]) for stage in stages),
        stage_to_depth=None if depths is None else tuple(depths[str(stage)] for stage in stages),
    )


def _stage_of_each_layer(module_to_stage: list[int], num_layers: int) -> tuple[int, ...]:
    if len(module_to_stage) == num_layers:
        return tuple(module_to_stage)
    modules = module_to_stage[:-1]
    sizes = encoder_layers_per_module(num_layers - 2, len(modules))
    encoder = [stage for stage, size in zip(modules, sizes, strict=True) for _ in range(size)]
    return (modules[0], *encoder, modules[-1])


def encoder_layers_per_module(encoder_layers: int, modules: int) -> tuple[int, ...]:
    """Divide the encoder layers over PipeDream's modules; the embeddings go with the first, the head with the last.

    Module k begins at encoder layer ⌊k·L/d⌋: as even as can be, later modules taking what does not divide. BERT-24
    at depths 4 and 8 was published so; at depth 2 it was published as 11 + 13, which is kept as the one exception.
    """
    bounds = [module * encoder_layers // modules for module in range(modules + 1)]
    even = tuple(end - begin for begin, end in pairwise(bounds))
    return _PUBLISHED_CUTS.get((encoder_layers, modules), even)


def require_ascending(stage_map: StageMap, source: str) -> None:
    """Refuse a map that today's schedules cannot run: layers and warm-ups must follow the order of the stages.

    Raises:
        StageMapError: naming each layer whose stage comes before its predecessor's, and each warm-up longer than the
            one of the stage before it, which would wait for ever.
    """
    why = "all schedules need ascending stages"
    names = [layers_in_words([layer], stage_map.num_layers) for layer in range(stage_map.num_layers)]
    faults = [
        f"{MODULES}[{layer}]: {why}, but {names[layer]} is on stage {stage} after {names[layer - 1]} on stage {before}"
        for layer, (before, stage) in enumerate(pairwise(stage_map.layer_to_stage), start=1)
        if stage < before
    ]
    faults += [
        f'{DEPTHS}["{stage}"]: found {depth}, expected at most the {before} of stage {stage - 1}, which sends no more'
        for stage, (before, depth) in enumerate(pairwise(stage_map.stage_to_depth or ()), start=1)
        if depth > before
    ]
    if faults:
        raise StageMapError(source, faults)


def balanced_cuts(costs: Sequence[float], stages: int) -> tuple[int, ...]:
    """Cut layers into stages so that the most expensive stage costs as little as can be.

    Ties are broken by the second most expensive stage, then by the third, and so on; then towards shorter early
    stages, which hold the most activations. Exact, by dynamic programming in O(layers² · stages²).

    Args:
        costs: the cost of each layer, in any unit.
        stages: how many stages; each takes at least one layer.

    Returns:
        Layer bounds as in `StageMap.cuts`, ``stages + 1`` of them.

    Raises:
        UserError: fewer than one stage, or more stages than layers.
    """
    layers = len(costs)
    if not 1 <= stages <= layers:
        raise UserError(f"{layers} layers cannot be cut into {stages} stages, expected 1 to {layers}")
    # best[end]: stage costs, highest first, and cuts of the best division of the first `end` layers
    best: dict[int, tuple[list[float], tuple[int, ...]]] = {0: ([], (0,))}
    for _ in range(stages):
        best = {
            end: min(
                (sorted([*stage_costs, fsum(costs[begin:end])], reverse=True), (*cuts, end))
                for begin, (stage_costs, cuts) in best.items()
                if begin < end
            )
            for end in range(min(best) + 1, layers + 1)
        }
    return best[layers][1]


def make_stage_map(
    costs: Sequence[float], stages: int, replicas: int, placement: Literal["stage", "replica"] = "stage"
) -> StageMap:
    """Make a map of balanced stages.

    Args:
        costs: the cost of each layer, in any unit.
        stages: stages of the pipeline.
        replicas: copies of the pipeline.
        placement: whose ranks are neighbours: "stage", the replicas of a stage, as PipeDream ships its maps (stage s
            runs on ranks s·R to s·R + R − 1), or "replica", the stages of a replica.

    Raises:
        UserError: no replica, no stage, or more stages than layers.
    """
    if replicas < 1:
        raise UserError(f"{replicas} replicas were asked for, expected at least 1")
    sizes = [end - begin for begin, end in pairwise(balanced_cuts(costs, stages))]
    by_stage, by_replica = (replicas, 1) if placement == "stage" else (1, stages)
    return StageMap(
        layer_to_stage=tuple(stage for stage, size in enumerate(sizes) for _ in range(size)),
        stage_to_ranks=tuple(
            tuple(stage * by_stage + replica * by_replica for replica in range(replicas)) for stage in range(stages)
        ),
    )


def to_json(stage_map: StageMap) -> str:
    """Return the map as PipeDream's JSON, one entry per layer, each list on a line of its own."""
    ranks = ",\n".join(f'    "{stage}": {json.dumps(ranks)}' for stage, ranks in enumerate(stage_map.stage_to_ranks))
    entries = [f'  "{MODULES}": {json.dumps(stage_map.layer_to_stage)}', f'  "{RANKS}": {{\n{ranks}\n  }}']
    if stage_map.stage_to_depth is not None:
        depths = {str(stage): depth for stage, depth in enumerate(stage_map.stage_to_depth)}
        entries.append(f'  "{DEPTHS}": {json.dumps(depths)}')
    return "{\n" + ",\n".join(entries) + "\n}\n"
