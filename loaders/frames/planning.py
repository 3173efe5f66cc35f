"""Divide files into parts of a load, the first ones while other footers are still being read.

The place of rows is known once the number of rows of every file is. Reading and decoding do not
wait for that: a part is begun as soon as its files are known, and its worker waits for the place,
if it has to, after decoding.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from ..base.schedule import WAITS_S, split
from ..base.settings import Decoder, DtypeBackend
from ..caching.segments import Segment
from ..parquet.footers import Footer
from ..parquet.layout import Layout, Layouts, wanted
from ..parquet.reader import PANDAS_DAMAGE
from ..parquet.schema import why_pandas_must_read
from ..parquet.sources import with_contents
from .engine import polars_may_run, suits_arrow
from .parts import PARTS_PER_WORKER, PandasPart, Part, SegmentPart, part_count

# Bytes of small files that are read before they are decoded: more would raise the peak of memory.
AHEAD_BYTES = 4 << 20
FIRST_BYTES = 16 << 20  # the same, until the first parts are begun
DIVIDED_ROWS = 1 << 17  # from this many rows on, several threads convert a load of one part


@dataclass
class Plan:
    """How the files of one load are divided among workers.

    Args:
        layouts: the layouts that are known.
        columns: the columns wanted, in this order; None means all.
        dtype_backend: `numpy` or `pyarrow`.
        decoder: `auto`, or `arrow` for Arrow alone.
        workers: number of workers that decode at a time.
        ahead: parts that the scheduler takes before it waits for the first.
        may_share: whether a cache may keep a given number of bytes of numbers.
    """

    layouts: Layouts
    columns: Sequence[str] | None
    dtype_backend: DtypeBackend
    decoder: Decoder
    workers: int
    ahead: int
    may_share: Callable[[int], bool]
    by_pandas: Counter[str] = field(default_factory=Counter)
    """The number of files that pandas reads itself, by reason."""
    complete: bool = False
    """Whether all files are known, so that no worker will wait."""
    waits: bool = False
    """Whether reading files is slow, as over a network: then workers read, several at a time."""
    _begun: int = 0
    _held: int = 0
    """Bytes of files that were read with their footers."""
    _alike: dict[tuple[Layout, bool], _LayoutGroup] = field(default_factory=dict)
    """The files so far, by layout and whether they are wanted as a whole."""

    @property
    def reads_whole(self) -> bool:
        """Whether to read a small file's bytes with its footer, since it is decoded soon."""
        return self._held < (FIRST_BYTES if self._begun < self.ahead else AHEAD_BYTES)

    def parts(self, footers: Iterable[Footer], count: int) -> Generator[Part]:
        """Yield the parts, some of them before `complete`.

        Args:
            footers: the files' footers, read one by one.
            count: approximate number of footers.
        """
        loose: list[Part] = []
        try:
            for seen, footer in enumerate(footers, 1):
                self._held += footer.size if footer.content is not None else 0
                layout = self.layouts.of(footer.schema, self.columns)
                if layout is None or not footer.sound or not _has_place(layout, footer.rows):
                    loose.append(PandasPart(footer.path, self.columns, self.dtype_backend))
                    self.by_pandas[_why_by_pandas(footer, self.columns)] += 1
                    continue
                alike = self._add(layout, footer)
                if self._begun < self.ahead and (early := alike.early(count / seen)):
                    self._begun += 1
                    yield early
            for alike in self._alike.values():
                alike.make_room(self.may_share)
            self.complete = True
            yield from loose
            alone = len(self._alike) == 1 and not loose
            for alike in self._alike.values():
                yield from alike.rest(max(1, self.workers) if alone else 1)
        finally:  # also if the caller takes no more parts
            for alike in self._alike.values():
                alike.room.cancel()  # or workers would wait for a segment that is never made
            self._alike.clear()  # they refer to this plan

    def _add(self, layout: Layout, footer: Footer) -> _LayoutGroup:
        key = layout, footer.groups is None
        if (alike := self._alike.get(key)) is None:
            alike = self._alike[key] = _LayoutGroup(self, layout, whole=key[1])
        alike.add(footer)
        return alike


class _LayoutGroup:
    """Files of one layout, and the room for their rows."""

    def __init__(self, plan: Plan, layout: Layout, *, whole: bool) -> None:
        self.plan = plan
        self.layout = layout
        self.whole = whole
        """Whether files are wanted as a whole, and not some of their row groups."""
        self.files: list[Footer] = []
        self.rows = self.size = 0
        self.room: Future[Segment] = Future()
        self._begun = self._begun_size = self._begun_rows = self._parts = 0
        self._ask_at = 0
        """The number of files at which to check again whether they are enough for a part."""
        self._polars: bool | None = None

    def add(self, file: Footer) -> None:
        """One more file."""
        self.files.append(file)
        self.rows += file.rows
        self.size += file.size

    def early(self, times: float) -> SegmentPart | None:
        """A part of the files so far, if they are enough for one and another will follow.

        Args:
            times: ratio of all files to the files so far.
        """
        most = PARTS_PER_WORKER * max(1, self.plan.workers)
        files = len(self.files)
        if files < self._ask_at or (self.size - self._begun_size) * most < self.size * times:
            return None
        self._ask_at = files + files // 8 + 1  # checking at each of 400 files takes 1 ms
        share = self.size * times / self._count(times)
        others = self.size * times - self.size
        if self.size - self._begun_size < share or others < share / 2:
            return None
        return self._begin(self.files[self._begun :])

    def rest(self, threads: int) -> Iterator[SegmentPart]:
        """The parts that are not begun, of nearly equal numbers of files.

        Args:
            threads: threads that may work on a part, if there is no other.
        """
        left = self.files[self._begun :]
        some = split(left, max(1, self._count(1.0) - self._parts)) if left else []
        alone = len(some) == 1 and not self._parts and self.rows >= DIVIDED_ROWS
        for files in some:
            yield self._begin(files, threads if alone else 1)

    def _count(self, times: float) -> int:
        """The number of parts to decode the files in, including those begun."""
        files, rows, size = (times * one for one in (len(self.files), self.rows, self.size))
        polars = self._by_polars(times)
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
        if polars and plan.ahead and not plan.waits:
            # This thread reads, since workers that wait for each other at each call take longer:
            # with 400 files, 12 ms of CPU more.
            began = time.perf_counter()
            files = with_contents(files, AHEAD_BYTES)
            plan.waits = time.perf_counter() - began > WAITS_S * len(files)
        return SegmentPart(
            files, self.layout, self.room, start, polars, plan.columns, plan.dtype_backend, threads
        )

    def _by_polars(self, times: float) -> bool:
        """Whether polars decodes the files, decided once."""
        if self._polars is None:
            count = times * len(self.files)
            chunks = count * len(self.layout.names)
            # polars shares the row groups of a file among its threads, Arrow decodes in one.
            arrow = count >= self.plan.workers and suits_arrow(self.layout, self.files)
            self._polars = (
                self.plan.decoder == "auto"
                and self.whole
                and bool(self.layout.by_polars)
                and not arrow
                and polars_may_run(self.plan.workers, count, self.size * times, chunks)
            )
        return self._polars


def _why_by_pandas(footer: Footer, columns: Sequence[str] | None) -> str:
    """Why pandas reads a file itself."""
    if not footer.sound:
        return "the footer's number of rows is in doubt"
    try:
        found = why_pandas_must_read(wanted(footer.schema.arrow, columns))
    except PANDAS_DAMAGE:
        found = "the notes for pandas are damaged"
    return found or "it has no rows or no columns"


def _has_place(layout: Layout, rows: int) -> bool:
    """Whether a segment can keep a file.

    Without columns a segment keeps no rows; without rows it keeps no dictionary, whose values
    determine the dtype.
    """
    return bool(layout.names) and (rows > 0 or not layout.has_categories)
