"""What a measurement was made on: the processor, the versions, the date, and whether bf16 is fast here."""

import os
import platform
import subprocess
import time
from datetime import datetime
from importlib import metadata
from pathlib import Path

import torch

BF16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16")
LIBRARIES = ("ds_bert", "torch", "transformers", "deepspeed")


def processor() -> tuple[str, list[str]]:
    """Return the processor's name and which bf16 instructions it has, from /proc/cpuinfo."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    entries = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = entries.get("flags", "").split()
    return entries.get("model name", platform.processor()), [flag for flag in BF16_INSTRUCTIONS if flag in flags]


def _library_version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def describe() -> dict:
    """Return the machine, the versions and the date as a JSON object."""
    name, instructions = processor()
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "processor": name,
        "bf16_instructions": instructions,
        "cores": len(os.sched_getaffinity(0)),
        "memory_GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "system": platform.platform(),
        "python": platform.python_version(),
        "commit": _commit(),
        **{library: _library_version(library) for library in LIBRARIES},
    }


def matmul_gflops(dtype: torch.dtype, repetitions: int = 20) -> float:
    """Return the GFLOP/s of one thread on a product of the feed-forward layer's shape (best of 3 timings)."""
    rows, inner, columns = 1024, 384, 1536
    left, right = torch.randn(rows, inner, dtype=dtype), torch.randn(inner, columns, dtype=dtype)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        for _ in range(repetitions):
            left @ right
        seconds.append(time.perf_counter() - begin)
    torch.set_num_threads(threads)
    return 2e-9 * rows * inner * columns * repetitions / min(seconds)


def bf16_speed() -> dict:
    """Time one matrix product in fp32 and in bf16; "fast" means the processor has the instructions and gains 1.3 x."""
    fp32, bf16 = matmul_gflops(torch.float32), matmul_gflops(torch.bfloat16)
    fast = bool(processor()[1]) and bf16 > 1.3 * fp32
    return {"fp32_gflops": round(fp32), "bf16_gflops": round(bf16), "fast": fast}
