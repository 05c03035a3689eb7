"""Compiling ``device.cpp``, once for each text of it and each torch."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

_SOURCE = Path(__file__).with_name("device.cpp")
_CACHE = Path(__file__).resolve().parents[3] / "build" / "fake_cuda"  # not in git


def library() -> Path:
    """Return the compiled library; skip the test where there is nothing to compile it with, or no need of it."""
    if torch.version.cuda is not None:
        pytest.skip("this torch was built with a real CUDA device in mind, which the fake one cannot replace")
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        pytest.skip("no C++ compiler (g++, or the one that CXX names), which the fake CUDA device is compiled with")
    key = hashlib.sha256(_SOURCE.read_bytes() + torch.__version__.encode() + torch.__file__.encode()).hexdigest()[:16]
    path = _CACHE / f"device-{key}.so"
    if not path.exists():
        _compile(compiler, path)
    return path


def _compile(compiler: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    home = Path(torch.__file__).parent
    abi, partial = int(torch.compiled_with_cxx11_abi()), path.with_suffix(f".{os.getpid()}")
    headers = [home / "include", home / "include" / "torch" / "csrc" / "api" / "include"]
    words = [compiler, "-O0", "-std=c++20", "-fPIC", "-shared", f"-D_GLIBCXX_USE_CXX11_ABI={abi}", str(_SOURCE)]
    words += [f"-I{folder}" for folder in headers]
    words += [f"-L{home / 'lib'}", f"-Wl,-rpath,{home / 'lib'}", "-lc10", "-ltorch_cpu", "-o", str(partial)]
    subprocess.run(words, check=True)
    partial.replace(path)  # others may be compiling it, too
