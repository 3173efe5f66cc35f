"""Ask the kernel which pages of memory were written to: Linux from 6.7 on.

This takes microseconds; checksums of the same memory take milliseconds. userfaultfd protects the
process's memory (asynchronous write protection: a write succeeds and marks the page as written). A
private mapping of a file needs no protection, since a written page is no longer a page of the
file. PAGEMAP_SCAN finds both. See the kernel's Documentation/admin-guide/mm/userfaultfd.rst and
pagemap.rst.

Containers often forbid userfaultfd; `checksums` then replaces it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from xxhash import xxh3_64_intdigest

PAGE = mmap.PAGESIZE
_HUGE_BYTES = 4 << 20  # from this size on, memory is requested in huge pages, as numpy does
_CALLS = {"x86_64": 323, "aarch64": 282}  # userfaultfd, by machine
# From <linux/userfaultfd.h> and <linux/fs.h>.
_USER_MODE_ONLY = 1
_API, _WP_UNPOPULATED, _WP_ASYNC = 0xAA, 1 << 13, 1 << 15
_REGISTER_WP, _PROTECT = 2, 1
_CHECK_WP_ASYNC = 2
_WRITTEN, _FILE, _PRESENT, _SWAPPED = 1 << 1, 1 << 2, 1 << 3, 1 << 4


def _ioctl_number(kind: int, number: int, size: int) -> int:
    """The number of an ioctl that reads and writes `size` bytes."""
    return 3 << 30 | size << 16 | kind << 8 | number


_UFFDIO_API = _ioctl_number(_API, 0x3F, 24)
_UFFDIO_REGISTER = _ioctl_number(_API, 0x00, 32)
_UFFDIO_WRITEPROTECT = _ioctl_number(_API, 0x06, 24)
_PAGEMAP_SCAN = _ioctl_number(ord("f"), 16, 96)


def blank_memory(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Zeroed memory in pages of its own.

    Args:
        size: bytes; at least one.

    Returns:
        A writable array, and a read-only one of the same bytes, whose views stay read-only.

    Raises:
        OSError: there is no more memory.
    """
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size >= _HUGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    read_only = np.frombuffer(memoryview(memory).toreadonly(), np.uint8)
    return np.frombuffer(memory, np.uint8), read_only


class WatchedPages:
    """Watches the columns of a block by protecting the rows that are final.

    Args:
        block: of shape (columns, rows), in memory of `blank_memory`. If rows will be added, each
            column begins at a page boundary.
        grows: whether rows will be added.

    Raises:
        OSError: the kernel cannot watch memory.
    """

    def __init__(self, block: np.ndarray, *, grows: bool) -> None:
        self._protection = _protection()
        self._item, self._grows = block.itemsize, grows
        self._columns, self._start = len(block), block.ctypes.data
        self._stride = block.strides[0]
        size = self._stride * len(block)
        self._stop = self._start + -(-size // PAGE) * PAGE
        self._memory = [memoryview(column.view(np.uint8)) for column in block] if grows else []
        self._final = _Final(0, [xxh3_64_intdigest(b"")] * len(self._memory))
        self._protection.register(self._start, self._stop)

    def extend(self, rows: int) -> bool:
        """Record the first `rows` rows of each column as final: they will not be written again.

        Returns:
            False if earlier rows changed; without `grows` none are checked.
        """
        if not self._grows:
            self._protection.protect(self._start, self._stop)
            return True
        before, size = self._final, rows * self._item
        is_unchanged = self.is_unchanged(0, 0)
        last = size - size % PAGE
        if last > before.page_bytes:
            for column in range(self._columns):
                start = self._start + column * self._stride
                self._protection.protect(start + before.page_bytes, start + last)
        # Compare only now, to detect writes made before the page was protected.
        tails = self._checksums(before.page_bytes, before.size)
        self._final = _Final(size, self._checksums(last, size))
        return is_unchanged and before.tails == tails

    def is_unchanged(self, start: int, stop: int) -> bool:
        """Whether all final rows are unchanged, not only those from `start` to `stop`."""
        del start, stop
        if not self._grows:
            return not _scan(self._start, self._stop, 1)
        final = self._final
        # Each column ends with pages that were never protected.
        limit = 2 * self._columns + 2
        written = _scan(self._start, self._stop, limit) if final.page_bytes else ()
        if any(self._is_protected(low, high, final.page_bytes) for low, high in written):
            return False
        return final.tails == self._checksums(final.page_bytes, final.size)

    def _is_protected(self, low: int, high: int, page_bytes: int) -> bool:
        """Whether a range of addresses overlaps the first `page_bytes` bytes of a column."""
        first, last = ((at - self._start) // self._stride for at in (low, high - 1))
        starts = [self._start + column * self._stride for column in range(first, last + 1)]
        return any(low < start + page_bytes and start < high for start in starts)

    def _checksums(self, low: int, high: int) -> list[int]:
        return [xxh3_64_intdigest(column[low:high]) for column in self._memory]


class _Final(NamedTuple):
    """Never modified, so that one thread may check while another adds rows."""

    size: int
    """Bytes of each column that are final."""
    tails: list[int]
    """The checksum of each column's final bytes after its last whole page."""

    @property
    def page_bytes(self) -> int:
        """Bytes of each column in whole pages."""
        return self.size - self.size % PAGE


class MappedPages:
    """Watches a private mapping of a file, which must not be written to.

    Args:
        mapped: the file's bytes, from the beginning on.

    Raises:
        OSError: the kernel cannot watch memory.
    """

    def __init__(self, mapped: np.ndarray) -> None:
        self._start = mapped.ctypes.data
        self._stop = self._start + -(-mapped.nbytes // PAGE) * PAGE
        self.extend(0)

    def extend(self, rows: int) -> bool:
        """Whether the mapping still has the file's content; no rows are added."""
        del rows
        return not _scan(self._start, self._stop, 1, of_file=True)

    def is_unchanged(self, start: int, stop: int) -> bool:
        """Whether the whole mapping still has the file's content; the rows given do not matter."""
        del start, stop
        return self.extend(0)


class _Protection:
    """Write protection of this process's memory, by userfaultfd."""

    def __init__(self) -> None:
        call = _CALLS.get(platform.machine())
        if call is None or platform.system() != "Linux":
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.syscall(call, os.O_CLOEXEC | os.O_NONBLOCK | _USER_MODE_ONLY)
        if self._descriptor < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        try:
            request = struct.pack("QQQ", _API, _WP_ASYNC | _WP_UNPOPULATED, 0)
            fcntl.ioctl(self._descriptor, _UFFDIO_API, bytearray(request))
        except OSError:
            self.close()
            raise

    def register(self, start: int, stop: int) -> None:
        """Register whole pages, so that they can be protected."""
        request = struct.pack("QQQQ", start, stop - start, _REGISTER_WP, 0)
        fcntl.ioctl(self._descriptor, _UFFDIO_REGISTER, bytearray(request))

    def protect(self, start: int, stop: int) -> None:
        """Record writes to these pages from now on."""
        request = struct.pack("QQQ", start, stop - start, _PROTECT)
        fcntl.ioctl(self._descriptor, _UFFDIO_WRITEPROTECT, bytearray(request))

    def close(self) -> None:
        """Stop the protection."""
        os.close(self._descriptor)


class _Process:
    """Open descriptors of this process; a forked child opens new ones."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.protection: _Protection | None = None
        self.pagemap: int | None = None


_process = _Process()


def _protection() -> _Protection:
    with _process.lock:
        if _process.protection is None:
            _process.protection = _Protection()
        return _process.protection


def _pagemap() -> int:
    with _process.lock:
        if _process.pagemap is None:
            _process.pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        return _process.pagemap


def _reset_after_fork() -> None:
    """Close the descriptors in a forked child: they refer to the parent's memory."""
    global _process
    before, _process = _process, _Process()
    if before.protection is not None:
        before.protection.close()
    if before.pagemap is not None:
        os.close(before.pagemap)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


def _scan(start: int, stop: int, limit: int, *, of_file: bool = False) -> Sequence[tuple[int, int]]:
    """The first ranges of pages that were written to, or never protected.

    Args:
        start: the first page's address.
        stop: the address after the last page.
        limit: maximum number of ranges to find.
        of_file: whether the pages are a private mapping of a file.
    """
    ranges = (ctypes.c_uint64 * (3 * limit))()
    flags = 0 if of_file else _CHECK_WP_ASYNC
    inverted, mask, any_of = (_FILE, _FILE, _PRESENT | _SWAPPED) if of_file else (0, _WRITTEN, 0)
    request = struct.pack(
        "12Q", 96, flags, start, stop, 0, ctypes.addressof(ranges), limit, 0,
        inverted, mask, any_of, mask,
    )  # fmt: skip
    count = fcntl.ioctl(_pagemap(), _PAGEMAP_SCAN, bytearray(request))
    return [(ranges[3 * at], ranges[3 * at + 1]) for at in range(count)]
