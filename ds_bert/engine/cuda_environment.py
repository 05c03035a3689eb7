"""What CUDA and NCCL must be told before they start, and so before anything asks whether there is a GPU.

A receive that is posted ahead is a kernel that spins until its message comes, and whatever waits for it, waits for
another rank, which may be waiting for this one. Imports nothing, as the libraries that one imports may ask for GPUs.
"""

import os

_PIPELINE_DEFAULTS = {
    "CUDA_MODULE_LOADING": "EAGER",  # lazy loading waits for the device when a kernel is launched for the first time
    "CUDA_DEVICE_MAX_CONNECTIONS": "32",  # hardware queues: of 8, one waits behind the spinning kernel of another
    "NCCL_RUNTIME_CONNECT": "0",  # else NCCL connects an algorithm's peers in the middle of the step that first uses it
}


def set_pipeline_defaults() -> None:
    """Set what CUDA and NCCL read from the environment, where the user has not."""
    for name, value in _PIPELINE_DEFAULTS.items():
        os.environ.setdefault(name, value)
