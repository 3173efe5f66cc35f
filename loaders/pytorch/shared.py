"""One copy of arrays for all worker processes, however these are started."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import context, reduction
from typing import Any

import numpy as np

_ALIGNMENT = 64  # bytes: arrays start at multiples of it, for vector instructions
# Random rows to read before their pages are unmapped: the kernel maps 16 pages around each row
# that is touched, so at most 16 MiB are mapped.
ROWS_MAPPED = 256


@dataclass(frozen=True)
class ArrayPlace:
    """Where an array lies in shared memory."""

    offset: int
    shape: tuple[int, ...]
    dtype: str


class SharedArrays:
    """Arrays in an anonymous file in memory; every process that receives them maps the file.

    Such a file needs no space in /dev/shm, has no name that could be left behind, and is freed
    when the last process has dropped it.

    Args:
        arrays: copied once.
    """

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self._places = _lay_out(arrays)
        size = self._places[-1].offset + arrays[-1].nbytes
        self._fd = _zeroed_memory(max(1, size))
        self._memory = mmap.mmap(self._fd, 0)
        self.arrays = self._map_arrays()
        for target, source in zip(self.arrays, arrays, strict=True):
            target[...] = source
        self.release()

    def release(self) -> None:
        """Unmap the pages that this process has touched; they are mapped again when used.

        The data stays in memory. Mapped pages count in a process's RSS and in its part of PSS, so
        readers of random rows would seem to hold all of them.
        """
        self._memory.madvise(mmap.MADV_DONTNEED)

    def parts(self, rows: int) -> Iterator[slice]:
        """Slices of `rows` rows; the pages touched for a slice are released after it."""
        for low in range(0, rows, ROWS_MAPPED):
            yield slice(low, low + ROWS_MAPPED)
            self.release()

    def _map_arrays(self) -> tuple[np.ndarray, ...]:
        return tuple(
            np.frombuffer(
                self._memory, place.dtype, int(np.prod(place.shape)), place.offset
            ).reshape(place.shape)
            for place in self._places
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"fd": reduction.DupFd(self._fd), "places": self._places}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._places = state["places"]
        self._fd = state["fd"].detach()
        self._memory = mmap.mmap(self._fd, 0)
        self.arrays = self._map_arrays()

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)


def starting_worker() -> bool:
    """Whether objects pickled now go to a process being started, which can share memory."""
    return context.get_spawning_popen() is not None and hasattr(os, "memfd_create")


def _lay_out(arrays: Sequence[np.ndarray]) -> tuple[ArrayPlace, ...]:
    places = []
    offset = 0
    for array in arrays:
        places.append(ArrayPlace(offset, array.shape, array.dtype.str))
        offset += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    return tuple(places)


def _zeroed_memory(size: int) -> int:
    """A descriptor of unnamed memory, all zeros; it takes no space before it is written to.

    Raises:
        OSError: not enough memory.
    """
    descriptor = os.memfd_create("feedrate", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, size)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
