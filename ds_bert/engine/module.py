"""The layers of one stage, as DeepSpeed's PipelineModule cut where the stage map says."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from deepspeed.pipe import LayerSpec, PipelineModule
from deepspeed.runtime.pipe.topology import PipeDataParallelTopology
from torch.utils.checkpoint import checkpoint

from ds_bert.engine.process_group import Grid, quiet

Carry = Mapping[str, torch.Tensor]


class StageModule(PipelineModule):
    """The layers ``cuts[stage]`` up to ``cuts[stage + 1]`` of a pipeline.

    Args:
        layers: builders of all layers, in order; only this stage's are called. A layer's ``hugging_face_name`` gives
            the name of a parameter in checkpoints; a name that layers share is one tied parameter.
        cuts: first layer of every stage, and the number of layers: (stages + 1,).
        grid: this process's place.
        seed: of dropout, see `layer_seed`.
        recompute: whether to keep only each layer's input and compute its activations again in the backward.
    """

    def __init__(
        self, layers: Sequence[Callable[[], Any]], cuts: Sequence[int], grid: Grid, seed: int, recompute: bool
    ) -> None:
        self.explicit_cuts = list(cuts)
        self.dropout_seed = seed
        self.recompute = recompute
        specs = [_Spec(layer) for layer in layers]
        topology = PipeDataParallelTopology(num_pp=grid.num_stages, num_dp=grid.num_replicas)
        with quiet(), _numbered_as_device(grid.device):
            super().__init__(specs, topology=topology)
        self._share_tied_parameters()

    def _partition_layers(self, method: str = "explicit") -> None:
        self.parts = self.explicit_cuts
        self._set_bounds(start=self.parts[self.stage_id], stop=self.parts[self.stage_id + 1])

    def _local_parameters(self) -> Iterator[tuple[str, torch.nn.Module, str, torch.nn.Parameter]]:
        for layer in self.forward_funcs:
            for local_name, parameter in layer.named_parameters(remove_duplicate=False):
                path, _, attribute = local_name.rpartition(".")
                yield layer.hugging_face_name(local_name), layer.get_submodule(path), attribute, parameter

    def _share_tied_parameters(self) -> None:
        """Make one tensor of all parameters of this stage that have one name."""
        seen: dict[str, torch.nn.Parameter] = {}
        for name, owner, attribute, parameter in list(self._local_parameters()):
            if name in seen:
                setattr(owner, attribute, seen[name])
            else:
                seen[name] = parameter

    def parameters_by_name(self) -> dict[str, torch.nn.Parameter]:
        """This stage's parameters under their names in checkpoints, each once, in the order of the layers."""
        return {name: parameter for name, _, _, parameter in self._local_parameters()}

    def layers_by_name(self) -> dict[str, int]:
        """For each of these names the number of this stage's first layer that has it, of all the pipeline's layers."""
        layers: dict[str, int] = {}
        for number, layer in enumerate(self.forward_funcs, self._local_start):
            for local_name, _ in layer.named_parameters(remove_duplicate=False):
                layers.setdefault(layer.hugging_face_name(local_name), number)
        return layers

    def forward(self, carry: Carry, labels: Carry | None = None, batch_number: tuple[int, int] | None = None) -> Carry:
        """Run this stage's layers.

        Args:
            carry: what the stage before handed over, or the inputs.
            labels: what the last layer is told of the labels; None on other stages.
            batch_number: (optimizer step, micro-batch number counted over all replicas), of which dropout is a
                function; None where nothing is dropped.
        """
        for offset, layer in enumerate(self.forward_funcs):
            index = self._local_start + offset
            seed = None if batch_number is None else layer_seed(self.dropout_seed, *batch_number, index)
            run = partial(_run_layer, layer, seed)
            if self.recompute and torch.is_grad_enabled() and 0 < index < self._num_layers - 1:
                carry = checkpoint(run, carry, labels, use_reentrant=False, preserve_rng_state=False)
            else:
                carry = run(carry, labels)
        return carry


@contextlib.contextmanager
def _numbered_as_device(device: torch.device) -> Iterator[None]:
    """Let DeepSpeed, which takes the launcher's number for the device's, find the right one."""
    number = os.environ["LOCAL_RANK"]
    os.environ["LOCAL_RANK"] = str(device.index or 0)
    try:
        yield
    finally:
        os.environ["LOCAL_RANK"] = number


class _Spec(LayerSpec):
    """A layer that is built by calling something: DeepSpeed's own wants a class and its arguments."""

    def __init__(self, make: Callable[[], Any]) -> None:
        super().__init__(torch.nn.Module)
        self.make = make

    def build(self, log: bool = False) -> Any:
        """Build the layer."""
        return self.make()


def _run_layer(layer: torch.nn.Module, seed: int | None, carry: Carry, labels: Carry | None) -> Carry:
    if seed is not None:
        _seed_dropout(seed, next(layer.parameters()).device)
    return layer(carry, labels)


def layer_seed(seed: int, step: int, micro_batch: int, layer: int) -> int:
    """Return the seed of a layer's dropout: the same for every cut, process and number of replicas, and on resume."""
    digest = hashlib.blake2b(f"{seed}/{step}/{micro_batch}/{layer}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _seed_dropout(seed: int, device: torch.device) -> None:
    # The generator's own method: torch.manual_seed seeds every device and costs a hundred times as much.
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)
