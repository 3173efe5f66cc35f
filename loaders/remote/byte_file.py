"""Bytes that can be read from any offset, as a binary file that Arrow and pandas read."""

from __future__ import annotations

import io
import os


class ByteFile(io.RawIOBase):
    """A binary file; a subclass reads its bytes.

    Args:
        size: the number of bytes.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self._at = 0

    def read_at(self, at: int, count: int) -> bytes:
        """Read `count` bytes, at least one, from an offset; all of them are in the file."""
        raise NotImplementedError

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The offset of the next byte."""
        return self._at

    def size(self) -> int:
        """The number of bytes."""
        return self._size

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes; all others for -1 or None."""
        left = max(0, self._size - self._at)
        count = left if size is None or size < 0 else min(size, left)
        data = self.read_at(self._at, count) if count else b""
        self._at += len(data)
        return data

    def readall(self) -> bytes:
        """All bytes that follow."""
        return self.read(-1)

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]  # its type is private
        """Fill a buffer with the next bytes."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
