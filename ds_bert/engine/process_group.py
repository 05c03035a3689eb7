"""How the processes become one: the device of each, the backend of their messages, and each one's place in the map.

DeepSpeed's own grid is canonical: rank = stage x replicas + replica, and DeepSpeed is right only there (with permuted
ranks its tied weights come apart and its file names collide). So the launcher's numbers are translated before the group
exists, and everything after sees the canonical grid, whatever permutation the stage map asks for.
"""

import contextlib
import gc
import importlib
import io
import logging
import os
import socket
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from threading import Thread
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from ds_bert.command_line import launcher_world, set_pipeline_defaults
from ds_bert.engine.meeting import START_TIMEOUT, meet
from ds_bert.errors import UserError
from ds_bert.stage_map import StageMap

Backend = Literal["nccl", "gloo"]

# How many of NCCL's last calls the flight recorder keeps, for when a rank is lost; before torch 2.9 by the second name.
_RECORDER_SIZES = ("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE")


def keep_nccls_last_calls() -> None:
    """Let torch's flight recorder run, unless the user has said otherwise; before groups are made."""
    if not any(name in os.environ for name in _RECORDER_SIZES):
        os.environ[_RECORDER_SIZES[torch.__version__ < "2.9"]] = "2000"


def choose_device(local_rank: int, transport: str) -> torch.device:
    """Return the device of this process: a GPU where there is one, else the CPU; ``DS_ACCELERATOR=cpu`` overrides.

    Where a scheduler shows each task its own GPU only, that is number 0 for all of them.

    Raises:
        UserError: there are fewer GPUs than processes, and ``transport`` does not let them share; or no GPU for NCCL.
    """
    use_cuda = os.environ.get("DS_ACCELERATOR", "cuda") == "cuda" and torch.cuda.is_available()
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if use_cuda else "cpu")
    if not use_cuda:
        if transport == "nccl":
            raise UserError("--transport nccl needs GPUs, and this process computes on the CPU; needed is auto or gloo")
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if local_rank >= count > 1 and transport != "gloo":
        raise UserError(
            f"process {local_rank} of this machine (counted from 0) finds {count} GPUs; needed is one for each "
            "process, or --transport gloo, with which processes share GPUs"
        )
    device = torch.device("cuda", local_rank % count)
    torch.cuda.set_device(device)
    return device


def choose_backend(transport: str, device: torch.device, store: dist.Store, rank: int, world_size: int) -> Backend:
    """Return the backend of all groups: gloo on CPUs, and NCCL on GPUs, where each process has one to itself.

    NCCL refuses two processes on one GPU, so there gloo carries the messages, through the host's memory.

    Args:
        transport: what the user asked for: "nccl", "gloo", or "auto".
        device: of this process.
        store: where the processes tell each other their GPUs.
        rank, world_size: the launcher's.

    Raises:
        UserError: on all processes, where NCCL was asked for and two of them have the same GPU.
    """
    if device.type == "cpu" or transport == "gloo":
        return "gloo"
    store.set(f"gpu/{rank}", _name_of_gpu(device))
    owners: dict[bytes, int] = {}
    for other in range(world_size):
        first = owners.setdefault(store.get(f"gpu/{other}"), other)
        if first != other:
            if transport == "nccl":
                raise UserError(
                    f"ranks {first} and {other} compute on the same GPU, which NCCL cannot do; needed is one for each "
                    "process, or --transport gloo"
                )
            if rank == 0:
                print(
                    f"ranks {first} and {other} share a GPU: messages go through the host's memory (as with "
                    "--transport gloo), which is slow",
                    file=sys.stderr,
                )
            return "gloo"
    return "nccl"


def host_buffer(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Return memory of the host that a GPU copies to and from while both go on; torch reuses it once they are done."""
    return torch.empty(shape, dtype=dtype, pin_memory=torch.cuda.is_available())


def _name_of_gpu(device: torch.device) -> str:
    """What no other GPU of the job is called."""
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return f"{socket.gethostname()} {uuid or (os.environ.get('CUDA_VISIBLE_DEVICES'), device.index)}"


def dump_trace() -> bytes | None:
    """The last collectives of this process as torch's flight recorder kept them, in the form of its own analyser.

    None without NCCL, and where torch is too old or the recorder is switched off.
    """
    dump = getattr(torch._C._distributed_c10d, "_dump_nccl_trace", None)
    return dump() if dump and _backends() else None


def abort() -> None:
    """Abort all communicators, so that no kernel waits for a peer any more: a process with such a one cannot end.

    One thread each: a communicator's kernel may not end before another's has.
    """
    threads = [Thread(target=backend.abort, daemon=True) for backend in _backends()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _backends() -> list[Any]:
    """NCCL's side of all groups that this process is in."""
    kind: Any = getattr(distributed_c10d, "ProcessGroupNCCL", None)
    found = []
    for group in list(distributed_c10d._world.pg_map) if kind and dist.is_initialized() else []:
        with contextlib.suppress(RuntimeError):  # a group of gloo's
            backend = group._get_backend(torch.device("cuda"))
            if isinstance(backend, kind) and backend not in found:
                found.append(backend)
    return found


@dataclass(frozen=True)
class Grid:
    """Where this process stands, the device it computes on, how its tensors travel, and how long it waits for a peer.

    Ranks are those of the canonical grid, except where people read them: those are the launcher's, as in the stage map.
    """

    stage_map: StageMap
    rank: int
    device: torch.device
    timeout_seconds: float
    backend: Backend = "gloo"

    @property
    def num_stages(self) -> int:
        """Stages of the pipeline."""
        return self.stage_map.num_stages

    @property
    def num_replicas(self) -> int:
        """Copies of the pipeline."""
        return self.stage_map.num_replicas

    @property
    def stage(self) -> int:
        """Index of this process's stage."""
        return self.rank // self.num_replicas

    @property
    def replica(self) -> int:
        """Index of this process's copy of the pipeline."""
        return self.rank % self.num_replicas

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self.num_stages * self.num_replicas

    @property
    def is_first(self) -> bool:
        """Whether this process embeds the inputs."""
        return self.stage == 0

    @property
    def is_last(self) -> bool:
        """Whether this process computes the loss."""
        return self.stage == self.num_stages - 1

    def rank_of(self, stage: int, replica: int) -> int:
        """Rank of another process of the grid."""
        return stage * self.num_replicas + replica

    def new_group(
        self, ranks: Sequence[int] | None = None, backend: Backend | None = None, options: Any = None
    ) -> dist.ProcessGroup:
        """Make a group of some processes (None: of all) that waits as long as this grid; all processes must call it.

        torch's own would wait half an hour, whatever the group of all processes was told.

        Args:
            ranks: of its members.
            backend: for tensors on the CPU, "gloo"; by default this grid's.
            options: of the backend, as torch has them.
        """
        timeout = timedelta(seconds=self.timeout_seconds)
        return dist.new_group(ranks, timeout=timeout, backend=backend or self.backend, pg_options=options)

    def describe(self, rank: int) -> str:
        """Name a process for people."""
        stage, replica = divmod(rank, self.num_replicas)
        return f"rank {self.stage_map.launcher_rank(rank)} (stage {stage}, replica {replica})"

    def __str__(self) -> str:
        return self.describe(self.rank)


# What tells a process where it stands, and is changed while a job runs.
_MEETING = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@contextlib.contextmanager
def process_group(
    stage_map: StageMap, timeout_seconds: float, transport: str = "auto", start_timeout: float = START_TIMEOUT
) -> Iterator[Grid]:
    """Join the processes for as long as a job runs; then leave this process as it was found.

    So one Python process, a notebook's for example, can run one job after another: each as in a process of its own.
    Only where it is alone: several processes have to end with their job, see `ds_bert.errors.leave`.

    Args, Raises: as `start_process_group` has them.
    """
    told = {name: os.environ.get(name) for name in _MEETING}
    threads, was_in_use = torch.get_num_threads(), dist.is_initialized()
    try:
        with torch.enable_grad():  # a notebook that uses a model may have switched it off
            yield start_process_group(stage_map, timeout_seconds, transport, start_timeout)
    except BaseException as error:
        _forget_locals(error)
        raise
    finally:
        for name, value in told.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        torch.set_num_threads(threads)
        if not was_in_use and dist.is_initialized() and dist.get_world_size() == 1:
            _take_apart()


def _forget_locals(error: BaseException | None) -> None:
    """Let go of what a failed job held: a notebook keeps the last error, and with it the engine and its memory."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def _take_apart() -> None:
    """End the groups of a process that is alone, and give back the memory of its job."""
    gc.collect()  # an engine is full of cycles
    comm: Any = importlib.import_module("deepspeed.comm")
    (comm if comm.is_initialized() else dist).destroy_process_group()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def start_process_group(
    stage_map: StageMap, timeout_seconds: float, transport: str = "auto", start_timeout: float = START_TIMEOUT
) -> Grid:
    """Join the processes; return this one's place.

    A peer that does not answer for ``timeout_seconds`` ends this process with an error.

    Args:
        stage_map: which layers run where.
        timeout_seconds: how long to wait for a peer.
        transport: what carries tensors, see `choose_backend`.
        start_timeout: seconds without a sign of life of a process that has not come yet, see `meet`.

    Raises:
        StartError: the processes have not met.
        UserError: this process has joined a group before and not left it, the launcher's variables are incomplete, or
            the GPUs do not fit the processes.
    """
    if dist.is_initialized():
        raise UserError(
            "torch.distributed is in use in this process: by a job that has not ended, by one that ran on several "
            "processes, or by other code; needed is a new Python process, or torch.distributed.destroy_process_group() "
            "first"
        )
    keep_nccls_last_calls()
    if stage_map.num_stages > 1:
        set_pipeline_defaults()  # for callers other than the jobs, which do so sooner
    _without_launcher()
    device = choose_device(int(os.environ["LOCAL_RANK"]), transport)
    if device.type == "cpu":
        _share_cores()
    _import_deepspeed()  # takes seconds, in which nobody would notice that this process has died
    launcher_rank, world_size = launcher_world()
    alone = world_size == 1  # nobody is to be met, and no port needed
    store = dist.HashStore() if alone else meet(launcher_rank, world_size, timeout_seconds, start_timeout)
    backend = choose_backend(transport, device, store, launcher_rank, world_size)
    rank = stage_map.grid_rank(launcher_rank)
    os.environ["RANK"] = str(rank)
    timeout = timedelta(seconds=timeout_seconds)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    with quiet():
        _import_deepspeed().init_distributed(dist_init_required=None, verbose=False)
    return Grid(stage_map, rank, device, timeout_seconds, backend)


def _without_launcher() -> None:
    """Stand in for a launcher where there is none: `python pipelines/x.py` is a world of one."""
    if "WORLD_SIZE" not in os.environ:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.environ.setdefault("LOCAL_RANK", "0")
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UserError(
            f"the environment has WORLD_SIZE, but not {', '.join(missing)}; start with deepspeed or torchrun, which "
            "set them all, or unset it"
        )


def _share_cores() -> None:
    """Divide this machine's cores among its processes, unless the user said otherwise."""
    if "OMP_NUM_THREADS" not in os.environ:
        local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", "1")))
        cores = len(os.sched_getaffinity(0))
        torch.set_num_threads(max(1, cores // local_processes))


def _import_deepspeed() -> Any:
    """Import DeepSpeed without its shared-memory operator for CPUs.

    That is compiled at the first start (tens of seconds, and a failure where there is no C++ compiler), and nothing
    here calls it.
    """
    with quiet():
        import deepspeed

        # by its full name: `deepspeed.comm.torch`, the attribute, is torch itself
        backend = importlib.import_module("deepspeed.comm.torch")
        backend.build_shm_op = lambda: None  # type: ignore[attr-defined]
    return deepspeed


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back what DeepSpeed prints of its own set-up; its warnings and errors still reach the user."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()):
        yield
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
