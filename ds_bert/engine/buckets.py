"""Flat buffers of parameters: their gradients' sum, the weights computed with, and the master copy that is updated.

A bucket holds the parameters of this process that the same processes hold: those of its stage's replicas, or, for tied
parameters, of the replicas of every stage that has them. Gradients are summed over exactly these processes.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist


class Bucket:
    """Named parameters in flat buffers.

    Args:
        parameters: this process's parameters by name, in an order all processes of ``group`` share. Their data moves
            into the bucket, and each gets ``main_grad``, its view of the summed gradients.
        group: the processes that hold these parameters.
        ranks: their ranks, ascending.
        rank: this process's rank.
        dtype: of the weights computed with.
        master_dtype: of gradients and master weights; the parameters' own values lose nothing in it.
        sharded: whether each process of the group updates only its own part (ZeRO stage 1).
    """

    def __init__(
        self,
        parameters: dict[str, torch.nn.Parameter],
        group: dist.ProcessGroup | None,
        ranks: Sequence[int],
        rank: int,
        dtype: torch.dtype,
        master_dtype: torch.dtype,
        sharded: bool,
    ) -> None:
        self.parameters = parameters
        self.group, self.size, self.index = group, len(ranks), list(ranks).index(rank)
        self.sharded = sharded and self.size > 1
        self.places = _places(parameters)
        used = max(end for _, end in self.places.values())
        self.shard_length = -(-used // self.size) if self.sharded else used
        length = self.shard_length * (self.size if self.sharded else 1)
        device = next(iter(parameters.values())).device
        self.gradients = torch.zeros(length, dtype=master_dtype, device=device)
        precise = torch.zeros(length, dtype=master_dtype, device=device)
        for name, (begin, end) in self.places.items():
            precise[begin:end].copy_(parameters[name].detach().reshape(-1))
        self.weights = precise.to(dtype)
        for name, parameter in parameters.items():
            begin, end = self.places[name]
            parameter.data = self.weights[begin:end].view(parameter.shape)
            parameter.main_grad = self.gradients[begin:end].view(parameter.shape)  # type: ignore[attr-defined]
            _accumulate_into_main_grad(parameter)
        self.own_weights = self._own(self.weights)
        # Where weights are as precise as the master copy, they are the master copy.
        self.master = self.own_weights if dtype == master_dtype else self._own(precise).clone()

    def _own(self, flat: torch.Tensor) -> torch.Tensor:
        """The part of a flat buffer that this process updates."""
        begin = self.index * self.shard_length if self.sharded else 0
        return flat[begin : begin + self.shard_length]

    @property
    def own_gradients(self) -> torch.Tensor:
        """The part of the summed gradients that this process updates with."""
        return self._own(self.gradients)

    def reduce_gradients(self) -> None:
        """Sum the gradients over the group, at least in the part that this process updates with."""
        if self.size == 1:
            return
        if self.sharded and dist.get_backend(self.group) == "nccl":
            dist.reduce_scatter(self.own_gradients, list(self.gradients.chunk(self.size)), group=self.group)
        else:
            dist.all_reduce(self.gradients, group=self.group)

    def squared_norm(self) -> torch.Tensor:
        """Sum of squares of those gradients that no other process counts, a float64 scalar.

        Added up over all processes, every element of every parameter, tied ones included, is counted once.
        """
        if not self.sharded and self.index > 0:
            return torch.zeros((), dtype=torch.float64, device=self.gradients.device)
        return _sum_of_squares(self.own_gradients)

    def publish(self) -> None:
        """Make the updated master copy the weights that all processes of the group compute with."""
        if self.master.data_ptr() != self.own_weights.data_ptr():
            self.own_weights.copy_(self.master)
        if self.sharded:
            dist.all_gather(list(self.weights.chunk(self.size)), self.own_weights.clone(), group=self.group)

    def whole(self, own: torch.Tensor) -> dict[str, torch.Tensor]:
        """Assemble what each process holds a part of (as long as ``master``) into one tensor per parameter name."""
        flat = own
        if self.sharded:
            flat = torch.empty(self.shard_length * self.size, dtype=own.dtype, device=own.device)
            dist.all_gather(list(flat.chunk(self.size)), own.contiguous(), group=self.group)
        return {
            name: flat[begin:end].view(self.parameters[name].shape).clone()
            for name, (begin, end) in self.places.items()
        }

    def part(self, whole: dict[str, torch.Tensor], into: torch.Tensor) -> None:
        """Undo `whole`: copy this process's part of the tensors by name ``into`` a buffer as long as ``master``."""
        flat = torch.zeros(self.gradients.shape, dtype=into.dtype, device=into.device)
        for name, (begin, end) in self.places.items():
            flat[begin:end].copy_(whole[name].reshape(-1))
        into.copy_(self._own(flat))


def _sum_of_squares(flat: torch.Tensor, row: int = 1024) -> torch.Tensor:
    """Add up rows in the tensor's own precision and their sums in float64: one fp32 sum of millions loses digits."""
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


def _accumulate_into_main_grad(parameter: torch.nn.Parameter) -> None:
    """Let autograd sum this parameter's gradients in ``main_grad``."""
    main_grad = parameter.main_grad  # type: ignore[attr-defined]
    if parameter.dtype == main_grad.dtype:
        parameter.grad = main_grad
        return

    def add(parameter: torch.Tensor) -> None:
        if parameter.grad is not None:  # it is None where a layer has added to main_grad itself
            main_grad.add_(parameter.grad)
            parameter.grad = None

    parameter.register_post_accumulate_grad_hook(add)
