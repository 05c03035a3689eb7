"""How fast pre-training is on one GPU: `tests/benchmarks/gpu_stage.py` with few steps."""

import json
from typing import Any

from tests.gpu.ranks import Bench, run_ranks

STEPS = 8
FOR_LARGE = 48 * 2**30  # bytes of memory with which BERT-large is measured, too


def check(bench: Bench) -> dict[str, Any]:
    """A check: the benchmark runs through; its figures are reported, none is asked for."""
    sizes = ["base", "large"] if bench.gpu_memory >= FOR_LARGE else ["base"]
    output = bench.folder / "speed.json"
    words = ["tests/benchmarks/gpu_stage.py", "--systems", "ds_bert", "--steps", STEPS, "--sizes", *sizes]
    run_ranks(bench, [*words, "--output", output], "speed")
    figures = {}
    for run in json.loads(output.read_text())["runs"]:
        share = f", {run['share_of_peak']:.1%} of peak" if run["share_of_peak"] else ""
        figures[f"BERT-{run['size']}, length {run['length']}"] = f"{run['sequences_per_second']:.1f} sequences/s{share}"
    return figures
