"""Flat buffers of parameters: which lie in which, their gradients' sum, the weights computed with, the master copy.

A bucket holds the parameters of this process that the same processes hold: those of its stage's replicas, or, for tied
parameters, of the replicas of every stage that has them. Gradients are summed over exactly these processes.

Where a schedule computes with two weight versions, a bucket has two slots: version v lies in slot v % 2, and the
gradients of global batch t in slot t % 2. A version is never changed while a micro-batch that uses it is in flight:

    global batch                              0  1  2  3
    computes with version max(t - 1, 0)       0  0  1  2
    … which lies in slot                      0  0  1  0
    sums its gradients in slot                0  1  0  1
    its step makes version t + 1, in slot     1  0  1  0

Step 1 puts version 2 where version 0 was, once the last backward of batch 1 is done: no later batch uses version 0.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.distributed as dist

from ds_bert.command_line import load_named
from ds_bert.engine.optimizers import OPTIMIZERS, Make
from ds_bert.engine.process_group import Grid
from ds_bert.engine.settings import EngineSettings, ParameterGroup
from ds_bert.engine.transport import Group, Work

WEIGHTS = "weights"
PREVIOUS = "previous_weights"


@dataclass(frozen=True)
class Share:
    """What lies on this process of one tensor of the state.

    A tensor of 12 elements that ranks 0 and 1 share has the holders (0, 0, 8) and (1, 8, 12); on rank 1 ``part`` has
    its last four elements, and ``begin`` is 8.

    Args:
        kind: `WEIGHTS`, `PREVIOUS`, or a moment of the optimizer's, such as "exp_avg".
        name: the parameter's.
        shape: of the whole tensor.
        part: the elements that lie here, in one dimension, maybe none: a view of the memory that the engine computes
            with, so what is copied into it is loaded.
        begin: elements of the whole tensor before them.
        holders: (rank, first element, end) of each process's part that is not empty; nothing where every process that
            has the parameter holds all of it.
    """

    kind: str
    name: str
    shape: tuple[int, ...]
    part: torch.Tensor
    begin: int = 0
    holders: tuple[tuple[int, int, int], ...] = ()

    def sources(self, rank: int) -> tuple[tuple[int, int, int], ...]:
        """(rank, first element, end) of the parts that together are the whole tensor, for a process that wants it.

        Args:
            rank: of that process, which is one of those that have the parameter.
        """
        return self.holders or ((rank, 0, prod(self.shape)),)


ROW = 1024
"""Elements whose squares are added up in their own precision; shards begin at whole rows."""


class Bucket:
    """Named parameters in flat buffers.

    Args:
        parameters: this process's parameters by name, in an order all processes of ``group`` share. `bind` moves them
            into the bucket, and gives each ``main_grad``, its view of the summed gradients.
        group: the processes that hold these parameters; None where this is the only one.
        ranks: their ranks, ascending.
        rank: this process's rank.
        dtype: of the weights computed with.
        master_dtype: of gradients and master weights; the parameters' own values lose nothing in it.
        sharded: whether each process of the group updates only its own part (ZeRO stage 1).
        slots: weight versions that are alive at once.
    """

    def __init__(
        self,
        parameters: dict[str, torch.nn.Parameter],
        group: Group | None,
        ranks: Sequence[int],
        rank: int,
        dtype: torch.dtype,
        master_dtype: torch.dtype,
        sharded: bool,
        slots: int = 1,
    ) -> None:
        self.parameters = parameters
        self.group, self.ranks = group, list(ranks)
        self.size, self.index = len(ranks), self.ranks.index(rank)
        self.sharded = sharded and self.size > 1
        self.places = _places(parameters)
        self.used = used = max(end for _, end in self.places.values())
        # Whole rows: each shard is aligned for any kernel, and the norm adds up the same rows however many share them.
        self.shard_length = -(-used // (self.size * ROW)) * ROW if self.sharded else used
        length = self.shard_length * (self.size if self.sharded else 1)
        self._first = self.index * self.shard_length if self.sharded else 0
        device = next(iter(parameters.values())).device
        precise = torch.zeros(length, dtype=master_dtype, device=device)
        for name, (begin, end) in self.places.items():
            precise[begin:end].copy_(parameters[name].detach().reshape(-1))
        self.weights = [precise.to(dtype, copy=True) for _ in range(slots)]
        self.gradients = [torch.zeros_like(precise) for _ in range(slots)]
        # Where weights are as precise as the master copy, the newest version is the master copy.
        self.weights_are_master = dtype == master_dtype
        self.master = self.own(self.weights[0]) if self.weights_are_master else self.own(precise).clone()
        self._views = [
            [(self._view(flat, name), self._view(sums, name)) for name in parameters]
            for flat in self.weights
            for sums in self.gradients
        ]
        for parameter in parameters.values():
            parameter.data = parameter.data.to(dtype)
            if not self.weights_are_master:
                parameter.register_post_accumulate_grad_hook(_add_to_main_grad)
        self.bind(0, 0)

    def _view(self, flat: torch.Tensor, name: str) -> torch.Tensor:
        begin, end = self.places[name]
        return flat[begin:end].view(self.parameters[name].shape)

    def bind(self, weights: int, gradients: int) -> None:
        """Let the parameters be the weights of one slot, and their gradients be summed in another."""
        views = self._views[weights * len(self.gradients) + gradients]
        for parameter, (data, main_grad) in zip(self.parameters.values(), views, strict=True):
            parameter.data = data
            parameter.main_grad = main_grad  # type: ignore[attr-defined]
            if self.weights_are_master:
                parameter.grad = main_grad

    def own(self, flat: torch.Tensor) -> torch.Tensor:
        """The part of a flat buffer that this process updates."""
        return flat[self._first : self._first + self.shard_length]

    def begin_reduction(self, slot: int) -> Work | None:
        """Begin to sum a slot's gradients over the group, at least in the part that this process updates with.

        Returns:
            What to wait for, or None where there is nothing to wait for.
        """
        flat = self.gradients[slot]
        if self.group is None or self.size == 1:
            return None
        if self.sharded and self.group.is_queued:
            return self.group.reduce_scatter(self.own(flat), flat)
        # Without the padding: gloo adds in an order that depends on the length, and this one is that without sharing.
        return self.group.all_reduce(flat[: self.used])

    def squared_norm(self, slot: int) -> torch.Tensor:
        """Sum of squares of those gradients of a slot that no other process counts, a float64 scalar.

        Added up over all processes, every element of every parameter, tied ones included, is counted once.
        """
        if not self.sharded and self.index > 0:
            return torch.zeros((), dtype=torch.float64, device=self.master.device)
        return sum_of_squares(self.own(self.gradients[slot])[: max(self.used - self._first, 0)])

    def parts(self, own: torch.Tensor) -> list[torch.Tensor]:
        """View this process's part of each parameter, maybe empty, in a buffer as long as ``master``."""
        first = self._first
        return [own[max(begin - first, 0) : max(end - first, 0)] for begin, end in self.places.values()]

    def squared_norms(self, *owns: torch.Tensor) -> torch.Tensor:
        """Sum of squares of this process's part of each parameter, float64, one row per buffer; see `begin_sum`."""
        return torch.stack([torch.stack([sum_of_squares(part) for part in self.parts(own)]) for own in owns])

    def begin_sum(self, parts: torch.Tensor) -> Work | None:
        """Begin to add up what each process of the group knows of its own part only; see `begin_reduction`."""
        return self.group.all_reduce(parts) if self.group and self.sharded else None

    def advance(self, slot: int) -> None:
        """Make ``slot`` the one that the master copy's next update is published to."""
        target = self.own(self.weights[slot])
        if self.weights_are_master and target.data_ptr() != self.master.data_ptr():
            target.copy_(self.master)
            self.master = target

    def publish(self, slot: int) -> Work | None:
        """Begin to make the updated master copy the weights of a slot on all processes; see `begin_reduction`."""
        if not self.weights_are_master:
            self.own(self.weights[slot]).copy_(self.master)
        return self.gather(slot)

    def gather(self, slot: int) -> Work | None:
        """Begin to give all processes of the group each other's parts of a slot's weights; see `begin_reduction`."""
        if self.group is None or not self.sharded:
            return None
        flat = self.weights[slot]
        return self.group.all_gather(flat, self.own(flat))

    def shares(self, kind: str, own: torch.Tensor) -> Iterator[Share]:
        """Say what lies here of each parameter's tensor of a kind, in a buffer as long as ``master``."""
        first = self._first
        for (name, (begin, end)), part in zip(self.places.items(), self.parts(own), strict=True):
            before = min(max(first - begin, 0), end - begin)
            yield Share(kind, name, tuple(self.parameters[name].shape), part, before, self._holders(begin, end))

    def _holders(self, begin: int, end: int) -> tuple[tuple[int, int, int], ...]:
        """Which ranks hold which elements of what lies between two places; see `Share`."""
        if not self.sharded:
            return ()
        length = self.shard_length
        return tuple(
            (self.ranks[index], max(index * length, begin) - begin, min((index + 1) * length, end) - begin)
            for index in range(begin // length, -(-end // length))
        )


def sum_of_squares(flat: torch.Tensor, row: int = ROW) -> torch.Tensor:
    """Return a float64 scalar.

    Rows are added up in the tensor's own precision, their sums in float64: one fp32 sum of millions loses digits.
    """
    whole = flat.numel() // row * row
    norms = torch.linalg.vector_norm(flat[:whole].view(-1, row), dim=1)
    rest = torch.linalg.vector_norm(flat[whole:]).reshape(1)
    return torch.cat([norms, rest]).double().square().sum()


def _places(parameters: dict[str, torch.nn.Parameter]) -> dict[str, tuple[int, int]]:
    places, position = {}, 0
    for name, parameter in parameters.items():
        places[name] = (position, position + parameter.numel())
        position += -(-parameter.numel() // 16) * 16  # whole cache lines
    return places


def _add_to_main_grad(parameter: torch.Tensor) -> None:
    if parameter.grad is not None:  # it is None where a layer has added to main_grad itself
        parameter.main_grad.add_(parameter.grad)  # type: ignore[attr-defined]
        parameter.grad = None


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


class NothingToUpdate:
    """The optimizer of a stage without parameters that are trained: it counts the steps, as the others do.

    Args:
        device: where ``found_inf``, 1 where a step is skipped, is to be found.
    """

    def __init__(self, device: torch.device) -> None:
        self.param_groups: list[dict[str, Any]] = []
        self.state: dict[torch.Tensor, dict[str, Any]] = {}
        self.steps, self.found_inf = torch.zeros(2, device=device)

    def step(self) -> None:
        """Count a step that is not skipped."""
        self.steps += 1 - self.found_inf


def make_torch_optimizer(
    buckets: Sequence[tuple[Bucket, ParameterGroup]], settings: EngineSettings, device: torch.device
) -> torch.optim.Optimizer | NothingToUpdate:
    """Make what updates the master copies of these buckets, one parameter group for each, with its moments."""
    if not buckets:
        return NothingToUpdate(device)
    groups: list[dict[str, Any]] = [
        {
            "params": [torch.nn.Parameter(bucket.master)],
            "weight_decay": settings.weight_decay if group.decays else 0.0,
            "lr_scale": group.lr_scale,
            "bucket": bucket if group.decays else None,
        }
        for bucket, group in buckets
    ]
    make: Make = load_named(OPTIMIZERS[settings.optimizer].maker)
    return make(groups, settings.optimizer_options)
