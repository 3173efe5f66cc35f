"""Sources to decode from: small files and objects are held as bytes, others are read from disk.

Small files are read whole, so that they cannot change meanwhile. Others are checked afterwards:
they must still be the files whose footers were read. Parts of objects are requested by their
version.
"""

from __future__ import annotations

import io
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from ..base.errors import ParquetFileError
from ..base.stages import stage
from ..remote.ranges import Range
from ..remote.source import RemoteSource, open_source, source_of_version
from ..remote.urls import is_url
from .footers import READ, SMALL_BYTES, Content, Footer
from .reader import open_parquet, reading
from .wanted_ranges import wanted_ranges

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


def taken(file: Footer) -> bytes | RemoteSource | None:
    """Take a small file's bytes, or a requested object; None if they were never kept, or taken."""
    return None if file.content is None else file.content.take()


def opened(file: Footer) -> RemoteSource:
    """Open the version of an object whose footer was read.

    Raises:
        ReplacedError: it has another version by now.
    """
    source = open_source(file.path)
    now = source.size, source.version, source.modified_ns
    if now != (file.size, file.version, file.mtime_ns):
        raise ReplacedError(file.path, "it was replaced while it was being read; load again")
    return source


def plan_request(
    file: Footer, columns: Collection[str] | None, *, whole: bool
) -> tuple[RemoteSource, Sequence[Range]]:
    """Open an object whose footer was read, and list the parts that are needed of it.

    Args:
        file: the object, and the wanted row groups.
        columns: the wanted columns; None means all.
        whole: all bytes are needed.

    Raises:
        ParquetFileError: it was replaced meanwhile, or its footer is damaged.
    """
    if whole:
        return source_of_version(file.path, file.size, file.version), [Range(0, file.size)]
    source = opened(file)
    with reading(file.path), open_parquet(file.path, source) as parquet:
        return source, list(wanted_ranges(parquet.metadata, columns, file.groups))


def with_columns(file: Footer, columns: Collection[str] | None) -> RemoteSource:
    """Request the columns that are needed of an object, one part after the other.

    Raises:
        ParquetFileError: as `plan_request`.
    """
    source, parts = plan_request(file, columns, whole=False)
    source.fetch(parts)
    return source


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


def check_unchanged(file: Footer) -> None:
    """Raise `ReplacedError` if a file is no longer the one whose footer was read."""
    if not is_url(file.path):  # objects are read by version
        with reading(file.path):
            _check_same(file, Path(file.path).stat())


def _check_same(file: Footer, now: os.stat_result) -> None:
    if (now.st_size, now.st_mtime_ns) != (file.size, file.mtime_ns):
        raise ReplacedError(file.path, "it was replaced while it was being read; load again")


def bytes_of(file: Footer) -> bytes:
    """A file's bytes, if it is still the file whose footer was read."""
    data = taken(file)
    if isinstance(data, bytes):
        return data
    if is_url(file.path):
        return (data or opened(file)).whole()
    try:
        source = os.open(file.path, READ)  # FileIO takes twice as long
        try:
            _check_same(file, os.fstat(source))
            return os.read(source, file.size)
        finally:
            os.close(source)
    except OSError:
        with reading(file.path):  # entering it costs a microsecond
            raise
