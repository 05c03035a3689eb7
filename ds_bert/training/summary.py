"""What is printed when a run has ended: speed, busy time per stage, bubble."""

from typing import Any

import torch.distributed as dist

from ds_bert.engine.engine import Engine
from ds_bert.schedules import SCHEDULES
from ds_bert.schedules.simulator import bubble_share
from ds_bert.training.loop import Outcome
from ds_bert.training.meter import Meter


def summarize(engine: Engine, outcome: Outcome, micro_batches: int, meter: Meter) -> dict[str, Any]:
    """Gather the figures of all processes; a collective call.

    Returns:
        `Meter.speeds`; the share of time each stage computed (mean of its replicas); the bubble share measured (mean
        idle share of all stages) and that of an even cut in theory; bytes sent between stages in all; and each stage's
        peak memory in bytes (of the device, or of the process on CPUs; maximum of its replicas).
    """
    seconds = max(outcome.seconds, 1e-9)
    busy_share = outcome.busy_seconds / seconds
    mine = (engine.place.stage, busy_share, engine.execution.transport.bytes_sent, meter.peak_memory())
    everyone: list[Any] = [None] * engine.place.world_size
    dist.all_gather_object(everyone, mine, group=engine.control)
    stages = range(engine.place.num_stages)
    of_stage = [[figures for figures in everyone if figures[0] == stage] for stage in stages]
    busy = [sum(share for _, share, _, _ in figures) / len(figures) for figures in of_stage]
    return {
        **meter.speeds(outcome.samples, seconds),
        "busy_share_per_stage": busy,
        "bubble_share": 1.0 - sum(busy) / len(stages),
        "bubble_share_even_cut": bubble_share(SCHEDULES[engine.settings.schedule], len(stages), micro_batches),
        "bytes_sent": sum(sent for _, _, sent, _ in everyone),
        "peak_memory_per_stage": [max(peak for *_, peak in figures) for figures in of_stage],
    }


def summary_lines(figures: dict[str, Any]) -> list[str]:
    """Put the figures into words."""
    share = f"; {figures['share_of_peak']:.1%} of the peak FLOP/s" if "share_of_peak" in figures else ""
    shares = ", ".join(f"stage {stage} {share:.0%}" for stage, share in enumerate(figures["busy_share_per_stage"]))
    memory = ", ".join(f"stage {s} {peak / 2**30:.2f} GiB" for s, peak in enumerate(figures["peak_memory_per_stage"]))
    return [
        f"speed:  {figures['samples_per_second']:.1f} samples/s, {figures['tokens_per_second']:,.0f} tokens/s "
        f"({figures['tokens_per_second_per_rank']:,.0f} per rank{share})",
        f"busy:   {shares}; idle {figures['bubble_share']:.0%} on average "
        f"(an even cut in theory: {figures['bubble_share_even_cut']:.0%})",
        f"memory: {memory} at the most",
        f"sent:   {figures['bytes_sent'] / 1e6:,.1f} MB between stages",
    ]
