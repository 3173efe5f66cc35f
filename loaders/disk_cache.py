"""Decoded files on disk: memory-mapped segments that other processes share.

A segment is written once and never changed: `ID.arrow` holds one Arrow IPC stream per source
file, each with its own schema and dictionaries, `ID.json` says which and where. The JSON is
written last, so a segment without one does not count; each file appears whole, through a rename.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
import uuid
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from .cache import Key
from .errors import FeedrateWarning
from .homes import cache_home

log = logging.getLogger("feedrate.loaders")

# 1: one IPC file per segment, a record batch or more per source file.
# 2: one IPC stream per source file, so that files of any schemas share a segment.
VERSION = 2
MAX_BYTES = 20 << 30
_SEGMENT = re.compile("[0-9a-f]{32}")
STALE_SECONDS = 3600  # a temporary file this old belongs to a writer that died


class Entry(msgspec.Struct, frozen=True):
    """One source file in a segment."""

    path: str
    size: int
    mtime_ns: int
    columns: tuple[str, ...] | None
    offset: int
    """Where its stream begins in `ID.arrow`, in bytes."""
    length: int


class Segment(msgspec.Struct, frozen=True):
    """What `ID.json` holds."""

    entries: list[Entry]
    bytes: int
    format: str = "feedrate-cache"
    version: int = VERSION


class _Place(NamedTuple):
    segment: str
    entry: Entry


class DiskCache:
    """Tables in a folder, shared by all processes that use it.

    Args:
        folder: by default `frames-v2` in the user's cache folder.
        max_bytes: beyond this the oldest segments are removed.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, max_bytes: int = MAX_BYTES
    ) -> None:
        default = cache_home() / f"frames-v{VERSION}"
        self.folder = default if folder is None else Path(folder)
        self.max_bytes = max_bytes
        self.hits = self.misses = 0
        self._reset()

    def _reset(self) -> None:
        self._places: dict[Key, _Place] = {}
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    def get(self, keys: Mapping[str, Key]) -> dict[str, pa.Table]:
        """The tables that are known, by path, memory-mapped."""
        with self._lock:
            if any(key not in self._places for key in keys.values()):
                self._discover()
            found = {}
            mapped: dict[str, pa.Buffer | None] = {}
            for path, key in keys.items():
                if (place := self._places.get(key)) is None:
                    continue
                if place.segment not in mapped:
                    mapped[place.segment] = self._map(place.segment)
                if (table := self._load(place, mapped[place.segment])) is not None:
                    found[path] = table
            self.hits += len(found)
            self.misses += len(keys) - len(found)
        return found

    def put(self, keys: Mapping[str, Key], tables: Mapping[str, pa.Table]) -> None:
        """Write tables as a new segment; a full or closed disk costs a warning, not the load."""
        # Streams of tables without columns would lose their rows.
        kept = {path: t for path, t in tables.items() if path in keys and t.num_columns}
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if kept:
                self._write(keys, kept)
            with self._lock:
                self._shrink()
        except (OSError, pa.ArrowException) as error:
            why = getattr(error, "strerror", None) or error
            warnings.warn(
                f"nothing more is cached in {self.folder}: {why}; free some space, or choose "
                "another folder with FEEDRATE_HOME",
                FeedrateWarning,
                stacklevel=4,
            )

    def clear(self) -> None:
        """Remove all segments."""
        with self._lock:
            self._reset()
            for name in {*self._names(".json"), *self._names(".arrow")}:
                self._remove(name)
            self._sweep()

    def _discover(self) -> None:
        """Learn of segments that were written since the last look."""
        for name in self._names(".json"):
            if name in self._seen:
                continue
            try:
                segment = msgspec.json.decode(
                    (self.folder / f"{name}.json").read_bytes(), type=Segment
                )
                whole = (self.folder / f"{name}.arrow").stat().st_size == segment.bytes
            except (FileNotFoundError, msgspec.MsgspecError):
                whole = False
            except OSError:  # as with too many files open: another look may succeed
                continue
            self._seen.add(name)
            if not whole:
                self._drop(name, "it is not whole")
                continue
            for entry in segment.entries:
                key = Key(entry.path, entry.size, entry.mtime_ns, entry.columns)
                self._places[key] = _Place(name, entry)

    def _map(self, name: str) -> pa.Buffer | None:
        """A segment's bytes, or None where they cannot be had now or, being gone, ever again.

        The mapping outlives the descriptor, so that no file stays open.
        """
        try:
            with pa.memory_map(str(self.folder / f"{name}.arrow")) as file:
                return file.read_buffer()
        except FileNotFoundError as error:
            self._drop(name, str(error))
        except OSError as error:
            log.info("cache segment %s cannot be read now: %s", name, error)
        return None

    def _load(self, place: _Place, segment: pa.Buffer | None) -> pa.Table | None:
        name, entry = place
        if segment is None:
            return None
        try:
            if not 0 <= entry.offset <= entry.offset + entry.length <= segment.size:
                raise pa.ArrowInvalid(f"the stream of {entry.path} lies outside of it")
            with pa.ipc.open_stream(segment.slice(entry.offset, entry.length)) as stream:
                return stream.read_all()
        except (pa.ArrowException, OSError) as error:  # the bytes are here: they must be damaged
            self._drop(name, str(error))
            return None

    def _write(self, keys: Mapping[str, Key], tables: Mapping[str, pa.Table]) -> None:
        name = uuid.uuid4().hex
        temporary = self.folder / f".{name}.tmp"
        entries = []
        try:
            with pa.OSFile(str(temporary), "wb") as sink:
                for path, table in tables.items():
                    offset = sink.tell()
                    with pa.ipc.new_stream(sink, table.schema) as writer:
                        writer.write_table(table)
                    entries.append(Entry(*keys[path], offset, sink.tell() - offset))
                size = sink.tell()
            temporary.replace(self.folder / f"{name}.arrow")
            temporary.write_bytes(msgspec.json.encode(Segment(entries, size)))
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
        self._places = {key: at for key, at in self._places.items() if at.segment != name}
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
