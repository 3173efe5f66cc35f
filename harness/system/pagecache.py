"""Check which files are in the page cache, load them into it or evict them, without root."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from .formats import format_bytes

PageCache = Literal["as-is", "warm", "cold"]
"""The requested state: files as they happen to be, all in the page cache, or none."""
PageCacheState = Literal["as-is", "warm", "cold", "unknown"]
"""The state of a sample; `unknown` if the requested state could not be established."""
PAGE_CACHES: tuple[PageCache, ...] = ("as-is", "warm", "cold")

NEARLY = 0.005  # share of pages that may differ: other processes read these files, too
BLOCK_BYTES = 1 << 20
_CACHESTAT = 451  # the same number on every architecture; Linux 6.5
_NOT_REPORTED = (
    "the kernel does not report the page cache (cachestat, Linux 6.5), or the files are another "
    "user's"
)
_WHY_CACHED = "they may be mapped by a running process, or lie on tmpfs, which is never cold"


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Stat(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")
    )


@dataclass(frozen=True)
class Residency:
    """How much of some files is in the page cache, in bytes of whole pages."""

    cached: int
    total: int

    @property
    def share(self) -> float:
        """The share that is cached; 1 for empty files."""
        return self.cached / self.total if self.total else 1.0


@dataclass(frozen=True)
class Established:
    """The state of the page cache, and why it is not the requested one."""

    state: PageCacheState
    reason: str = ""


AS_IS = Established("as-is")


def establish(wanted: PageCache, paths: Sequence[str]) -> Established:
    """Bring files into the page cache or out of it, and check whether that worked.

    A state counts as established if at most one page in 200 is in the other state.

    Raises:
        OSError: a file cannot be opened.
    """
    if wanted == "as-is":
        return AS_IS
    if wanted == "cold":
        evict(paths)
    else:
        read_through(paths)
    cache = residency(paths)
    if cache is None:
        return Established("unknown", _NOT_REPORTED)
    if wanted == "cold" and cache.cached > NEARLY * cache.total:
        amount = f"{format_bytes(cache.cached)} of {format_bytes(cache.total)}"
        return Established("unknown", f"{amount} stayed in the page cache: {_WHY_CACHED}")
    if wanted == "warm" and cache.cached < (1 - NEARLY) * cache.total:
        amount = f"{format_bytes(cache.total - cache.cached)} of {format_bytes(cache.total)}"
        return Established(
            "unknown", f"{amount} were not kept in the page cache: too little memory"
        )
    return Established(wanted)


def residency(paths: Iterable[str]) -> Residency | None:
    """How much of the files is cached; None if the kernel does not report it.

    It calls `cachestat`, which maps nothing. `mincore` reports all pages as resident if the caller
    neither owns the file nor may write to it.

    Raises:
        OSError: a file cannot be opened.
    """
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    cached = total = 0
    for path in paths:
        with _opened(path) as descriptor:
            pages = _cached_pages(descriptor)
            if pages is None:
                return None
            cached += pages * page_bytes
            total += -(-os.fstat(descriptor).st_size // page_bytes) * page_bytes
    return Residency(cached, total)


def evict(paths: Iterable[str]) -> None:
    """Drop files from the page cache; pages that a running process maps stay.

    Raises:
        OSError: a file cannot be opened.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    for path in paths:
        with _opened(path) as descriptor:
            os.fdatasync(descriptor)  # pages that are not written yet cannot be dropped
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def read_through(paths: Iterable[str]) -> None:
    """Read files from end to end, so that the page cache holds them.

    Raises:
        OSError: a file cannot be read.
    """
    block = bytearray(BLOCK_BYTES)
    for path in paths:
        with _opened(path) as descriptor:
            while os.readv(descriptor, [block]):
                pass


@contextmanager
def _opened(path: str) -> Iterator[int]:
    """The descriptor of a file that is open for reading."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _cached_pages(descriptor: int) -> int | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    whole_file, stat = _Range(0, 0), _Stat()
    failed = libc.syscall(_CACHESTAT, descriptor, ctypes.byref(whole_file), ctypes.byref(stat), 0)
    return None if failed else int(stat.cached)
