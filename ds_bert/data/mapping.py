"""Memory-mapped arrays that keep no file open: a process may have many more of them than open files."""

import ctypes
import math
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int),
    ctypes.c_long,  # off_t, on the systems whose C library has 64-bit files throughout
)
_LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_FAILED = ctypes.c_void_p(-1).value


_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def map_array(path: Path) -> np.ndarray:
    """Map a ``.npy`` file, to be read only. The file is closed again; `numpy.memmap` holds it open.

    Raises:
        OSError: the file cannot be opened or mapped.
        ValueError: it is no ``.npy`` file, is cut off, or would have to be unpickled.
    """
    with open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"an array in a format of version {version}")
        shape, is_transposed, dtype = _HEADERS[version](file)
        if dtype.hasobject:
            raise ValueError("an array of Python objects")
        begin, size = file.tell(), math.prod(shape) * dtype.itemsize
        if os.fstat(file.fileno()).st_size < begin + size:
            raise ValueError("the array is cut off")
        mapping = _Mapping(file.fileno(), begin + size)
    mapping.__array_interface__ = {
        "version": 3,
        "data": (mapping.address + begin, True),
        "shape": shape[::-1] if is_transposed else shape,
        "typestr": dtype.str,
    }
    array = np.asarray(mapping)
    return array.T if is_transposed else array


class _Mapping:
    """The first bytes of a file as pages of memory; they are given back when no array uses them any more."""

    __array_interface__: dict[str, Any]

    def __init__(self, descriptor: int, length: int) -> None:
        self.length = length
        self.address = _LIBC.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
        if self.address == _FAILED:
            self.length = 0
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def __del__(self) -> None:
        if self.length:
            _LIBC.munmap(self.address, self.length)
