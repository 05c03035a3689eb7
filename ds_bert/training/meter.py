"""What each process measures of itself, what all know of it, which are slow, and their share of a device's peak.

A process's figures stand at its rank's place of a vector that is zero elsewhere; it is added up over all processes on
the way, beside the votes to stop, so that measuring costs no collective.
"""

import re
import resource
import socket
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any, NamedTuple

import psutil
import torch

from ds_bert.checkpoint.saving import gather
from ds_bert.engine.engine import Engine
from ds_bert.engine.execution import MicroBatch
from ds_bert.engine.settings import Precision

_FIGURES = 3  # of a rank: seconds computed per token, bytes of memory, times that the allocator had to free some


@dataclass(frozen=True)
class Workload:
    """What an example is, on average.

    Args:
        tokens: of it.
        flops: that training on it takes, forward and backward; None where they are not known.
    """

    tokens: float
    flops: float | None = None


@dataclass(frozen=True)
class _Member:
    """What all know of one process: its machine, its device's peak FLOP/s, whether all its weights are trained."""

    machine: str
    peak: float | None
    is_whole: bool


class Meter:
    """Measures this process, and keeps what all have measured since the log's last entry; all make one together.

    Args:
        engine: that is to be measured.
        work: of an example.
        peak_tflops: of a device, as the user gave it; 0 to look it up.
    """

    def __init__(self, engine: Engine, work: Workload, peak_tflops: float = 0.0) -> None:
        self.grid, self.timeline, self.work = engine.grid, engine.timeline, work
        grid, device, settings = engine.grid, engine.grid.device, engine.settings
        peak = peak_tflops * 1e12 or None
        if peak is None and device.type == "cuda":
            peak = known_peak(torch.cuda.get_device_name(device), settings.precision, settings.tf32)
        mine = _Member(socket.gethostname(), peak, not engine.optimizer.frozen)
        self._members: list[_Member] = gather(engine.control, mine, grid.world_size)
        self.peak = _peak_of_all(self._members)
        self._stragglers = Stragglers(grid.num_replicas, grid.world_size)
        self._begun, self._busy, self._tokens = 0, 0.0, 0  # of the step before, and how many were begun
        self._peak_memory = 0
        self._retries_before = _retries(grid.device)
        self._retries_told = False
        self._clear()

    def _clear(self) -> None:
        self._samples, self._seconds = 0, 0.0
        self._memory = [0.0] * self.grid.world_size

    def votes(self, micro_batches: Iterable[Any]) -> list[float]:
        """This process's figures of the step before, on the way with the step whose micro-batches these are."""
        busy, before = self.timeline.busy_seconds, self._busy
        is_warm = self._begun >= 2  # the very first step is for warming up
        rate = (busy - before) / self._tokens if is_warm and self._tokens else 0.0
        self._begun, self._busy, self._tokens = self._begun + 1, busy, sum(map(_tokens, micro_batches))
        vector = [0.0] * (_FIGURES * self.grid.world_size)
        begin = _FIGURES * self.grid.rank
        retries = _retries(self.grid.device) - self._retries_before
        vector[begin : begin + _FIGURES] = rate, float(self._memory_now()), float(retries)
        return vector

    def _memory_now(self) -> int:
        """Bytes: the device's peak since the last call, or, on CPUs, what the process holds now."""
        device = self.grid.device
        if device.type != "cuda":
            return psutil.Process().memory_info().rss
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        self._peak_memory = max(self._peak_memory, peak)
        return peak

    def peak_memory(self) -> int:
        """The most bytes that the device had allocated, or, on CPUs, that the process held, in all its time."""
        if self.grid.device.type == "cuda":
            self._memory_now()
            return self._peak_memory
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def note(self, step: int, sums: Sequence[float]) -> list[str]:
        """Take in what all processes measured; return what people should know of it, in sentences.

        Args:
            step: that the sums came with, from 1.
            sums: of `votes`.
        """
        rates, memory, retries = (sums[figure::_FIGURES] for figure in range(_FIGURES))
        self._memory = list(map(max, self._memory, memory))
        sentences = [
            f"step {step}: {self._name(rank)} is slow: for {IN_A_ROW} steps it has computed over {TOO_SLOW:g} times, "
            f"now {times:.1f} times, as long as {self._measure_of_all()}"
            for rank, times in self._stragglers.note(step, rates).items()
        ]
        if any(retries) and not self._retries_told:
            self._retries_told = True
            names = ", ".join(self._name(rank) for rank, count in enumerate(retries) if count)
            sentences.append(
                f"step {step}: {names} ran short of device memory and had to free cached blocks to go on, which stalls "
                "the pipeline; lower --per_device_train_batch_size (with more --gradient_accumulation_steps), or set "
                "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"
            )
        return sentences

    def _name(self, rank: int) -> str:
        return f"{self.grid.describe(rank)} on {self._members[rank].machine}"

    def _measure_of_all(self) -> str:
        return "the other replicas of its stage" if self.grid.num_replicas > 1 else "in its earlier steps"

    def took(self, samples: int, seconds: float) -> None:
        """Take note of examples trained on, of all replicas, and the seconds that it took."""
        self._samples += samples
        self._seconds += seconds

    def entry(self) -> dict[str, float]:
        """The figures since the last entry: speeds, and the bytes of each stage (maximum of its replicas)."""
        speeds = self.speeds(self._samples, self._seconds) if self._samples else {}
        replicas = self.grid.num_replicas
        memory = {
            f"memory_stage_{stage}": max(self._memory[stage * replicas : (stage + 1) * replicas])
            for stage in range(self.grid.num_stages)
        }
        self._clear()
        return speeds | memory

    def speeds(self, samples: int, seconds: float) -> dict[str, float]:
        """Examples and tokens per second, tokens per second of one rank, and the share of the devices' peak FLOP/s.

        The share counts useful work only: a forward and a backward of every layer, not what is computed again.
        """
        rate = samples / max(seconds, 1e-9)
        tokens = rate * self.work.tokens
        found = {
            "samples_per_second": rate,
            "tokens_per_second": tokens,
            "tokens_per_second_per_rank": tokens / self.grid.world_size,
        }
        if self.peak and self.work.flops is not None:
            found["share_of_peak"] = rate * self.work.flops / self.peak
        return found


def _peak_of_all(members: Sequence[_Member]) -> float | None:
    """FLOP/s of all devices; None where one is not known, or where the work is less than a backward of everything."""
    peaks = [member.peak for member in members if member.is_whole and member.peak is not None]
    return sum(peaks) if len(peaks) == len(members) else None


def _tokens(item: Any) -> int:
    """Tokens of a micro-batch, padding included; or of a task's batches, which are gone through alike on all ranks."""
    if isinstance(item, MicroBatch):
        rows, length, *_ = item.shape
        return rows * length
    return sum(map(_tokens, (*item.support, item.query)))


def _retries(device: torch.device) -> int:
    """How often the caching allocator had to give its blocks back before it got what was asked of it."""
    return torch.cuda.memory_stats(device).get("num_alloc_retries", 0) if device.type == "cuda" else 0


TOO_SLOW = 1.5  # times the median
IN_A_ROW = 5  # steps that a rank must have been too slow, so that a hiccup is none
AGAIN_AFTER = 100  # steps before the same rank is named again
_PAST = 100  # steps of its own that a rank is compared with,
_ENOUGH = 10  # and the fewest


class Stragglers:
    """Watches the ranks of a grid, whose rank is stage x replicas + replica.

    Replicas of a stage do the same work, so a rank is held against the others of its stage: more than `TOO_SLOW` times
    their median for `IN_A_ROW` steps, and it is a straggler. Without replicas it is held against its own past. Stages
    are not compared: a cut need not be even.

    Args:
        num_replicas: copies of the pipeline.
        world_size: number of ranks.
    """

    def __init__(self, num_replicas: int, world_size: int) -> None:
        self.num_replicas = num_replicas
        self._slow_for = [0] * world_size
        self._named_at: dict[int, int] = {}
        self._past: list[deque[float]] = [deque(maxlen=_PAST) for _ in range(world_size)]

    def note(self, step: int, seconds: Sequence[float]) -> dict[int, float]:
        """Take in a step.

        Args:
            step: its number.
            seconds: that each rank computed, for work of the same size; 0 where that is not known.

        Returns:
            The stragglers to be named now: how many times as long as it should each took in this step.
        """
        found = {}
        stages = [
            sorted(seconds[first : first + self.num_replicas]) for first in range(0, len(seconds), self.num_replicas)
        ]
        for rank, own in enumerate(seconds):
            usual = self._usual(rank, own, stages[rank // self.num_replicas])
            self._past[rank].append(own)
            is_slow = usual > 0 and own > TOO_SLOW * usual
            self._slow_for[rank] = self._slow_for[rank] + 1 if is_slow else 0
            is_new = step >= self._named_at.get(rank, step - AGAIN_AFTER) + AGAIN_AFTER
            if self._slow_for[rank] >= IN_A_ROW and is_new:
                self._named_at[rank] = step
                found[rank] = own / usual
        return found

    def _usual(self, rank: int, own: float, of_stage: Sequence[float]) -> float:
        """What a rank should take; 0 where that is not known yet."""
        if self.num_replicas > 1:
            return _median_of_others(of_stage, own) if of_stage[0] > 0 else 0.0
        known = [value for value in self._past[rank] if value > 0]
        return median(known) if len(known) >= _ENOUGH else 0.0


def _median_of_others(ascending: Sequence[float], own: float) -> float:
    """The median of all values but one that is ``own``; there may be hundreds, so they are not sorted again."""
    own_index, count = bisect_left(ascending, own), len(ascending) - 1
    return fmean(ascending[middle + (middle >= own_index)] for middle in ((count - 1) // 2, count // 2))


class Peak(NamedTuple):
    """Dense TFLOP/s of matrix products, from the data sheets; 0 where a card has no units for it."""

    bf16: float
    fp16: float
    tf32: float
    fp32: float


# By the words that a card's name must have; of several that fit, the one with the most words counts.
_PEAKS = {
    "V100": Peak(0, 125, 0, 15.7),
    "V100 PCIE": Peak(0, 112, 0, 14),
    "T4": Peak(0, 65, 0, 8.1),
    "A10": Peak(125, 125, 62.5, 31.2),
    "A30": Peak(165, 165, 82, 10.3),
    "A40": Peak(149.7, 149.7, 74.8, 37.4),
    "A100": Peak(312, 312, 156, 19.5),
    "L4": Peak(121, 121, 60, 30.3),
    "L40S": Peak(362, 362, 183, 91.6),
    "RTX 3090": Peak(71, 71, 35.6, 35.6),  # sums in fp32, as training has them
    "RTX 4090": Peak(165, 165, 82.6, 82.6),
    "H100": Peak(989, 989, 494.5, 67),
    "H100 PCIE": Peak(756, 756, 378, 51),
    "H100 NVL": Peak(835, 835, 417.5, 60),
    "H200": Peak(989, 989, 494.5, 67),
    "H200 NVL": Peak(835, 835, 417.5, 60),
    "B200": Peak(2250, 2250, 1125, 75),
}


# A slice of a card, or a weaker one of the same number.
_OTHERS = {"MIG", "LAPTOP", "MOBILE", "MAX", "D", "TI", "SUPER"}


def known_peak(name: str, precision: Precision, tf32: bool) -> float | None:
    """The peak of a GPU in FLOP/s, dense; None for a card that is not known, or cannot do this.

    Args:
        name: as `torch.cuda.get_device_name` gives it, such as "NVIDIA A100-SXM4-80GB".
        precision: of the layers' weights and activations.
        tf32: whether fp32 products are taken in TF32; of no matter in other precisions, and on cards without it.
    """
    words = set(re.split(r"[^A-Z0-9]+", name.upper()))
    fitting = [key for key in _PEAKS if words.issuperset(key.split())]
    if not fitting or words & _OTHERS or precision == "fp64":
        return None
    peak = _PEAKS[max(fitting, key=lambda key: len(key.split()))]
    tflops = ((tf32 and peak.tf32) or peak.fp32) if precision == "fp32" else getattr(peak, precision)
    return tflops * 1e12 or None
