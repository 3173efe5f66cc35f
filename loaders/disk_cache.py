"""Decoded files on disk: memory-mapped Arrow IPC segments that other processes share.

A segment is written once and never changed: `ID.arrow` holds one record batch per source file
(or several, for very large ones), `ID.json` says which. The JSON is written last, so a segment
without one does not count; each file appears whole, through a rename.
"""

from __future__ import annotations

import base64
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
import pyarrow.types as pt

from .cache import Key
from .errors import FeedrateWarning
from .homes import cache_home

log = logging.getLogger("feedrate.loaders")

# 1: one record batch or more per file, schema metadata kept per entry.
VERSION = 1
MAX_BYTES = 20 << 30
_SEGMENT = re.compile("[0-9a-f]{32}")
STALE_SECONDS = 3600  # a temporary file this old belongs to a writer that died


class Entry(msgspec.Struct, frozen=True):
    """One source file in a segment."""

    path: str
    size: int
    mtime_ns: int
    columns: tuple[str, ...] | None
    first: int
    batches: int
    metadata: dict[str, str] | None
    """The table's schema metadata, base64; it differs from file to file."""


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
        folder: by default `frames-v1` in the user's cache folder.
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
        self._open: dict[str, pa.RecordBatchFileReader] = {}
        self._lock = threading.Lock()

    def get(self, keys: Mapping[str, Key]) -> dict[str, pa.Table]:
        """The tables that are known, by path, memory-mapped."""
        with self._lock:
            if any(key not in self._places for key in keys.values()):
                self._discover()
            found = {}
            for path, key in keys.items():
                place = self._places.get(key)
                table = self._load(place) if place is not None else None
                if table is not None:
                    found[path] = table
            self.hits += len(found)
            self.misses += len(keys) - len(found)
        return found

    def put(self, keys: Mapping[str, Key], tables: Mapping[str, pa.Table]) -> None:
        """Write tables as new segments; a full or closed disk costs a warning, not the load."""
        groups: dict[Any, list[str]] = {}
        for path, table in tables.items():
            if path in keys and table.num_columns:  # batches without any would lose their rows
                groups.setdefault(_group(path, table), []).append(path)
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for paths in groups.values():
                self._write({path: keys[path] for path in paths}, tables)
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
            for name in self._names(".json"):
                self._remove(name)

    def _discover(self) -> None:
        """Learn of segments that were written since the last look."""
        for name in self._names(".json"):
            if name in self._seen:
                continue
            self._seen.add(name)
            try:
                segment = msgspec.json.decode(
                    (self.folder / f"{name}.json").read_bytes(), type=Segment
                )
                whole = (self.folder / f"{name}.arrow").stat().st_size == segment.bytes
            except (OSError, msgspec.MsgspecError):
                whole = False
            if not whole:
                self._drop(name, "it is not whole")
                continue
            for entry in segment.entries:
                key = Key(entry.path, entry.size, entry.mtime_ns, entry.columns)
                self._places[key] = _Place(name, entry)

    def _load(self, place: _Place) -> pa.Table | None:
        name, entry = place
        try:
            reader = self._open.get(name)
            if reader is None:
                reader = pa.ipc.open_file(pa.memory_map(str(self.folder / f"{name}.arrow")))
                self._open[name] = reader
            batches = [
                reader.get_batch(entry.first + position) for position in range(entry.batches)
            ]
            table = pa.Table.from_batches(batches, reader.schema)
            return table.replace_schema_metadata(_decode(entry.metadata))
        except (OSError, ValueError, pa.ArrowException) as error:
            self._drop(name, str(error))
            return None

    def _write(self, keys: Mapping[str, Key], tables: Mapping[str, pa.Table]) -> None:
        name = uuid.uuid4().hex
        temporary = self.folder / f".{name}.tmp"
        entries, position = [], 0
        try:
            schema = tables[next(iter(keys))].schema.remove_metadata()
            with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
                for path, key in keys.items():
                    batches = _batches(tables[path])
                    for batch in batches:
                        writer.write_batch(batch)
                    notes = _encode(tables[path].schema.metadata)
                    entries.append(Entry(*key, position, len(batches), notes))
                    position += len(batches)
            size = temporary.stat().st_size
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
        for path in self.folder.glob(".*.tmp"):
            status = _stat(path)
            if status is not None and time.time() - status.st_mtime > STALE_SECONDS:
                path.unlink(missing_ok=True)

    def _drop(self, name: str, why: str | None) -> None:
        if why is not None:
            log.warning("dropped cache segment %s: %s; its files are read again", name, why)
        self._open.pop(name, None)
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


def _group(path: str, table: pa.Table) -> object:
    """Tables that may share a segment: equal fields; dictionaries differ from file to file."""
    if any(pt.is_dictionary(kind) or pt.is_nested(kind) for kind in table.schema.types):
        return path
    return tuple((field.name, str(field.type), field.nullable) for field in table.schema)


def _batches(table: pa.Table) -> list[pa.RecordBatch]:
    plain = table.replace_schema_metadata(None).combine_chunks()
    batches: list[pa.RecordBatch] = plain.to_batches()
    return batches


def _encode(metadata: Mapping[bytes, bytes] | None) -> dict[str, str] | None:
    if metadata is None:
        return None
    return {key.decode("latin-1"): base64.b64encode(metadata[key]).decode() for key in metadata}


def _decode(metadata: Mapping[str, str] | None) -> dict[bytes, bytes] | None:
    if metadata is None:
        return None
    return {key.encode("latin-1"): base64.b64decode(text) for key, text in metadata.items()}


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None
