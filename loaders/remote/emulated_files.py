"""Emulated objects as plain pandas reads them: each of its requests takes the store's latency.

pyarrow asks for a file's size whenever it opens one, reads the footer, then sends the requests for
the columns together. A file of Python serves these one after the other, so those that follow each
other closely count as sent together.
"""

from __future__ import annotations

import io
import os
from collections import deque
from typing import Any

import pyarrow.fs as pafs

from ..base.arrow_exit import free_before_exit
from .byte_file import ByteFile
from .emulated import EmulatedStore
from .emulation import SCHEME
from .faults import Fault
from .store import Span

AT_ONCE = 8  # pyarrow's threads for I/O, and so its requests in flight
TOGETHER_S = 0.002  # between the end of a read and the next one, if both were sent together


def plain_emulated(store: EmulatedStore) -> pafs.FileSystem:
    """The file system of a store for plain pandas."""
    files = _Files(store)
    free_before_exit(files)
    return pafs.PyFileSystem(pafs.FSSpecHandler(files))


class _Files:
    """A store with the methods of fsspec that pyarrow uses to read a file."""

    protocol = SCHEME

    def __init__(self, store: EmulatedStore) -> None:
        self._store = store

    def info(self, path: str) -> dict[str, Any]:
        """The size of an object, by one request."""
        status = _asked(self._store, path)
        return {"name": path, "type": "file", "size": status.st_size, "mtime": status.st_mtime}

    def isfile(self, _path: str) -> bool:
        """Always: `open` finds out."""
        return True

    def open(self, path: str, mode: str = "rb") -> PlainObject:
        """Open an object, by one request for its size."""
        if mode != "rb":
            raise io.UnsupportedOperation(mode)
        file = PlainObject(self._store, path, _asked(self._store, path).st_size)
        free_before_exit(file)
        return file


class PlainObject(ByteFile):
    """An object that pyarrow reads.

    Args:
        store: the store.
        path: the object's key.
        size: in bytes.
    """

    def __init__(self, store: EmulatedStore, path: str, size: int) -> None:
        super().__init__(size)
        self._store, self._path = store, path
        self._sent = self._ended = float("-inf")
        self._ends: deque[float] = deque(maxlen=AT_ONCE)

    def read_at(self, at: int, count: int) -> bytes:
        """Read bytes by one request."""
        span = Span(at, at + count)
        sent = self._sent_now(is_footer=span.stop == self._size)
        try:
            data = self._store.get_since(self._path, span, None, sent).data
        except Fault as fault:
            raise OSError(f"{self._path}: {fault.reason}") from None
        if span.stop == self._size:
            self._ended = float("-inf")  # what follows needs the footer
        else:
            self._ended = self._store.now()
            self._ends.append(self._ended)
        return data

    def _sent_now(self, *, is_footer: bool) -> float:
        """When pyarrow sent the next request: with those before it, or now."""
        now = self._store.now()
        if is_footer or now - self._ended > TOGETHER_S:
            self._sent = now
            self._ends.clear()
        # A request beyond `AT_ONCE` waits for the end of an earlier one.
        return self._ends[0] if len(self._ends) == AT_ONCE else self._sent


def _asked(store: EmulatedStore, path: str) -> os.stat_result:
    """The size of an object, by one request.

    Raises:
        FileNotFoundError: there is none.
        OSError: the request was refused.
    """
    try:
        return store.head(path)
    except Fault as fault:
        error = FileNotFoundError if fault.kind == "missing" else OSError
        raise error(f"{path}: {fault.reason}") from None
