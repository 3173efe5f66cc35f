"""A file's bytes as memory that processes share."""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Any

import numpy as np

# From <sys/mman.h> of Linux. A mapping counts against no limit until it is written to.
_MAP_NORESERVE = 0x4000


class _Mapped:
    """The first bytes of a file, unmapped when no array uses them any more.

    The mapping is private: a tensor that writes to it crashes no process, and changes neither the
    file nor other processes' memory. Python's mmap would keep a descriptor open for each mapping.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self._libc: Any = ctypes.CDLL(None, use_errno=True)
        self._libc.mmap.restype = ctypes.c_void_p
        self._libc.mmap.argtypes = [
            ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
            ctypes.c_long,
        ]  # fmt: skip
        self._libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self._size = size
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        flags = mmap.MAP_PRIVATE | _MAP_NORESERVE
        self._address = self._libc.mmap(None, size, protection, flags, descriptor, 0)
        if self._address == ctypes.c_void_p(-1).value:
            code, self._address = ctypes.get_errno(), None
            raise OSError(code, os.strerror(code))
        self.__array_interface__ = {
            "data": (self._address, True),
            "shape": (size,),
            "typestr": "|u1",
            "version": 3,
        }

    def __del__(self) -> None:
        if getattr(self, "_address", None) is not None:
            self._libc.munmap(self._address, self._size)


def map_file(descriptor: int, size: int) -> np.ndarray:
    """Map the first bytes of an open file, read-only; the file may be closed afterwards.

    Args:
        descriptor: of the file.
        size: number of bytes; the file must not be shorter.

    Returns:
        A uint8 array of shape (size,).

    Raises:
        OSError: the file cannot be mapped, or the process has too many mappings.
    """
    return np.asarray(_Mapped(descriptor, size)) if size else np.empty(0, np.uint8)
