"""The cache of decoded files on disk: segments that processes share.

A segment is written once, appears complete through a rename, and never changes. Its index is
written last; data without an index are ignored. Processes write one at a time, so that files
missed by several are written once. `disk_segment` has the format of a segment.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import threading
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from ..base.errors import StorageError
from ..base.homes import cache_home, why_untrusted
from ..base.warn import warn
from ..parquet.footers import Identity
from .base import Form, Kept, Key, bytes_of_user, keys_of, warn_of_writes, written_to
from .disk_segment import (
    VERSION,
    DamagedError,
    Entry,
    Index,
    OtherVersionError,
    decode_index,
    encode_index,
    open_segment,
    write_segment,
)
from .segments import Place, Segment

log = logging.getLogger("feedrate.loaders")

MAX_BYTES = 20 << 30
LOCKED_S = 30.0  # if the lock is not free after this time, nothing is written
MERGED = 2  # segments of up to this many times the bytes of a new one are merged into it
SMALL_BYTES = 1 << 20  # least size that a new segment counts as: many small ones cost most
MANY_SMALL = 32  # this many smaller segments are merged, even if a load uses none of them
_TEMPORARY = re.compile(r"\..*\.tmp")
_SEGMENT = re.compile("[0-9a-f]{32}")


class _Known(NamedTuple):
    segment: str
    entry: Entry


class _Open(NamedTuple):
    """A segment whose checksum matched when it was opened."""

    streams: list[Segment]
    file: Identity
    """The identity of its file then."""


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
        self._warned: set[str] = set()
        self._lock = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        self._known: dict[Form, dict[Key, _Known]] = {}
        self._indexes: dict[str, Index] = {}
        self._open: dict[str, _Open] = {}
        self._damaged: set[str] = set()
        self._seen: Identity | None = None
        """The folder's identity when all its segments were known."""

    def takes(self, size: int) -> bool:
        """Always False: rows are copied to disk."""
        del size
        return False

    def find(self, form: Form, paths: Sequence[str]) -> tuple[dict[str, Key], dict[str, Kept]]:
        """The files' keys and the rows that are cached, in segments that are as written."""
        keys = keys_of(paths)
        with self._lock:
            known = self._known.get(form, {})
            if any(key not in known for key in keys.values()):
                self._discover()
            found = self._places(form, keys)
            if len(found) < len(keys):  # a segment may have been merged into another meanwhile
                self._discover()
                found = self._places(form, keys)
            self.hits += len(found)
            self.misses += len(keys) - len(found)
        return keys, dict(found)

    def _places(self, form: Form, keys: Mapping[str, Key]) -> dict[str, Place]:
        known = self._known.get(form, {})
        places = [(path, at) for path, key in keys.items() if (at := known.get(key))]
        opened = {name: self._opened(name) for name in {at.segment for _, at in places}}
        found: dict[str, Place] = {}
        for path, (name, entry) in places:
            if (streams := opened[name]) is not None:
                found[path] = Place(streams[entry.stream], entry.start, entry.stop)
        written = {id(segment) for segment in written_to(found.values())}
        for name, streams in opened.items():
            if streams and any(id(segment) in written for segment in streams):
                # Only this process's mapping was written to: the file is mapped again.
                self._open.pop(name)
        if not written:
            return found
        if "written" not in self._warned:
            self._warned.add("written")
            warn_of_writes()
        return self._places(form, keys)

    def keep(
        self, form: Form, keys: Mapping[str, Key], files: Mapping[str, Kept], new: Collection[str]
    ) -> Mapping[str, Kept]:
        """Write rows as a new segment; a full or unwritable disk causes a warning, not an error."""
        if not new and len(self._used(files)) < 2:  # noqa: PLR2004 - nothing to merge
            return files
        if (why := self._refused()) is not None:
            self._warn(why)
            return files
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._lock, self._alone() as alone:
                if alone:
                    self._discover(again=True)
                    known = self._known.get(form, {})
                    self._write(form, _to_write(keys, files, new, known), files)
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
        rows = {key: place for name in merged for key, place in self._content(name)} | dict(new)
        name = uuid.uuid4().hex
        temporary = self.folder / f".{name}.tmp"
        try:
            index = write_segment(temporary, form, rows)
            temporary.replace(self.folder / f"{name}.arrow")
            temporary.write_bytes(encode_index(index))
            temporary.chmod(0o600)
            temporary.replace(self.folder / f"{name}.json")
        finally:
            temporary.unlink(missing_ok=True)
        for old in merged:
            self._drop(old)
        self._learn(name, index)

    def _to_merge(self, form: Form, files: Mapping[str, Kept], size: float) -> list[str]:
        """The segments that hold files of a load, smallest first, until one is much larger.

        So each row is written again only after its segment has grown by a share of itself, and a
        window that moves on has few segments.
        """
        merged: list[str] = []
        small = [
            name
            for name, index in self._indexes.items()
            if index.form == form and index.bytes < SMALL_BYTES
        ]
        if len(small) >= MANY_SMALL:  # even if unused by this load: each process reads them all
            return [name for name in small if self._opened(name) is not None]
        for name in sorted(self._used(files), key=lambda name: self._indexes[name].bytes):
            if merged and self._indexes[name].bytes > MERGED * size:
                break
            if merged or not size or self._indexes[name].bytes <= MERGED * size:
                merged.append(name)
                size += self._indexes[name].bytes
        return merged

    def _used(self, files: Mapping[str, Kept]) -> list[str]:
        """The segments that hold files of a load."""
        used = {id(kept.segment) for kept in files.values() if isinstance(kept, Place)}
        return [
            name
            for name, held in self._open.items()
            if any(id(segment) in used for segment in held.streams)
        ]

    def _content(self, name: str) -> Iterator[tuple[Key, Place]]:
        streams = self._open[name].streams
        for entry in self._indexes[name].entries:
            yield entry.key, Place(streams[entry.stream], entry.start, entry.stop)

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Hold the folder's lock; False if another process keeps it for too long."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield _locked(descriptor)
        finally:
            os.close(descriptor)

    def _refused(self) -> str | None:
        """Why the folder cannot be used; None if it can."""
        try:
            return why_untrusted(self.folder)
        except OSError as error:
            return error.strerror or str(error)

    def _check_ours(self) -> None:
        if (why := self._refused()) is not None:
            raise StorageError(f"the cache {self.folder} is not used: {why}")

    def _warn(self, why: str) -> None:
        if why not in self._warned:
            self._warned.add(why)
            warn(
                f"nothing is cached in {self.folder}: {why}; correct that, or choose another "
                "folder with FEEDRATE_HOME"
            )

    def clear(self) -> None:
        """Remove all segments, and the leftovers of killed writers.

        Raises:
            StorageError: the folder cannot be read or changed, or belongs to another user.
        """
        self._check_ours()
        with self._lock:
            self._reset()
            if not self.folder.is_dir():
                return
            try:
                with self._alone() as alone:
                    for name in {*self._names(".json"), *self._names(".arrow")}:
                        for suffix in (".json", ".arrow"):
                            self._path(name, suffix).unlink(missing_ok=True)
                    if alone:
                        self._sweep()
            except OSError as error:
                why = error.strerror or error
                raise StorageError(f"the cache {self.folder} cannot be cleared: {why}") from error

    def info(self) -> dict[str, int]:
        """The numbers of segments, files and bytes in the folder.

        Returns:
            segments, files (each once per set of columns), bytes, and leftover_bytes: leftovers
            of killed writers, which the next writer removes.

        Raises:
            StorageError: the folder cannot be read, or belongs to another user.
        """
        self._check_ours()
        with self._lock:
            self._discover()
            sizes = (_size_of(self._path(name, ".arrow")) for name in self._indexes)
            return {
                "segments": len(self._indexes),
                "files": sum(map(len, self._known.values())),
                "bytes": sum(sizes),
                "leftover_bytes": sum(map(_size_of, self._leftovers())),
            }

    def verify(self) -> dict[str, str]:
        """Compare all checksums, and drop damaged segments.

        Returns:
            The problem of each faulty segment, by name. It was dropped, unless it could not be
            read or removed now.

        Raises:
            StorageError: the folder cannot be read, or belongs to another user.
        """
        self._check_ours()
        wrong = {}
        with self._lock:
            for name in self._names(".json"):
                try:
                    open_segment(self._path(name, ".arrow"), self._read_index(name))
                except (FileNotFoundError, OtherVersionError):
                    continue  # another process dropped it meanwhile, or another version wrote it
                except DamagedError as error:
                    removed = self._drop(name, str(error))
                    wrong[name] = f"{'dropped' if removed else 'cannot be removed'}, {error}"
                except OSError as error:
                    wrong[name] = f"cannot be read now, {error.strerror or error}"
        return wrong

    def _discover(self, *, again: bool = False) -> None:
        """Find the segments that were written or removed since the last look."""
        if self._refused() is not None:
            return
        try:
            folder = Identity.of(self.folder.stat())
        except OSError:
            self._reset()
            return
        if folder == self._seen and not again:
            return
        self._seen = folder
        names = self._names(".json")
        for name in set(self._indexes).difference(names):
            self._forget(name)
        for name in names:
            if name in self._indexes or name in self._damaged:
                continue
            try:
                self._learn(name, self._read_index(name))
            except DamagedError as error:
                self._drop(name, str(error))
            except OtherVersionError:
                continue
            except OSError:  # as with too many files open: another look may succeed
                self._seen = None

    def _read_index(self, name: str) -> Index:
        return decode_index(self._path(name, ".json").read_bytes())

    def _learn(self, name: str, index: Index) -> None:
        self._indexes[name] = index
        known = self._known.setdefault(index.form, {})
        for entry in index.entries:
            known[entry.key] = _Known(name, entry)

    def _opened(self, name: str) -> list[Segment] | None:
        """A segment's streams; None if it cannot be read now, or is damaged or gone."""
        path = self._path(name, ".arrow")
        try:
            file = Identity.of(path.stat())
            held = self._open.get(name)
            if held is None or held.file != file:  # it was cut or changed
                self._open.pop(name, None)
                held = self._open[name] = _Open(open_segment(path, self._indexes[name]), file)
        except DamagedError as error:
            self._drop(name, str(error))
            return None
        except FileNotFoundError:
            if self._path(name, ".json").exists():  # a removal would have deleted it first
                self._drop(name, "its data are gone")
            self._forget(name)
            return None
        except OSError as error:
            log.info("cache segment %s cannot be read now: %s", name, error)
            return None
        return held.streams

    def _shrink(self) -> None:
        """Remove the oldest segments beyond the bound, and the leftovers of killed writers."""
        total = sum(index.bytes for index in self._indexes.values())
        for name, index in sorted(self._indexes.items(), key=lambda item: item[1].written_ns):
            if total <= self.max_bytes:
                break
            self._drop(name)
            total -= index.bytes
        self._sweep()

    def _sweep(self) -> None:
        """Remove the leftovers of killed writers; no one writes while this process has the lock."""
        for path in self._leftovers():
            path.unlink(missing_ok=True)

    def _leftovers(self) -> list[Path]:
        """Temporary files, and data without an index."""
        listed = self._listed()
        described = set(_stems(listed, ".json"))
        orphans = [name for name in _stems(listed, ".arrow") if name not in described]
        unfinished = [name for name in listed if _TEMPORARY.fullmatch(name)]
        return [self.folder / name for name in unfinished] + [
            self._path(name, ".arrow") for name in orphans
        ]

    def _forget(self, name: str) -> None:
        index = self._indexes.pop(name, None)
        known = {} if index is None else self._known.get(index.form, {})
        for key in [key for key, at in known.items() if at.segment == name]:
            del known[key]
        self._open.pop(name, None)

    def _drop(self, name: str, damage: str | None = None) -> bool:
        """Forget a segment and try to remove it; return whether that succeeded."""
        if damage is not None:
            log.warning("dropped cache segment %s: %s; its files are read again", name, damage)
            self._damaged.add(name)
        self._forget(name)
        try:
            for suffix in (".json", ".arrow"):
                self._path(name, suffix).unlink(missing_ok=True)
        except OSError as error:
            log.info("cache segment %s cannot be removed: %s", name, error)
            return False
        return True

    def _path(self, name: str, suffix: str) -> Path:
        return self.folder / f"{name}{suffix}"

    def _names(self, suffix: str) -> Sequence[str]:
        """The segments that have a file with this suffix."""
        return _stems(self._listed(), suffix)

    def _listed(self) -> list[str]:
        try:
            return os.listdir(self.folder)  # noqa: PTH208 - a Path for each of many costs more
        except (FileNotFoundError, NotADirectoryError):
            return []

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "max_bytes": self.max_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # made anew, as unpickling does


def _to_write(
    keys: Mapping[str, Key],
    files: Mapping[str, Kept],
    new: Collection[str],
    known: Collection[Key],
) -> dict[Key, Place]:
    """The files of a load that no process has written yet, and that a segment can hold."""
    rows = ((keys[path], files[path]) for path in new if path in keys)
    return {
        key: kept
        for key, kept in rows
        if isinstance(kept, Place) and key not in known and kept.schema.names
    }  # a stream of no columns would lose its rows


def _stems(names: Iterable[str], suffix: str) -> list[str]:
    """The segments that have a file with this suffix; other files are not the cache's."""
    stems = (name.removesuffix(suffix) for name in names if name.endswith(suffix))
    return [stem for stem in stems if _SEGMENT.fullmatch(stem)]


def _size(place: Place) -> float:
    """The approximate number of bytes that rows take."""
    segment = place.segment
    return segment.nbytes * (place.stop - place.start) / max(1, segment.rows)


def _locked(descriptor: int) -> bool:
    until = time.monotonic() + LOCKED_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.005)
        except OSError:  # a file system without locks
            return True
        else:
            return True


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
