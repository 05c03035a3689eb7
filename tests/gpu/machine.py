"""What the machine is: written as JSON by a process of its own, so that whoever asks never touches a GPU.

python -m tests.gpu.machine FILE
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.machine import describe


def machine() -> dict[str, Any]:
    """GPUs, versions, date and commit; what cannot be known is empty."""
    there = torch.cuda.is_available()
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count() if there else 0)]
    nccl = torch.cuda.nccl.version() if there and torch.distributed.is_nccl_available() else ()
    return {
        "gpus": [gpu.name for gpu in gpus],
        "count": len(gpus),
        "gpu_memory": min((gpu.total_memory for gpu in gpus), default=0),
        "driver": _driver(),
        "cuda": torch.version.cuda or "",
        "nccl": ".".join(map(str, nccl)),
        **describe(),
    }


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        printed = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return printed.stdout.partition("\n")[0].strip() if printed.returncode == 0 else ""


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(machine(), indent=2), encoding="utf-8")
