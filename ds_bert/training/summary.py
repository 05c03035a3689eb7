"""What is printed when a run has ended: speed, busy time per stage, bubble."""

from typing import Any

import torch.distributed as dist

from ds_bert.engine.engine import Engine
from ds_bert.schedules.one_f_one_b import bubble_share
from ds_bert.training.loop import Outcome


def summarize(engine: Engine, outcome: Outcome, micro_batches: int, tokens_per_sample: int) -> dict[str, Any]:
    """Gather the figures of all processes; a collective call.

    Returns:
        samples and tokens per second, the share of time each stage computed (mean of its replicas), the bubble share
        measured (mean idle share of all stages) and that of an even cut in theory, and bytes sent per step by a stage.
    """
    seconds = max(outcome.seconds, 1e-9)
    mine = (engine.place.stage, outcome.busy_seconds / seconds, engine.execution.transport.bytes_sent)
    everyone: list[Any] = [None] * engine.place.world_size
    dist.all_gather_object(everyone, mine, group=engine.control)
    stages, replicas = engine.place.num_stages, engine.place.num_replicas
    busy = [sum(share for stage, share, _ in everyone if stage == s) / replicas for s in range(stages)]
    return {
        "samples_per_second": outcome.samples / seconds,
        "tokens_per_second": outcome.samples * tokens_per_sample / seconds,
        "busy_share_per_stage": busy,
        "bubble_share": 1.0 - sum(busy) / stages,
        "bubble_share_even_cut": bubble_share(stages, micro_batches),
        "bytes_sent": sum(sent for _, _, sent in everyone),
    }


def summary_lines(figures: dict[str, Any]) -> list[str]:
    """Put the figures into words."""
    shares = ", ".join(f"stage {stage} {share:.0%}" for stage, share in enumerate(figures["busy_share_per_stage"]))
    return [
        f"speed: {figures['samples_per_second']:.1f} samples/s, {figures['tokens_per_second']:,.0f} tokens/s",
        f"busy:  {shares}; idle {figures['bubble_share']:.0%} on average "
        f"(1F1B on an even cut: {figures['bubble_share_even_cut']:.0%})",
        f"sent:  {figures['bytes_sent'] / 1e6:,.1f} MB between stages",
    ]
