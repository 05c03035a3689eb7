"""Which parameters of a process lie in which bucket: those of the same stages that are updated alike."""

from collections.abc import Mapping

import torch
import torch.distributed as dist

from ds_bert.engine.buckets import Bucket
from ds_bert.engine.collectives import Group
from ds_bert.engine.process_group import Grid
from ds_bert.engine.settings import EngineSettings, ParameterGroup


def stages_by_name(
    parameters: Mapping[str, torch.nn.Parameter], grid: Grid, control: dist.ProcessGroup
) -> dict[str, tuple[int, ...]]:
    """Ask all processes which stages hold a parameter of each name: more than one where it is tied."""
    names: list[list[str]] = [[] for _ in range(grid.world_size)]
    dist.all_gather_object(names, list(parameters), group=control)
    owners: dict[str, tuple[int, ...]] = {}
    for stage in range(grid.num_stages):
        for name in names[grid.rank_of(stage, 0)]:
            owners[name] = (*owners.get(name, ()), stage)
    return owners


def make_buckets(
    parameters: Mapping[str, torch.nn.Parameter],
    owners: Mapping[str, tuple[int, ...]],
    grid: Grid,
    settings: EngineSettings,
) -> list[tuple[Bucket, ParameterGroup]]:
    """Move this process's trained parameters into buckets, in an order that all processes share; all must call it.

    Args:
        parameters: this process's, by name.
        owners: what `stages_by_name` returned.
        grid: this process's place.
        settings: of the engine.
    """
    buckets = []
    for stages in sorted(set(owners.values())):  # the same order everywhere: making a group takes all processes
        ranks = [grid.rank_of(stage, replica) for stage in stages for replica in range(grid.num_replicas)]
        process_group = Group(grid, ranks, across_stages=len(stages) > 1)
        if grid.stage not in stages:
            continue
        names = [name for name in owners if owners[name] == stages and settings.is_trained(name)]
        for group, members in _by_group(names, parameters, settings):
            bucket = Bucket(
                members,
                process_group,
                ranks,
                grid.rank,
                settings.dtype,
                settings.master_dtype,
                settings.zero_stage == 1,
                settings.weight_versions,
            )
            buckets.append((bucket, group))
    return buckets


def _by_group(
    names: list[str], parameters: Mapping[str, torch.nn.Parameter], settings: EngineSettings
) -> list[tuple[ParameterGroup, dict[str, torch.nn.Parameter]]]:
    groups: dict[ParameterGroup, dict[str, torch.nn.Parameter]] = {}
    for name in names:
        group = settings.parameter_group(name, parameters[name].ndim)
        groups.setdefault(group, {})[name] = parameters[name]
    return sorted(groups.items(), key=lambda item: (not item[0].decays, item[0].lr_scale))
