"""The folder of the disk cache: names, listing, lock, and removal of its files.

A segment has its rows in `ID.arrow` and its index in `ID.json`. The index is written last and
removed first, so rows without an index are leftovers of a killed process.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..base.errors import StorageError
from ..base.homes import why_untrusted
from .base import Form, Key
from .disk_segment import Index, decode_index, encode_index, write_segment
from .segments import Place

LOCKED_S = 30.0  # how long to wait for the lock
_TEMPORARY = re.compile(r"\..*\.tmp")
_SEGMENT = re.compile("[0-9a-f]{32}")


class SegmentFolder:
    """The files of segments in a folder; files with other names are left alone.

    Args:
        path: the folder; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def why_refused(self) -> str | None:
        """Why the folder must not be used; None if it may be."""
        try:
            return why_untrusted(self.path)
        except OSError as error:
            return error.strerror or str(error)

    def check(self) -> None:
        """Raise `StorageError` if the folder must not be used."""
        if (reason := self.why_refused()) is not None:
            raise StorageError(f"the cache {self.path} is not used: {reason}")

    @contextmanager
    def lock(self) -> Iterator[bool]:
        """Hold the folder's lock; False if another process keeps it for `LOCKED_S`."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield _lock(descriptor)
        finally:
            os.close(descriptor)

    def rows_path(self, name: str) -> Path:
        """The file of a segment's rows."""
        return self.path / f"{name}.arrow"

    def index_path(self, name: str) -> Path:
        """The file of a segment's index."""
        return self.path / f"{name}.json"

    def names(self) -> list[str]:
        """The segments that have an index."""
        return _segments(self._list(), ".json")

    def read_index(self, name: str) -> Index:
        """Read a segment's index.

        Raises:
            DamagedError: the file is not an index, or not as written.
            OtherVersionError: another version wrote it.
            OSError: it cannot be read.
        """
        return decode_index(self.index_path(name).read_bytes())

    def write(self, form: Form, rows: Mapping[Key, Place]) -> tuple[str, Index]:
        """Write a new segment; return its name and index.

        Raises:
            OSError: it cannot be written.
        """
        name = uuid.uuid4().hex
        temporary = self.path / f".{name}.tmp"
        try:
            index = write_segment(temporary, form, rows)
            temporary.replace(self.rows_path(name))
            temporary.write_bytes(encode_index(index))
            temporary.chmod(0o600)
            temporary.replace(self.index_path(name))
        finally:
            temporary.unlink(missing_ok=True)
        return name, index

    def remove(self, name: str) -> None:
        """Remove a segment."""
        self.index_path(name).unlink(missing_ok=True)
        self.rows_path(name).unlink(missing_ok=True)

    def leftovers(self) -> list[Path]:
        """Leftovers of killed processes: temporary files, and rows without an index."""
        files = self._list()
        unfinished = [self.path / file for file in files if _TEMPORARY.fullmatch(file)]
        indexed = set(_segments(files, ".json"))
        orphans = [name for name in _segments(files, ".arrow") if name not in indexed]
        return unfinished + [self.rows_path(name) for name in orphans]

    def remove_leftovers(self) -> None:
        """Remove leftovers. Hold the lock, so that no process is still writing them."""
        for path in self.leftovers():
            path.unlink(missing_ok=True)

    def _list(self) -> list[str]:
        try:
            return os.listdir(self.path)  # noqa: PTH208 - a Path for each of many costs more
        except (FileNotFoundError, NotADirectoryError):
            return []


def _segments(files: Iterable[str], suffix: str) -> list[str]:
    """The segments that have a file with this suffix."""
    stems = (file.removesuffix(suffix) for file in files if file.endswith(suffix))
    return [stem for stem in stems if _SEGMENT.fullmatch(stem)]


def _lock(descriptor: int) -> bool:
    deadline = time.monotonic() + LOCKED_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        except OSError:  # a file system without locks
            return True
        else:
            return True
