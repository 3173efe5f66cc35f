"""Sources to decode from: small files are held as bytes, others are read from disk.

Small files are read whole, so that they cannot change meanwhile. Others are checked afterwards:
they must still be the files whose footers were read.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence

from ..base.errors import ParquetFileError
from ..base.stages import stage
from .footers import READ, SMALL_BYTES, Content, Footer
from .reader import reading

# For larger files the kernel allocates fresh memory, page by page: 60 files of 2.5 MB took 301 ms
# as bytes, and 261 to 274 ms by their paths.
WHOLE_BYTES = 1 << 20


class ReplacedError(ParquetFileError):
    """A file was replaced after its footer was read."""


class Held:
    """A file whose bytes are held in memory."""

    def __init__(self, file: Footer) -> None:
        self.file, self.size, self.rows = file, file.size, file.rows
        self.data = bytes_of(file)

    def read(self, at: int, count: int) -> bytes:
        """Return `count` bytes from offset `at`, or fewer at the end of the file."""
        return self.data[at : at + count]


class OnDisk:
    """A file that is too large to hold in memory."""

    def __init__(self, file: Footer) -> None:
        self.file, self.size, self.rows = file, file.size, file.rows
        self.data = file.path

    def read(self, at: int, count: int) -> bytes:
        """Like `Held.read`.

        Raises:
            OSError: the file can no longer be read.
        """
        with io.FileIO(self.data) as file:
            file.seek(at)
            return file.read(max(0, min(count, self.size - at)))


def taken(file: Footer) -> bytes | None:
    """Take a small file's bytes; None if they were never kept, or taken before."""
    return None if file.content is None else file.content.take()


def with_contents(files: Sequence[Footer], most: int) -> Sequence[Footer]:
    """Read the bytes of files, if all are small and those to read have at most `most` bytes.

    Files that cannot be read stay unchanged; the decoder raises their error.
    """
    size = sum(file.size for file in files if file.content is None)
    if size > most or max(file.size for file in files) > SMALL_BYTES:
        return files
    with stage("read"):
        return [file if file.content is not None else _with_content(file) for file in files]


def _with_content(file: Footer) -> Footer:
    try:
        return file._replace(content=Content(bytes_of(file)))
    except ParquetFileError:
        return file


def check_same(file: Footer, now: os.stat_result) -> None:
    """Raise `ReplacedError` if a file is no longer the one whose footer was read."""
    if (now.st_size, now.st_mtime_ns) != (file.size, file.mtime_ns):
        raise ReplacedError(file.path, "it was replaced while it was being read; load again")


def bytes_of(file: Footer) -> bytes:
    """A file's bytes, if it is still the file whose footer was read."""
    if (data := taken(file)) is not None:
        return data
    try:
        source = os.open(file.path, READ)  # FileIO takes twice as long
        try:
            check_same(file, os.fstat(source))
            return os.read(source, file.size)
        finally:
            os.close(source)
    except OSError:
        with reading(file.path):  # entering it costs a microsecond
            raise
