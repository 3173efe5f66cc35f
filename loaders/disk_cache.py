"""The cache of decoded files on disk: segments that other processes share.

A segment is written once and never changed, and appears whole, through a rename; its index is
written last, so that data without one do not count. What is in a segment: `disk_segment`.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from .cache import Key
from .disk_segment import (
    VERSION,
    DamagedError,
    Entry,
    Index,
    Opening,
    OtherVersionError,
    decode_index,
    encode_index,
    open_segment,
    write_segment,
)
from .errors import StorageError
from .homes import cache_home, distrusted
from .layout import Layout
from .segments import Place, Segment
from .warn import warn

log = logging.getLogger("feedrate.loaders")

MAX_BYTES = 20 << 30
_SEGMENT = re.compile("[0-9a-f]{32}")
STALE_SECONDS = 3600  # a temporary file this old belongs to a writer that died


class _Known(NamedTuple):
    segment: str
    entry: Entry


class DiskCache:
    """Rows in a folder, shared by all processes that use it.

    Args:
        folder: by default `frames-v3` in the user's cache folder.
        max_bytes: beyond this the oldest segments are removed.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, max_bytes: int = MAX_BYTES
    ) -> None:
        default = cache_home() / f"frames-v{VERSION}"
        self.folder = default if folder is None else Path(folder)
        self.max_bytes = max_bytes
        self.hits = self.misses = 0
        self._told: set[str] = set()
        self._lock = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        self._known: dict[Key, _Known] = {}
        self._indexes: dict[str, Index] = {}
        self._open: dict[str, list[Segment]] = {}
        self._opening: dict[str, Opening] = {}

    def expect(self, paths: Sequence[str]) -> None:
        """Begin to compare the sums of segments that hold these files.

        It is for a process's first load, which has 365 files to look at meanwhile; later ones
        find the segments open.
        """
        with self._lock:
            if self._open or self._opening:
                return
            self._discover()
            wanted = set(paths)
            for name in {at.segment for key, at in self._known.items() if key.path in wanted}:
                with suppress(DamagedError, OSError):  # to be told when it is asked for
                    self._opening[name] = self._begin(name)

    def find(self, keys: Mapping[str, Key]) -> dict[str, Place]:
        """The rows that are known, by path, in segments whose checksums hold."""
        with self._lock:
            if any(key not in self._known for key in keys.values()):
                self._discover()
            found = {}
            places = [
                (path, known) for path, key in keys.items() if (known := self._known.get(key))
            ]
            opened = {name: self._opened(name) for name in {known.segment for _, known in places}}
            for path, (name, entry) in places:
                if (streams := opened[name]) is not None:
                    found[path] = Place(streams[entry.stream], entry.start, entry.stop)
            self.hits += len(found)
            self.misses += len(keys) - len(found)
        return found

    def room(self, layout: Layout, rows: int) -> None:
        """Anywhere: rows are copied to disk when they are kept."""
        del layout, rows

    def keep(self, keys: Mapping[str, Key], places: Mapping[str, Place]) -> None:
        """Write rows as a new segment; a full or closed disk costs a warning, not the load."""
        if (why := self._refused()) is not None:
            self._warn(why)
            return
        # A stream of no columns would lose its rows.
        kept = {
            path: place for path, place in places.items() if path in keys and place.schema.names
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if kept:
                self._write(keys, kept)
            with self._lock:
                self._shrink()
        except (OSError, pa.ArrowException) as error:
            self._warn(str(getattr(error, "strerror", None) or error))

    def _refused(self) -> str | None:
        """Why the folder is not used; None where it is."""
        try:
            return distrusted(self.folder)
        except OSError as error:
            return error.strerror or str(error)

    def _check_ours(self) -> None:
        if (why := self._refused()) is not None:
            raise StorageError(f"the cache {self.folder} is not used: {why}")

    def _warn(self, why: str) -> None:
        if why not in self._told:
            self._told.add(why)
            warn(
                f"nothing is cached in {self.folder}: {why}; correct that, or choose another "
                "folder with FEEDRATE_HOME"
            )

    def clear(self) -> None:
        """Remove all segments.

        Raises:
            StorageError: the folder cannot be read, or belongs to another user.
        """
        self._check_ours()
        with self._lock:
            self._reset()
            for name in {*self._names(".json"), *self._names(".arrow")}:
                self._remove(name)
            self._sweep()

    def info(self) -> dict[str, int]:
        """How many segments, files and bytes the folder holds.

        Returns:
            segments, files (each once for every set of columns) and bytes.

        Raises:
            StorageError: the folder cannot be read, or belongs to another user.
        """
        self._check_ours()
        with self._lock:
            self._discover()
            sizes = (_stat(self.folder / f"{name}.arrow") for name in self._indexes)
            return {
                "segments": len(self._indexes),
                "files": len(self._known),
                "bytes": sum(status.st_size for status in sizes if status is not None),
            }

    def verify(self) -> dict[str, str]:
        """Compare all checksums, and drop what is damaged.

        Returns:
            What was wrong with each segment, by name: it was dropped, unless it could not be
            read now.

        Raises:
            StorageError: the folder cannot be read, or belongs to another user.
        """
        self._check_ours()
        wrong = {}
        with self._lock:
            for name in self._names(".json"):
                try:
                    open_segment(self.folder / f"{name}.arrow", self._read_index(name))
                except (FileNotFoundError, OtherVersionError):
                    continue  # another process dropped it meanwhile, or another version keeps it
                except DamagedError as error:
                    wrong[name] = f"dropped, {error}"
                    self._drop(name, str(error))
                except OSError as error:
                    wrong[name] = f"cannot be read now, {error.strerror or error}"
        return wrong

    def _discover(self) -> None:
        """Learn of segments that were written since the last look."""
        if self._refused() is not None:
            return
        for name in self._names(".json"):
            if name in self._indexes:
                continue
            try:
                index = self._read_index(name)
            except DamagedError as error:
                self._drop(name, str(error))
                continue
            except (OSError, OtherVersionError):
                continue  # as with too many files open, another look may succeed
            self._indexes[name] = index
            for key, entry in zip(index.keys(), index.entries, strict=True):
                self._known[key] = _Known(name, entry)

    def _read_index(self, name: str) -> Index:
        return decode_index((self.folder / f"{name}.json").read_bytes())

    def _opened(self, name: str) -> list[Segment] | None:
        """A segment's streams, or None where they cannot be had now or, being gone, ever again."""
        if name not in self._open:
            try:
                opening = self._opening.pop(name, None)
                if opening is None or opening.process != os.getpid():  # a fork has no such threads
                    opening = self._begin(name)
                self._open[name] = opening.finish()
            except (DamagedError, FileNotFoundError) as error:
                self._drop(name, str(error))
                return None
            except OSError as error:
                log.info("cache segment %s cannot be read now: %s", name, error)
                return None
        return self._open[name]

    def _begin(self, name: str) -> Opening:
        return Opening(self.folder / f"{name}.arrow", self._indexes[name])

    def _write(self, keys: Mapping[str, Key], places: Mapping[str, Place]) -> None:
        name = uuid.uuid4().hex
        temporary = self.folder / f".{name}.tmp"
        try:
            index = write_segment(temporary, keys, places)
            temporary.replace(self.folder / f"{name}.arrow")
            temporary.write_bytes(encode_index(index))
            temporary.chmod(0o600)
            temporary.replace(self.folder / f"{name}.json")
        finally:
            temporary.unlink(missing_ok=True)

    def _shrink(self) -> None:
        """Remove the oldest segments beyond the bound, and what dead writers left."""
        segments = sorted(
            (status.st_mtime, status.st_size, name)
            for name in self._names(".arrow")
            if (status := _stat(self.folder / f"{name}.arrow")) is not None
        )
        total = sum(size for _, size, _ in segments)
        for _, size, name in segments:
            if total <= self.max_bytes:
                break
            self._drop(name, None)
            total -= size
        self._sweep()

    def _sweep(self) -> None:
        """Remove what dead writers left: temporary files, and data that never got their JSON."""
        described = set(self._names(".json"))
        orphans = (name for name in self._names(".arrow") if name not in described)
        for path in (
            *self.folder.glob(".*.tmp"),
            *(self.folder / f"{name}.arrow" for name in orphans),
        ):
            status = _stat(path)
            if status is not None and time.time() - status.st_mtime > STALE_SECONDS:
                path.unlink(missing_ok=True)

    def _drop(self, name: str, why: str | None) -> None:
        if why is not None:
            log.warning("dropped cache segment %s: %s; its files are read again", name, why)
        self._known = {key: at for key, at in self._known.items() if at.segment != name}
        self._indexes.pop(name, None)
        self._open.pop(name, None)
        self._opening.pop(name, None)
        self._remove(name)

    def _remove(self, name: str) -> None:
        for suffix in (".json", ".arrow"):
            (self.folder / f"{name}{suffix}").unlink(missing_ok=True)

    def _names(self, suffix: str) -> Sequence[str]:
        """The segments that have such a file; other files in the folder are not ours."""
        paths = self.folder.glob(f"*{suffix}")
        return [path.stem for path in paths if _SEGMENT.fullmatch(path.stem)]

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "max_bytes": self.max_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # made anew, as unpickling does


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None
