"""Files of an Iceberg table's metadata, for `pyiceberg`: read with our stores and credentials."""

from __future__ import annotations

import io
from pathlib import Path

from ..base.errors import StorageError
from .requests import get
from .table_urls import location
from .urls import is_url


def read_file(path: str) -> bytes:
    """All bytes of a file or an object.

    Raises:
        StorageError: it cannot be read.
        ParquetFileError: there is no such object.
    """
    if is_url(path):
        return get(path).data
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error


class TableFile:
    """A `pyiceberg.io.InputFile`; no subclass, since pyiceberg is imported when needed."""

    def __init__(self, location: str) -> None:
        self.location = location
        self._data: bytes | None = None

    def __len__(self) -> int:
        return len(self._bytes())

    def open(self, seekable: bool = True) -> io.BytesIO:  # noqa: ARG002 - as in pyiceberg
        """It as a file in memory."""
        return io.BytesIO(self._bytes())

    def _bytes(self) -> bytes:
        if self._data is None:
            self._data = read_file(location(self.location))
        return self._data


class TableIO:
    """A `pyiceberg.io.FileIO` that reads metadata and manifests, and writes nothing."""

    def new_input(self, location: str) -> TableFile:
        """A file to read."""
        return TableFile(location)
