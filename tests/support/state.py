"""A run's whole state by name, the simple way: every process gathers everything."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist

from ds_bert.engine.buckets import Bucket, Share
from ds_bert.engine.optimizer import Optimizer

Tensors = dict[str, dict[str, torch.Tensor]]


def whole(bucket: Bucket, own: torch.Tensor) -> dict[str, torch.Tensor]:
    """Assemble what each process holds a part of (as long as the bucket's ``master``) into one tensor per name."""
    flat = own
    if bucket.sharded:
        assert bucket.group is not None
        own = own if bucket.group.is_queued else own.cpu()
        flat = torch.empty(bucket.shard_length * bucket.size, dtype=own.dtype, device=own.device)
        dist.all_gather(list(flat.chunk(bucket.size)), own.contiguous(), group=bucket.group.group)
    return {
        name: flat[begin:end].view(bucket.parameters[name].shape).clone()
        for name, (begin, end) in bucket.places.items()
    }


def state_by_name(boundary: Optimizer, steps_done: int) -> tuple[Tensors, dict[str, Any]]:
    """({kind: {parameter name: tensor}}, scalars) of this process's stage; a collective call of all processes."""
    tensors: Tensors = {"weights": {name: stored.clone() for name, stored in boundary.frozen.items()}}
    for bucket, group in zip(boundary.buckets, boundary.torch_optimizer.param_groups, strict=True):
        tensors["weights"].update(whole(bucket, bucket.master))
        if boundary.slots > 1:
            previous = bucket.own(bucket.weights[(steps_done - 1) % boundary.slots])
            tensors.setdefault("previous_weights", {}).update(whole(bucket, previous))
        state = boundary.torch_optimizer.state[group["params"][0]]
        for kind in sorted(state.keys() - {"step"} if steps_done else ()):
            tensors.setdefault(kind, {}).update(whole(bucket, state[kind]))
    return tensors, boundary.scalars(steps_done)


def load_by_name(
    boundary: Optimizer, tensors: Mapping[str, Mapping[str, torch.Tensor]], scalars: dict[str, Any], steps_done: int
) -> None:
    """Undo `state_by_name`, whatever cut it was called under."""

    def read(share: Share) -> None:
        whole = tensors[share.kind][share.name]
        assert whole.shape == share.shape
        share.part.copy_(whole.reshape(-1)[share.begin : share.begin + len(share.part)])

    boundary.load(read, tensors.keys(), scalars, steps_done)
