"""Flat buffers of parameters: their gradients' sum, the weights computed with, and the master copy that is updated.

A bucket holds the parameters of this process that the same processes hold: those of its stage's replicas, or, for tied
parameters, of the replicas of every stage that has them. Gradients are summed over exactly these processes.

Where a schedule computes with two weight versions, a bucket has two slots: version v lies in slot v % 2, and the
gradients of global batch t in slot t % 2. A version is never changed while a micro-batch that uses it is in flight.
"""

from collections.abc import Iterator, Sequence

import torch

from ds_bert.engine.collectives import Group, Work
from ds_bert.engine.state import Share

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
