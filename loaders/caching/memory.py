"""The cache of decoded files in memory: frames are views of its segments.

One bound holds for all caches of a process. The least recently used segment (the files that one
load had to read) is dropped first.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow.types as pt

from ..base.machine import local_ranks, memory_limit
from ..parquet.layout import Layout, alike, held_alike
from .base import Form, Kept, Key, are_places, bytes_of_user, keys_of, warn_of_writes, written_to
from .segments import PandasRows, Place, Segment, merged

MEMORY_SHARE = 4  # the caches of a process may hold a quarter of the memory it may use
SPARE = 0.5  # room for the next rows of a moving window, as a share of the present rows
MOST_UNITS = 4096  # with more, each scan of all units would be slow

_caches: weakref.WeakSet[MemoryCache] = weakref.WeakSet()
_lock = threading.RLock()
_clock = 0


def _reset_after_fork() -> None:
    """Clear the caches in a forked child, where nothing watches the memory they hold."""
    global _lock  # noqa: PLW0603 - another thread of the parent may have held it
    _lock = threading.RLock()
    for cache in list(_caches):
        cache.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


def default_bytes() -> int:
    """The bound of a process: a quarter of the memory, divided among the ranks of this machine."""
    return memory_limit() // MEMORY_SHARE // local_ranks()


@dataclass(eq=False)
class _Unit:
    """The unit of eviction: a segment, or a file that pandas read."""

    form: Form
    held: Segment | PandasRows
    latest: int
    """The value of `_clock` at its latest use."""
    files: dict[Key, int] = field(default_factory=dict)
    """The number of rows of each file that it holds."""
    frame_bytes: int = 0

    @property
    def bytes(self) -> int:
        if isinstance(self.held, Segment):
            return self.held.nbytes
        if not self.frame_bytes:
            self.frame_bytes = int(self.held.frame.memory_usage(deep=True).sum())
        return self.frame_bytes


class MemoryCache:
    """Rows of this process; the least recently used are dropped first.

    Files that are loaded together lie one after the other, so that their frame is a view.

    Args:
        max_bytes: maximum bytes to hold; None: FEEDRATE_CACHE_BYTES, else a quarter of the memory
            limit, divided among the ranks of this machine.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        if max_bytes is None:
            max_bytes = bytes_of_user()
        self.max_bytes = default_bytes() if max_bytes is None else max_bytes
        self.hits = self.misses = 0
        self._known: dict[Form, dict[Key, tuple[_Unit, Kept]]] = {}
        self.units: dict[int, _Unit] = {}
        """By the `id` of `held`."""
        self._warned = False
        with _lock:
            _caches.add(self)

    def takes(self, size: int) -> bool:
        """Whether `size` bytes are cached without a copy: they must fit into the bound."""
        return size <= self.max_bytes

    def find(self, form: Form, paths: Sequence[str]) -> tuple[dict[str, Key], dict[str, Kept]]:
        """The files' keys and the cached rows; forgets rows that were written to."""
        keys = keys_of(paths)
        found = self._look_up(form, keys)
        if written := written_to(found.values()):
            self._drop_written(written)
            found = {path: kept for path, kept in found.items() if not _is_in(kept, written)}
        if PandasRows in set(map(type, found.values())):
            found = {path: _with_own_frame(kept) for path, kept in found.items()}
        self.hits += len(found)
        self.misses += len(keys) - len(found)
        return keys, found

    def _look_up(self, form: Form, keys: Mapping[str, Key]) -> dict[str, Kept]:
        global _clock  # noqa: PLW0603 - one for all caches, which share the bound
        found: dict[str, Kept] = {}
        with _lock:
            _clock += 1
            by_key = self._known.get(form, {})
            for path, key in keys.items():
                if key in by_key:
                    unit, found[path] = by_key[key]
                    unit.latest = _clock
        return found

    def keep(
        self, form: Form, keys: Mapping[str, Key], files: Mapping[str, Kept], new: Collection[str]
    ) -> Mapping[str, Kept]:
        """Keep rows without a copy, unless they lie in several segments: join these in one."""
        global _clock  # noqa: PLW0603 - as in `find`
        with _lock:
            _clock += 1
            for path in new:
                kept = files[path]
                if path in keys and _can_be_kept(kept):
                    cached = _with_own_frame(kept)
                    held = cached.segment if isinstance(cached, Place) else cached
                    self._set(self._unit_of(form, held), keys[path], cached)
            for unit in [unit for unit in self.units.values() if unit.latest == _clock]:
                if unit.bytes > self.max_bytes:  # it would only evict the others
                    self.forget(unit)
            if new:
                _shrink()
        return self._joined(form, keys, files) if are_places(files) else files

    def _joined(
        self, form: Form, keys: Mapping[str, Key], files: Mapping[str, Place]
    ) -> Mapping[str, Place]:
        """Join the rows of several segments in one, if their layouts allow it.

        If the first run of rows ends its segment and there is room, the others are copied after
        it; else all are copied to a new segment with spare room.
        """
        layouts = {segment: segment.layout for segment, _, _ in files.values()}
        if len(layouts) < 2 or not all(path in keys for path in files):  # noqa: PLR2004
            return files
        if not _may_be_joined(layouts.values()):
            return files
        runs = merged([place for place in files.values() if place.stop > place.start])
        if not runs:
            return files
        rows = sum(run.stop - run.start for run in runs)
        size = int(rows * (1 + SPARE)) * runs[0].segment.layout.row_bytes
        if size > self.max_bytes:
            return files
        with _lock:
            target, start, stop = runs[0]
            if id(target) in self.units and stop == target.filled and target.has_room(rows, start):
                runs = runs[1:]
            else:
                room = int(rows * (1 + SPARE))
                start, target = 0, Segment(target.layout, room, shared=True, grows=True)
            if not target.append(runs):
                self._drop_written([target])
                return files
            return self._record_move(form, keys, files, Place(target, start, start + rows))

    def _record_move(
        self, form: Form, keys: Mapping[str, Key], files: Mapping[str, Place], joined: Place
    ) -> dict[str, Place]:
        """Record that files now lie in one place, one after the other."""
        unit, at = self._unit_of(form, joined.segment), joined.start
        old_segments = {place.segment for place in files.values()} - {joined.segment}
        moved: dict[str, Place] = {}
        for path, place in files.items():
            stop = at + place.stop - place.start
            moved[path] = Place(joined.segment, at, stop)
            self._set(unit, keys[path], moved[path])
            at = stop
        for segment in old_segments:
            other = self.units.get(id(segment))
            if other is not None and sum(other.files.values()) < segment.filled / 2:
                self.forget(other)  # most of its rows are now elsewhere
        if unit.bytes > self.max_bytes:
            self.forget(unit)
        _shrink()
        return moved

    def clear(self) -> None:
        """Forget everything."""
        with _lock:
            self._known.clear()
            self.units.clear()

    def _set(self, unit: _Unit, key: Key, kept: Kept) -> None:
        by_key = self._known.setdefault(unit.form, {})
        previous, _ = by_key.get(key, (unit, kept))
        if previous is not unit:
            previous.files.pop(key, None)
            if not previous.files:
                self.forget(previous)
        unit.files[key] = kept.stop - kept.start if isinstance(kept, Place) else 1
        by_key[key] = unit, kept

    def _unit_of(self, form: Form, held: Segment | PandasRows) -> _Unit:
        """The unit of a segment or file; made if there is none."""
        unit = self.units.get(id(held))
        if unit is None:
            unit = self.units[id(held)] = _Unit(form, held, _clock)
        return unit

    def forget(self, unit: _Unit) -> None:
        """Forget a unit and its files."""
        self.units.pop(id(unit.held), None)
        for key in unit.files:
            del self._known[unit.form][key]
        unit.files.clear()

    def _drop_written(self, segments: Iterable[Segment]) -> None:
        with _lock:
            for segment in segments:
                if (unit := self.units.get(id(segment))) is not None:
                    self.forget(unit)
        if not self._warned:
            self._warned = True
            warn_of_writes()

    def __getstate__(self) -> dict[str, Any]:
        return {"max_bytes": self.max_bytes}  # a pickled loader starts with an empty cache

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["max_bytes"])  # type: ignore[misc]  # made anew, as unpickling does


def _shrink() -> None:
    """Forget the least recently used units, until each cache and all together fit their bounds."""
    caches = list(_caches)
    for cache in caches:
        _shrink_to(cache.max_bytes, [cache])
    _shrink_to(max(cache.max_bytes for cache in caches), caches)


def _shrink_to(bound: int, caches: Iterable[MemoryCache]) -> None:
    units = [(unit, cache) for cache in caches for unit in cache.units.values()]
    total = sum(unit.bytes for unit, _ in units)
    if total <= bound and len(units) <= MOST_UNITS:
        return
    count = len(units)
    for unit, cache in sorted(units, key=lambda pair: pair[0].latest):
        if total <= bound and count <= MOST_UNITS:
            break
        cache.forget(unit)
        total -= unit.bytes
        count -= 1


def _may_be_joined(layouts: Collection[Layout]) -> bool:
    """Whether one segment may hold rows of all layouts, and convert them at once."""
    first = next(iter(layouts))
    return alike(layouts) and all(held_alike(first, layout) for layout in layouts)


def _is_in(kept: Kept, segments: Collection[Segment]) -> bool:
    return isinstance(kept, Place) and any(kept.segment is segment for segment in segments)


def _can_be_kept(kept: Kept) -> bool:
    """Whether rows may be returned twice: not lists, which pandas never copies before a write."""
    return type(kept) is Place or not any(map(pt.is_nested, kept.schema.types))


def _with_own_frame(kept: Kept) -> Kept:
    return PandasRows(kept.schema, kept.frame.copy()) if isinstance(kept, PandasRows) else kept
