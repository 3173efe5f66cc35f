"""Divide files into parts of a load, the first ones while other footers are still being read.

Rows get their place once the number of rows of every file is known. Reading and decoding do not
wait for that: a part begins as soon as its files are known, and its worker waits for the place
after decoding, if necessary.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

from ..base.schedule import WAITS_S, split
from ..base.settings import Decoder, DtypeBackend
from ..caching.segments import Segment
from ..parquet.footers import Footer, Requested
from ..parquet.layout import Layout, Layouts, wanted
from ..parquet.reader import PANDAS_DAMAGE
from ..parquet.schema import why_pandas_must_read
from ..parquet.sources import plan_request, with_contents
from ..remote.ahead import RequestPool
from ..remote.options import options_for
from ..remote.window import Wanted, Window
from .engine import polars_may_run, suits_arrow
from .parts import PART_BYTES, PARTS_PER_WORKER, PandasPart, Part, SegmentPart, part_count

# Bytes of small files that are read before they are decoded; more would raise peak memory.
AHEAD_BYTES = 4 << 20
FIRST_BYTES = 16 << 20  # the same, until the first parts begin
DIVIDED_ROWS = 1 << 17  # from this many rows, several threads convert a load of one part


@dataclass
class Plan:
    """How the files of one load are divided among workers.

    Args:
        layouts: the known layouts.
        columns: the wanted columns, in this order; None means all.
        dtype_backend: `numpy` or `pyarrow`.
        decoder: `auto`, or `arrow` for Arrow alone.
        workers: number of workers that decode in parallel.
        ahead: parts that the scheduler takes before it waits for the first result.
        may_share: returns whether a cache may keep this many bytes of numbers.
    """

    layouts: Layouts
    columns: Sequence[str] | None
    dtype_backend: DtypeBackend
    decoder: Decoder
    workers: int
    ahead: int
    may_share: Callable[[int], bool]
    pool: RequestPool | None = None
    """Requests objects; None if there are only files."""
    versions: dict[str, str | None] = field(default_factory=dict)
    """The version of each object whose footer was read."""
    by_pandas: Counter[str] = field(default_factory=Counter)
    """The number of files that pandas reads, by reason."""
    complete: bool = False
    """Whether all files are known, so that no worker will wait."""
    waits: bool = False
    """Whether reading files is slow, as over a network: then workers read, several at a time."""
    _begun: int = 0
    """The number of parts begun before `complete`."""
    _bytes_read: int = 0
    """Bytes of files that were read with their footers."""
    _for_pandas: Window | None = None
    _groups: dict[tuple[Layout, bool], _LayoutGroup] = field(default_factory=dict)
    """The files so far, by layout and whether whole files are wanted."""

    @property
    def reads_whole(self) -> bool:
        """Whether to read a small file's bytes with its footer, since it is decoded soon."""
        if self.pool is not None:
            return self._bytes_read < self.pool.ahead_bytes
        return self._bytes_read < (FIRST_BYTES if self._begun < self.ahead else AHEAD_BYTES)

    def parts(self, footers: Iterable[Footer], count: int) -> Generator[Part]:
        """Yield the parts, some of them before `complete`.

        Args:
            footers: the files' footers, read one by one.
            count: approximate number of footers.
        """
        pandas_parts: list[Part] = []
        try:
            for seen, footer in enumerate(footers, 1):
                self._bytes_read += footer.size if footer.content is not None else 0
                if footer.version is not None:
                    self.versions[footer.path] = footer.version
                layout = self.layouts.of(footer.schema, self.columns)
                if layout is None or not footer.sound or not _fits_segment(layout, footer.rows):
                    pandas_parts.append(self._pandas_part(footer))
                    self.by_pandas[_why_by_pandas(footer, self.columns)] += 1
                    continue
                group = self._add(layout, footer, count / seen)
                if self._begun < self.ahead and (early := group.early(count / seen)):
                    self._begun += 1
                    yield early
            for group in self._groups.values():
                group.make_room(self.may_share)
            self.complete = True
            yield from pandas_parts
            is_only = len(self._groups) == 1 and not pandas_parts
            for group in self._groups.values():
                yield from group.rest(max(1, self.workers) if is_only else 1)
        finally:  # also if the caller takes no more parts
            for group in self._groups.values():
                group.room.cancel()  # else workers would wait for a segment that is never made
            self._groups.clear()  # they refer to this plan

    def _pandas_part(self, file: Footer) -> PandasPart:
        """A file for pandas; an object of moderate size is requested whole."""
        content = file.content
        is_object = self.pool is not None and file.version is not None
        if self.pool is not None and is_object and content is None and file.size <= PART_BYTES:
            self._for_pandas = self._for_pandas or Window(self.pool)
            plan = partial(plan_request, file, (), whole=True)
            [number] = self._for_pandas.add([Wanted(plan, file.size)])
            content = Requested(self._for_pandas, number)
        held = content if is_object else None
        return PandasPart(file.path, self.columns, self.dtype_backend, content=held)

    def _add(self, layout: Layout, footer: Footer, scale: float) -> _LayoutGroup:
        key = layout, footer.groups is None
        if (group := self._groups.get(key)) is None:
            group = self._groups[key] = _LayoutGroup(self, layout, whole=key[1])
        group.add(footer, scale)
        return group


class _LayoutGroup:
    """Files of one layout, and the room for their rows."""

    def __init__(self, plan: Plan, layout: Layout, *, whole: bool) -> None:
        self.plan = plan
        self.layout = layout
        self.whole = whole
        """Whether whole files are wanted, and not only some of their row groups."""
        self.files: list[Footer] = []
        self.window = Window(plan.pool) if plan.pool is not None else None
        self.rows = self.size = 0
        self.room: Future[Segment] = Future()
        self._begun = self._begun_size = self._begun_rows = self._parts = 0
        self._check_at = 0
        """The number of files at which to check again whether they are enough for a part."""
        self._polars: bool | None = None

    def add(self, file: Footer, scale: float) -> None:
        """Add a file, and request an object.

        Args:
            file: its footer.
            scale: ratio of all files to the files so far.
        """
        self.files.append(file)
        self.rows += file.rows
        self.size += file.size
        if self.window is not None:
            self.files[-1] = self._requested(file, self.window, scale)

    def early(self, scale: float) -> SegmentPart | None:
        """A part of the files so far, if they are enough for one and another will follow.

        Args:
            scale: ratio of all files to the files so far.
        """
        max_parts = PARTS_PER_WORKER * max(1, self.plan.workers)
        files, size, total_size = len(self.files), self.size - self._begun_size, self.size * scale
        if files < self._check_at or size * max_parts < total_size:
            return None
        self._check_at = files + files // 8 + 1  # checking at each of 400 files takes 1 ms
        part_size = total_size / self._count(scale)
        if size < part_size or total_size - self.size < part_size / 2:
            return None
        return self._begin(self.files[self._begun :])

    def rest(self, threads: int) -> Iterator[SegmentPart]:
        """The remaining parts, of nearly equal numbers of files.

        Args:
            threads: threads that may work on a part, if there is no other.
        """
        left = self.files[self._begun :]
        parts = split(left, max(1, self._count(1.0) - self._parts)) if left else []
        is_only = len(parts) == 1 and not self._parts and self.rows >= DIVIDED_ROWS
        for files in parts:
            yield self._begin(files, threads if is_only else 1)

    def _count(self, scale: float) -> int:
        """The number of parts to decode the files in, including those begun."""
        files, rows, size = (scale * now for now in (len(self.files), self.rows, self.size))
        polars = self._by_polars(scale)
        return part_count(files, self.layout, rows, size, self.plan.workers, polars=polars)

    def make_room(self, may_share: Callable[[int], bool]) -> None:
        """Make the segment, for the rows of all files."""
        shared = self.whole and may_share(self.rows * self.layout.row_bytes)
        self.room.set_result(Segment(self.layout, self.rows, shared=shared))

    def _begin(self, files: Sequence[Footer], threads: int = 1) -> SegmentPart:
        plan = self.plan
        start, polars = self._begun_rows, self._by_polars(1.0)
        self._parts += 1
        self._begun += len(files)
        self._begun_size += sum(file.size for file in files)
        self._begun_rows += sum(file.rows for file in files)
        if polars and plan.ahead and not plan.waits and self.window is None:
            # This thread reads: workers would wait for each other at each call, which takes
            # 12 ms more CPU time with 400 files.
            start_s = time.perf_counter()
            files = with_contents(files, AHEAD_BYTES)
            plan.waits = time.perf_counter() - start_s > WAITS_S * len(files)
        return SegmentPart(
            files, self.layout, self.room, start, polars, plan.columns, plan.dtype_backend, threads
        )

    def _requested(self, file: Footer, window: Window, scale: float) -> Footer:
        """An object that is not held, with its wanted parts requested; any other unchanged."""
        if file.content is not None or file.version is None:
            return file
        is_small = file.size <= options_for(file.path).limits.whole_bytes
        whole = self._by_polars(scale) or is_small
        plan = partial(plan_request, file, self.layout.names, whole=whole)
        [number] = window.add([Wanted(plan, file.size)])
        return file._replace(content=Requested(window, number))

    def _by_polars(self, scale: float) -> bool:
        """Whether polars decodes the files; decided once."""
        if self._polars is None:
            count = scale * len(self.files)
            chunks = count * len(self.layout.names)
            # polars divides a file's row groups among its threads; Arrow decodes in one thread.
            arrow = count >= self.plan.workers and suits_arrow(self.layout, self.files)
            self._polars = (
                self.plan.decoder == "auto"
                and self.whole
                and bool(self.layout.by_polars)
                and not arrow
                and not self._has_large_objects()
                and polars_may_run(self.plan.workers, count, self.size * scale, chunks)
            )
        return self._polars

    def _has_large_objects(self) -> bool:
        """Whether polars would need all bytes of objects too large for that."""
        if self.window is None:
            return False
        limits = options_for(self.files[0].path).limits
        limit = PART_BYTES if self.plan.columns is None else limits.whole_bytes
        return max(file.size for file in self.files) > limit


def _why_by_pandas(footer: Footer, columns: Sequence[str] | None) -> str:
    """Why pandas reads a file."""
    if not footer.sound:
        return "the footer's number of rows is in doubt"
    try:
        reason = why_pandas_must_read(wanted(footer.schema.arrow, columns))
    except PANDAS_DAMAGE:
        reason = "the pandas metadata is damaged"
    return reason or "it has no rows or no columns"


def _fits_segment(layout: Layout, rows: int) -> bool:
    """Whether a segment can keep a file.

    Without columns a segment keeps no rows. Without rows it keeps no dictionary, whose values
    determine the dtype.
    """
    return bool(layout.names) and (rows > 0 or not layout.has_categories)
