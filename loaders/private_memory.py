"""Memory that looks like a file's, and belongs to its reader alone.

A private mapping shows what a file, or memory without a name, holds. Nothing is copied until it
is written to, and then only the page that is: so a frame made of it is its owner's to change,
and costs no more than the mapping.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Any

import numpy as np

# From <sys/mman.h> of Linux. The address space counts against no limit before it is written to.
_MAP_NORESERVE = 0x4000
ALIGNMENT = 64  # bytes; where an array in such memory begins: what vector instructions like


class _Mapped:
    """Bytes from a file's beginning, writable, unmapped with the last that uses them.

    The mmap of Python would do, but keeps a descriptor open for each mapping.
    """

    def __init__(self, descriptor: int, size: int, flags: int) -> None:
        self._libc: Any = ctypes.CDLL(None, use_errno=True)
        self._libc.mmap.restype = ctypes.c_void_p
        self._libc.mmap.argtypes = [
            ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
            ctypes.c_long,
        ]  # fmt: skip
        self._libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self._size = size
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        self._address = self._libc.mmap(None, size, protection, flags, descriptor, 0)
        if self._address == ctypes.c_void_p(-1).value:
            code, self._address = ctypes.get_errno(), None
            raise OSError(code, os.strerror(code))
        self.__array_interface__ = {
            "data": (self._address, False),
            "shape": (size,),
            "typestr": "|u1",
            "version": 3,
        }

    def __del__(self) -> None:
        if getattr(self, "_address", None) is not None:
            self._libc.munmap(self._address, self._size)


def map_private(descriptor: int, size: int) -> np.ndarray:
    """The first `size` bytes of an open file as a writable array; writes stay in this array.

    Raises:
        OSError: the file cannot be mapped, or the process has too many mappings.
    """
    return np.asarray(_Mapped(descriptor, size, mmap.MAP_PRIVATE | _MAP_NORESERVE))


def map_shared(descriptor: int, size: int) -> np.ndarray:
    """As `map_private`, but writes reach the memory itself, and with it all its mappings.

    Raises:
        OSError: as `map_private`.
    """
    return np.asarray(_Mapped(descriptor, size, mmap.MAP_SHARED))


def aligned(size: int) -> int:
    """The bytes after which what follows `size` bytes may begin."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def can_map() -> bool:
    """Whether memory can be had that many private mappings show."""
    return hasattr(os, "memfd_create")


def blank_memory(size: int) -> int:
    """A descriptor of memory without a name, all zeros; it takes no room before it is written to.

    Raises:
        OSError: there is no more.
    """
    descriptor = os.memfd_create("feedrate", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, size)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
