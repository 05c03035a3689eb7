"""The same numbers on a GPU as on one process of the CPU: losses, norms, weights, evaluations, predictions.

All that is compared of a world, one set of processes, is computed in one go, since starting them takes longest:

    python -m tests.gpu.traced tests.gpu.parity WORLD DEVICE FOLDER
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ds_bert.engine.engine import Engine
from ds_bert.engine.process_group import Grid, start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.meta.task import Learner, Method, task_passes
from ds_bert.modeling.adapters import Selection
from tests.gpu.ranks import Bench, CheckFailed, run_ranks
from tests.support.meta import MetaCase, gradients, meta_config
from tests.support.reference import Trajectory, deviation
from tests.support.state import state_by_name
from tests.support.toy import global_batch, toy_map
from tests.support.training import Case, build_engine, micro_batches, poison_one_step, train

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class World:
    """Processes that train together.

    Args:
        stages, replicas: how many of each.
        transport: as --transport has it.
        gpus: how many it needs; with one, all processes share it.
    """

    stages: int = 1
    replicas: int = 1
    transport: str = "auto"
    gpus: int = 1


WORLDS = {
    "reference": World(),  # on the CPU, whatever there is
    "one-stage": World(),
    "two-stages-gloo": World(2, 1, "gloo"),
    "two-replicas-gloo": World(1, 2, "gloo"),
    "two-stages-nccl": World(2, 1, "nccl", gpus=2),
    "two-replicas-nccl": World(1, 2, "nccl", gpus=2),
    "two-by-two-nccl": World(2, 2, "nccl", gpus=4),
}
STEPS, PAUSE, SIZE = 8, 4, 2  # steps, those between two evaluations, rows of a micro-batch
ONLY_THE_THIRD = [False, False, True, False, False]
# eps keeps AdamW and LAMB from making much of little: where a gradient is mere rounding, g / sqrt(g * g) is ±1.
_SGD = EngineSettings("sgd", weight_decay=0.01, seed=1)
_ADAMW = replace(_SGD, optimizer="adamw", optimizer_options={"eps": 1e-3})
_LAMB = replace(_ADAMW, optimizer="lamb")
CASES = {
    f"{schedule}, {settings.optimizer}, {precision}": Case(settings, SIZE, STEPS, learning_rate).change(
        schedule=schedule, precision=precision
    )
    for schedule, settings, learning_rate, precisions in [
        ("1f1b", _SGD, 0.1, ["fp32", "bf16", "fp16"]),
        ("1f1b", _ADAMW, 1e-2, ["fp32", "bf16", "fp16", "fp64"]),
        ("1f1b", _LAMB, 1e-2, ["fp32", "bf16"]),
        ("2bw", _SGD, 0.1, ["fp32", "bf16"]),
        ("2bw", _ADAMW, 1e-2, ["fp32", "bf16", "fp64"]),
    ]
    for precision in precisions
}
# A GPU's random numbers are not a CPU's: what drops is compared with one stage on the same device.
DROPPING = {
    name: replace(CASES[name], dropout=0.1).change(recompute=recompute)
    for name, recompute in (("1f1b, sgd, fp32", False), ("2bw, sgd, fp32", True))
}
POISONED = {
    "1f1b, fp32": _ADAMW,
    "1f1b, fp16": replace(_ADAMW, precision="fp16"),
    "2bw, bf16": replace(_ADAMW, schedule="2bw", precision="bf16"),
}
_LEARNER = Learner(
    task_passes(num_batches=4, inner_epochs=1, every=2),
    Method(max_grad_norm=0.5),
    Selection(parameter_efficient=True, global_adapters=True),
    step_size_range=(-9.0, 9.0),
)


@dataclass(frozen=True)
class Tolerance:
    """How far numbers may be from the reference's: relative, but for the key bias, whose true gradient is zero.

    Weights in fp32 and fp64, and predictions: max|a - b| / max|b|, of each tensor. Weights in 16 bits, where many have
    hardly moved when measured by their rounding: the length of the difference over that of the way that all have gone.

    Noise of one unit in the last place on all that a linear layer, a norm or an attention takes and gives moves no
    number by more than a third of these; with TF32's noise, fp32's weights are off by 4e-3.
    """

    loss: float
    norm: float
    weights: float
    predicted: float
    key_bias: float = 1e-6

    @property
    def evaluated(self) -> float:
        """Of a loss of an evaluation."""
        return self.loss


TOLERANCES = {
    "fp64": Tolerance(1e-9, 1e-9, 1e-9, 1e-9),
    "fp32": Tolerance(1e-5, 1e-5, 1e-5, 1e-5),
    "fp16": Tolerance(3e-4, 2e-3, 2e-2, 1e-2),
    "bf16": Tolerance(5e-3, 2.5e-2, 1e-1, 1e-1),
}
HALVES = ("bf16", "fp16")
META_TOLERANCE = 1e-6  # of fp64 gradients through several inner steps


def compute(world: World, device: str) -> Arrays:
    """Run all cases on this process; return what it has found, under names like ``<kind>/<case>/<what>``."""
    stage_map = toy_map(world.stages, world.replicas)
    grid = start_process_group(stage_map, timeout_seconds=60, transport=world.transport)
    assert grid.device.type == device, f"computes on {grid.device}, not on {device}: is there a GPU for torch?"
    assert world.transport in ("auto", grid.backend), f"messages go through {grid.backend}, not {world.transport}"
    found: Arrays = {}
    zero_stage = int(world.replicas > 1)
    for kind, cases in (("plain", CASES), ("dropping", DROPPING)):
        for name, case in cases.items():
            parts = _trajectory(grid, case.change(zero_stage=zero_stage))
            found |= {f"{kind}/{name}/{part}": array for part, array in parts.items()}
    for name, settings in POISONED.items():
        skipped, stayed, finite = poison_one_step(grid, replace(settings, zero_stage=zero_stage))
        found |= {
            f"poisoned/{name}/{key}": np.array(value) for key, value in (("skipped", skipped), ("stayed", stayed))
        }
        found[f"poisoned/{name}/finite"] = np.array(finite)
    orders = [True, False] if world.stages == 1 else [True]  # the second order needs the whole model on one stage
    learners = [replace(_LEARNER, first_order=first_order) for first_order in orders]
    meta = gradients(grid, [MetaCase(meta_config(adapters=True), learner, num_tasks=4) for learner in learners])
    for first_order, (loss, by_name) in zip(orders, meta, strict=True):
        name = f"meta/{'first' if first_order else 'second'} order"
        found |= {f"{name}/loss": np.array(loss)} | {f"{name}/gradient/{key}": item for key, item in by_name.items()}
    return found


def _trajectory(grid: Grid, case: Case) -> Arrays:
    """Train, with an evaluation and a prediction after every `PAUSE` steps."""
    engine = build_engine(grid, grid.stage_map.cuts, case)
    before = _master_weights(engine)
    losses, norms, evaluated, predicted = [], [], [], []
    for last in range(PAUSE, case.steps + 1, PAUSE):
        result = train(grid, engine, replace(case, steps=last), first_step=last - PAUSE)
        losses, norms = losses + result.losses, norms + result.norms
        held_out = micro_batches(grid, global_batch(last, rows=5, seed=9), 3)
        evaluated.append(engine.objective.report(engine.evaluate(held_out))["loss"])
        outputs, _ = engine.predict(held_out)
        predicted += [
            outputs[number][name].numpy().ravel() for number in sorted(outputs) for name in sorted(outputs[number])
        ]
    weights = result.weights
    if case.settings.precision in HALVES:
        after = _master_weights(engine)
        weights = {name: after[name] - before[name] for name in after}
    parts = {"losses": np.array(losses), "norms": np.array(norms), "evaluated": np.array(evaluated)}
    if predicted:  # on rank 0
        parts["predicted"] = np.concatenate(predicted)
    return parts | {f"weights/{name}": array for name, array in weights.items()}


def _master_weights(engine: Engine) -> Arrays:
    tensors = state_by_name(engine.optimizer, engine.steps_done)[0]["weights"]
    return {name: tensor.cpu().numpy().copy() for name, tensor in tensors.items()}


def run_world(name: str) -> Callable[[Bench], dict[str, Any]]:
    """A check: compute all cases in that world, and compare them with the reference, unless it is that itself."""

    def check(bench: Bench) -> dict[str, Any]:
        world, folder = WORLDS[name], bench.folder / name
        device = "cpu" if name == "reference" else bench.device
        words = ["tests.gpu.parity", name, device, folder]
        run_ranks(bench, words, name, device, world.stages * world.replicas, shared=world.gpus == 1)
        found = read(folder)
        if name == "reference":
            return {"cases": len(CASES) + len(POISONED)}
        expected = read(bench.folder / "reference")
        expected = {key: item for key, item in expected.items() if not key.startswith("dropping/")}
        if name != "one-stage":
            expected |= {k: v for k, v in read(bench.folder / "one-stage").items() if k.startswith("dropping/")}
        return compare(found, expected)

    return check


def read(folder: Path) -> Arrays:
    """Put together what the ranks of a world have found.

    Raises:
        CheckFailed: what two of them hold differs in a bit.
    """
    merged: Arrays = {}
    for path in sorted(folder.glob("rank-*.npz")):
        with np.load(path) as arrays:
            for key in arrays.files:
                if not np.array_equal(merged.setdefault(key, arrays[key]), arrays[key], equal_nan=True):
                    raise CheckFailed(f"{key} differs between the processes")
    return merged


def compare(found: Arrays, expected: Arrays) -> dict[str, Any]:
    """Compare a world with the reference; return the largest deviations by precision.

    Raises:
        CheckFailed: something is farther away than it may be; all such cases are named.
    """
    faults: list[str] = []
    figures: dict[str, dict[str, float]] = {}
    for kind, cases in (("plain", CASES), ("dropping", DROPPING)):
        for name, case in cases.items():
            prefix = f"{kind}/{name}/"
            if not any(key.startswith(prefix) for key in expected):
                continue
            precision = case.settings.precision
            away = _deviations(_below(prefix, found), _below(prefix, expected), precision in HALVES)
            worst = figures.setdefault(precision, {})
            for what, value in away.items():
                worst[what] = max(worst.get(what, 0.0), value)
                allowed = getattr(TOLERANCES[precision], what)
                if not value <= allowed:  # NaN is a fault, too
                    faults.append(
                        f"{name}{' with dropout' * (kind == 'dropping')}: {what} off by {value:.1e} > {allowed:g}"
                    )
    faults += _poison_faults(found)
    meta = _meta_deviation(_below("meta/", found), _below("meta/", expected))
    figures["meta, fp64"] = {"gradient": meta}
    if not meta <= META_TOLERANCE:
        faults.append(f"meta-training: loss or gradient off by {meta:.1e} > {META_TOLERANCE:g}")
    if faults:
        raise CheckFailed("; ".join(faults))
    return figures


def _below(prefix: str, arrays: Arrays) -> Arrays:
    return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}


def _deviations(found: Arrays, expected: Arrays, in_halves: bool) -> dict[str, float]:
    ours, theirs = (Trajectory(item["losses"], item["norms"], _below("weights/", item)) for item in (found, expected))
    away = deviation(ours, theirs)
    result = {"loss": away.loss, "norm": away.norm}
    result |= {"weights": _of_the_way(ours.weights, theirs.weights)} if in_halves else vars(away)
    result["evaluated"] = float(np.abs(found["evaluated"] / expected["evaluated"] - 1).max())
    difference = np.abs(found["predicted"] - expected["predicted"]).max()
    return result | {"predicted": float(difference / np.abs(expected["predicted"]).max())}


def _of_the_way(moved: Arrays, expected: Arrays) -> float:
    def length(tensors: Mapping[str, np.ndarray]) -> float:
        return float(np.sqrt(sum((item.astype(np.float64) ** 2).sum() for item in tensors.values())))

    return length({name: moved[name] - expected[name] for name in expected}) / length(expected)


def _poison_faults(found: Arrays) -> list[str]:
    faults = []
    for name in POISONED:
        skipped, stayed, finite = (found[f"poisoned/{name}/{key}"].tolist() for key in ("skipped", "stayed", "finite"))
        if not (skipped == stayed == ONLY_THE_THIRD and finite):
            faults.append(
                f"{name}, step 2 of 0 to 4 with a gradient of NaN: skipped {skipped}, weights stayed {stayed}, all "
                f"finite: {finite}"
            )
    return faults


def _meta_deviation(found: Arrays, expected: Arrays) -> float:
    """The largest deviation of a loss or of a tensor's gradient, relative; of next to nothing, absolute."""
    away = [
        np.abs(found[key] - expected[key]).max() / (np.abs(expected[key]).max() + 1e-6)
        for key in found  # without the second order, where stages are several
    ]
    return float(max(away))


def main(words: Sequence[str]) -> None:
    """Compute a world's cases on this rank."""
    world, device, folder = words
    found = compute(WORLDS[world], device)
    np.savez(Path(folder) / f"rank-{os.environ['LOCAL_RANK']}.npz", **found)


if __name__ == "__main__":
    main(sys.argv[1:])
