"""Run a module or a file as `python` does, in a process that says on SIGUSR1 where it is, and ends with its parent.

python -m tests.gpu.traced tests.gpu.parity …
python -m tests.gpu.traced pipelines/pretrain.py …
"""

import contextlib
import ctypes
import faulthandler
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run what the first word names, with the others as its command line."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    if hasattr(ctypes.CDLL(None), "prctl"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    del sys.argv[0]
    name = sys.argv[0]
    with contextlib.suppress(ValueError):
        sys.path.remove("")  # the checkout is on PYTHONPATH; a folder that a job goes to must not be searched
    if name.endswith(".py"):
        sys.path.insert(0, os.path.dirname(os.path.abspath(name)))
        runpy.run_path(name, run_name="__main__")
    else:
        runpy.run_module(name, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
