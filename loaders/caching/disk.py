"""The cache of decoded files on disk: segments that processes share.

A segment is written once, appears complete through a rename, and never changes. Its index is
written last; rows without an index are ignored. Processes write one at a time, so that files
missed by several are written once. `disk_segment` has the format of a segment.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from ..base.errors import StorageError
from ..base.homes import cache_home
from ..base.warn import warn
from ..parquet.footers import Identity
from .base import Form, Kept, Key, bytes_of_user, keys_of, warn_of_writes, written_to
from .disk_folder import SegmentFolder
from .disk_segment import VERSION, DamagedError, Entry, Index, OtherVersionError, open_segment
from .segments import Place, Segment

log = logging.getLogger("feedrate.loaders")

MAX_BYTES = 20 << 30
MERGED = 2  # segments of up to this many times the bytes of a new one are merged into it
SMALL_BYTES = 1 << 20  # least size that a new segment counts as: many small ones cost most
MANY_SMALL = 32  # this many smaller segments are merged, even if a load uses none of them


class _Location(NamedTuple):
    """Where a file's rows are."""

    segment: str
    entry: Entry


class _OpenSegment(NamedTuple):
    """A segment whose checksum matched when it was opened."""

    streams: list[Segment]
    file: Identity
    """The identity of its file at that time."""


class DiskCache:
    """Rows in a folder, shared by all processes that use it.

    Args:
        folder: by default `frames-v4` in the user's cache folder.
        max_bytes: beyond this the oldest segments are removed; None: FEEDRATE_CACHE_BYTES, else
            20 GiB.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, max_bytes: int | None = None
    ) -> None:
        default = cache_home() / f"frames-v{VERSION}"
        self.folder = default if folder is None else Path(folder)
        if max_bytes is None:
            max_bytes = bytes_of_user()
        self.max_bytes = MAX_BYTES if max_bytes is None else max_bytes
        self.hits = self.misses = 0
        self._files = SegmentFolder(self.folder)
        self._warned: set[str] = set()
        self._lock = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        self._locations: dict[Form, dict[Key, _Location]] = {}
        self._indexes: dict[str, Index] = {}
        self._open: dict[str, _OpenSegment] = {}
        self._damaged: set[str] = set()
        self._scanned: Identity | None = None
        """The folder's identity when all its segments were known."""

    def takes(self, size: int) -> bool:
        """Always False: rows are copied to disk."""
        del size
        return False

    def find(self, form: Form, paths: Sequence[str]) -> tuple[dict[str, Key], dict[str, Kept]]:
        """The files' keys and the rows that are cached, in segments that are as written."""
        keys = keys_of(paths)
        with self._lock:
            locations = self._locations.get(form, {})
            if any(key not in locations for key in keys.values()):
                self._scan()
            found = self._places(form, keys)
            if len(found) < len(keys):  # another process may have merged a segment meanwhile
                self._scan()
                found = self._places(form, keys)
            self.hits += len(found)
            self.misses += len(keys) - len(found)
        return keys, dict(found)

    def _places(self, form: Form, keys: Mapping[str, Key]) -> dict[str, Place]:
        by_key = self._locations.get(form, {})
        locations = {path: by_key[key] for path, key in keys.items() if key in by_key}
        opened = {name: self._streams(name) for name in {name for name, _ in locations.values()}}
        found: dict[str, Place] = {}
        for path, (name, entry) in locations.items():
            if (streams := opened[name]) is not None:
                found[path] = Place(streams[entry.stream], entry.start, entry.stop)
        written = {id(segment) for segment in written_to(found.values())}
        if not written:
            return found
        for name, streams in opened.items():
            if streams and any(id(segment) in written for segment in streams):
                # Map the file again: the writes changed only this process's mapping.
                self._open.pop(name)
        if "written" not in self._warned:
            self._warned.add("written")
            warn_of_writes()
        return self._places(form, keys)

    def keep(
        self, form: Form, keys: Mapping[str, Key], files: Mapping[str, Kept], new: Collection[str]
    ) -> Mapping[str, Kept]:
        """Write rows as a new segment; a full or unwritable disk causes a warning, not an error."""
        if not new and len(self._segments_of(files)) < 2:  # noqa: PLR2004 - nothing to merge
            return files
        if (reason := self._files.why_refused()) is not None:
            self._warn(reason)
            return files
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._lock, self._files.lock() as is_locked:
                if is_locked:
                    self._scan(force=True)
                    stored = self._locations.get(form, {})
                    self._write(form, _to_write(keys, files, new, stored), files)
                    self._shrink()
        except (OSError, pa.ArrowException) as error:
            self._warn(str(getattr(error, "strerror", None) or error))
        return files

    def _write(self, form: Form, new: Mapping[Key, Place], files: Mapping[str, Kept]) -> None:
        """Write new rows as a segment, together with those of smaller segments of the load."""
        size = max(SMALL_BYTES, sum(map(_size, new.values()))) if new else 0
        merged = self._to_merge(form, files, size)
        if not new and len(merged) < 2:  # noqa: PLR2004 - nothing to merge it with
            return
        rows = {key: place for name in merged for key, place in self._rows(name)} | dict(new)
        name, index = self._files.write(form, rows)
        for old in merged:
            self._drop(old)
        self._add(name, index)

    def _to_merge(self, form: Form, files: Mapping[str, Kept], size: float) -> list[str]:
        """The segments that hold files of a load, smallest first, until one is much larger.

        So each row is written again only after its segment has grown by a share of itself, and a
        moving window of files has few segments.
        """
        small = [
            name
            for name, index in self._indexes.items()
            if index.form == form and index.bytes < SMALL_BYTES
        ]
        if len(small) >= MANY_SMALL:  # even if unused by this load: each process reads them all
            return [name for name in small if self._streams(name) is not None]
        merged: list[str] = []
        for name in sorted(self._segments_of(files), key=lambda name: self._indexes[name].bytes):
            fits = self._indexes[name].bytes <= MERGED * size
            if merged and not fits:
                break
            if merged or not size or fits:
                merged.append(name)
                size += self._indexes[name].bytes
        return merged

    def _segments_of(self, files: Mapping[str, Kept]) -> list[str]:
        """The open segments that hold files of a load."""
        used = {id(kept.segment) for kept in files.values() if isinstance(kept, Place)}
        return [
            name
            for name, opened in self._open.items()
            if any(id(segment) in used for segment in opened.streams)
        ]

    def _rows(self, name: str) -> Iterator[tuple[Key, Place]]:
        streams = self._open[name].streams
        for entry in self._indexes[name].entries:
            yield entry.key, Place(streams[entry.stream], entry.start, entry.stop)

    def _warn(self, reason: str) -> None:
        if reason not in self._warned:
            self._warned.add(reason)
            warn(
                f"nothing is cached in {self.folder}: {reason}; correct that, or choose another "
                "folder with FEEDRATE_HOME"
            )

    def clear(self) -> None:
        """Remove all segments, and the leftovers of killed writers.

        Raises:
            StorageError: the folder cannot be read or changed, belongs to another user, or
                another process holds its lock.
        """
        self._files.check()
        with self._lock:
            self._reset()
            if not self.folder.is_dir():
                return
            try:
                with self._files.lock() as is_locked:
                    if is_locked:
                        for name in self._files.names():
                            self._files.remove(name)
                        self._files.remove_leftovers()
            except OSError as error:
                reason = error.strerror or error
                raise StorageError(
                    f"the cache {self.folder} cannot be cleared: {reason}"
                ) from error
            if not is_locked:
                raise StorageError(
                    f"the cache {self.folder} cannot be cleared: another process holds its lock; "
                    "try again when that process has finished writing"
                )

    def info(self) -> dict[str, int]:
        """The numbers of segments, files and bytes in the folder.

        Returns:
            segments, files (each once per set of columns), bytes, and leftover_bytes: leftovers
            of killed writers, which the next writer removes.

        Raises:
            StorageError: the folder cannot be read, or belongs to another user.
        """
        self._files.check()
        with self._lock:
            self._scan()
            return {
                "segments": len(self._indexes),
                "files": sum(map(len, self._locations.values())),
                "bytes": sum(_file_size(self._files.rows_path(name)) for name in self._indexes),
                "leftover_bytes": sum(map(_file_size, self._files.leftovers())),
            }

    def verify(self) -> dict[str, str]:
        """Compare all checksums, and drop damaged segments.

        Returns:
            The problem of each faulty segment, by name. It was dropped, unless it could not be
            read or removed now.

        Raises:
            StorageError: the folder cannot be read, or belongs to another user.
        """
        self._files.check()
        problems = {}
        with self._lock:
            for name in self._files.names():
                try:
                    open_segment(self._files.rows_path(name), self._files.read_index(name))
                except (FileNotFoundError, OtherVersionError):
                    continue  # another process dropped it meanwhile, or another version wrote it
                except DamagedError as error:
                    removed = self._drop(name, str(error))
                    problems[name] = f"{'dropped' if removed else 'cannot be removed'}, {error}"
                except OSError as error:
                    problems[name] = f"cannot be read now, {error.strerror or error}"
        return problems

    def _scan(self, *, force: bool = False) -> None:
        """Find segments written or removed since the last scan."""
        if self._files.why_refused() is not None:
            return
        try:
            identity = Identity.of(self.folder.stat())
        except OSError:
            self._reset()
            return
        if identity == self._scanned and not force:
            return
        self._scanned = identity
        names = self._files.names()
        for name in set(self._indexes).difference(names):
            self._forget(name)
        for name in names:
            if name in self._indexes or name in self._damaged:
                continue
            try:
                self._add(name, self._files.read_index(name))
            except DamagedError as error:
                self._drop(name, str(error))
            except OtherVersionError:
                continue
            except OSError:  # as with too many files open: another scan may succeed
                self._scanned = None

    def _add(self, name: str, index: Index) -> None:
        self._indexes[name] = index
        locations = self._locations.setdefault(index.form, {})
        for entry in index.entries:
            locations[entry.key] = _Location(name, entry)

    def _streams(self, name: str) -> list[Segment] | None:
        """A segment's streams; None if it is damaged, gone, or cannot be read now."""
        path = self._files.rows_path(name)
        try:
            identity = Identity.of(path.stat())
            opened = self._open.get(name)
            if opened is None or opened.file != identity:  # it was cut or changed
                self._open.pop(name, None)
                streams = open_segment(path, self._indexes[name])
                opened = self._open[name] = _OpenSegment(streams, identity)
        except DamagedError as error:
            self._drop(name, str(error))
            return None
        except FileNotFoundError:
            if self._files.index_path(name).exists():  # a removal would have deleted it first
                self._drop(name, "its data are gone")
            self._forget(name)
            return None
        except OSError as error:
            log.info("cache segment %s cannot be read now: %s", name, error)
            return None
        return opened.streams

    def _shrink(self) -> None:
        """Remove the oldest segments beyond the bound, and the leftovers of killed writers."""
        total = sum(index.bytes for index in self._indexes.values())
        for name, index in sorted(self._indexes.items(), key=lambda item: item[1].written_ns):
            if total <= self.max_bytes:
                break
            self._drop(name)
            total -= index.bytes
        self._files.remove_leftovers()

    def _forget(self, name: str) -> None:
        index = self._indexes.pop(name, None)
        locations = {} if index is None else self._locations.get(index.form, {})
        for key in [key for key, location in locations.items() if location.segment == name]:
            del locations[key]
        self._open.pop(name, None)

    def _drop(self, name: str, damage: str | None = None) -> bool:
        """Forget a segment and try to remove it; return whether that succeeded."""
        if damage is not None:
            log.warning("dropped cache segment %s: %s; its files are read again", name, damage)
            self._damaged.add(name)
        self._forget(name)
        try:
            self._files.remove(name)
        except OSError as error:
            log.info("cache segment %s cannot be removed: %s", name, error)
            return False
        return True

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "max_bytes": self.max_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # made anew, as unpickling does


def _to_write(
    keys: Mapping[str, Key],
    files: Mapping[str, Kept],
    new: Collection[str],
    stored: Collection[Key],
) -> dict[Key, Place]:
    """The files of a load that no process has written yet, and that a segment can hold."""
    rows = ((keys[path], files[path]) for path in new if path in keys)
    return {
        key: kept
        for key, kept in rows
        # A stream of no columns would lose its rows.
        if isinstance(kept, Place) and key not in stored and kept.schema.names
    }


def _size(place: Place) -> float:
    """The approximate number of bytes that rows take."""
    segment = place.segment
    return segment.nbytes * (place.stop - place.start) / max(1, segment.rows)


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
