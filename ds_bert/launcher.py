"""What the launcher told this process by its environment: its rank, of how many; and which launcher that is."""

import os
from collections.abc import Mapping


def launcher_world() -> tuple[int, int]:
    """Return (rank, number of processes) as `deepspeed`, torchrun or SLURM's wrapper set them; (0, 1) without one."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def command_for(processes: int, environ: Mapping[str, str] | None = None) -> str:
    """Name the launcher's command that starts so many processes, such as `torchrun --nproc_per_node 4`.

    The launcher is the one in use; where there is none, both are named. A job of several nodes keeps as many of them as
    can have equally many processes: 4 processes after a start on 3 nodes are 2 on each of 2.

    Args:
        processes: of all nodes together.
        environ: the process's environment; default: this one's.
    """
    environ = os.environ if environ is None else environ
    if "TORCHELASTIC_RUN_ID" in environ:
        nodes, each = _spread(processes, environ.get("GROUP_WORLD_SIZE", "1"))
        return f"`torchrun --nnodes {nodes} --nproc_per_node {each}`" if nodes > 1 else _torchrun(processes)
    if "CROSS_SIZE" not in environ:  # set by deepspeed's launcher on each node
        return f"{_deepspeed(processes)} or {_torchrun(processes)}"
    nodes, each = _spread(processes, environ["CROSS_SIZE"])
    if {"SLURM_JOB_ID", "SLOTS"} <= environ.keys():  # our script exports SLOTS
        gpus = f" --gpus-per-node {each}" if environ.get("SLURM_GPUS_ON_NODE") else ""
        return f"`SLOTS={each} sbatch --nodes {nodes}{gpus} docker/slurm.sbatch`"
    if int(environ["CROSS_SIZE"]) > 1:
        return f"`deepspeed --num_nodes {nodes} --num_accelerators {each}`, or a hostfile with {processes} slots in all"
    return f"{_deepspeed(processes)}, or `deepspeed --hostfile` with {processes} slots in all"


def were_started(processes: int) -> str:
    """Say how many processes there are: "2 processes were started"."""
    return "1 process was started" if processes == 1 else f"{processes} processes were started"


def _spread(processes: int, nodes: str) -> tuple[int, int]:
    """(nodes, processes of each): the most of the ``nodes`` that can have equally many."""
    used = next(count for count in range(min(int(nodes), processes), 0, -1) if processes % count == 0)
    return used, processes // used


def _deepspeed(processes: int) -> str:
    return f"`deepspeed --num_accelerators {processes}`"


def _torchrun(processes: int) -> str:
    return f"`torchrun --nproc_per_node {processes}`"


_PIPELINE_DEFAULTS = {
    "CUDA_MODULE_LOADING": "EAGER",  # lazy loading waits for the device when a kernel is launched for the first time
    "CUDA_DEVICE_MAX_CONNECTIONS": "32",  # hardware queues: of 8, one waits behind the spinning kernel of another
    "NCCL_RUNTIME_CONNECT": "0",  # else NCCL connects an algorithm's peers in the middle of the step that first uses it
}


def set_pipeline_defaults() -> None:
    """Set what CUDA and NCCL read from the environment, where the user has not."""
    for name, value in _PIPELINE_DEFAULTS.items():
        os.environ.setdefault(name, value)
