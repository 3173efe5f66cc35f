"""Segments: rows of many files of one layout, column by column, and the frames made of them.

Numbers lie in one array per dtype, of shape (columns, rows), so that a frame is a view of them;
other columns are kept as Arrow arrays, in runs.

A segment without a cache gives its numbers to the frame. A segment in a cache is shared: its
numbers are read-only, and pandas copies before it writes to a frame (Copy-on-Write).
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.types as pt
from pandas.api.internals import (  # type: ignore[import-not-found]  # the stubs lack it
    create_dataframe_from_blocks,
)

from ..base.schedule import ordered_map
from ..base.stages import stage
from ..parquet.layout import Layout
from ..parquet.objects import to_array
from . import views

Piece: TypeAlias = "list[np.ndarray] | pa.Array | pa.ChunkedArray"
"""A column's rows: numbers of the layout's dtype, in parts, or an Arrow array."""
MakePiece: TypeAlias = Callable[[], Piece]
"""Makes the piece; called once."""


class MisfitError(Exception):
    """Decoded columns do not fit the place that is reserved for their rows."""


class Run(NamedTuple):
    """Rows `start` to `stop` of a column as Arrow arrays."""

    start: int
    stop: int
    chunks: tuple[pa.Array, ...]

    def rows(self, start: int, stop: int) -> Sequence[pa.Array]:
        """The chunks of the run's rows between `start` and `stop`."""
        if start <= self.start and self.stop <= stop:
            return self.chunks
        chunks: Sequence[pa.Array] = self.within(start, stop).chunks
        return chunks

    def within(self, start: int, stop: int) -> pa.ChunkedArray:
        """The run's rows between `start` and `stop`."""
        low = max(start, self.start)
        return pa.chunked_array(self.chunks).slice(low - self.start, min(stop, self.stop) - low)


class _Objects(NamedTuple):
    """Rows of a column as Python objects, which are made once and shared by frames."""

    start: int
    stop: int
    cells: np.ndarray


class Segment:
    """Rows of files of one layout.

    Args:
        layout: the columns.
        rows: number of rows to make room for.
        shared: frames are views, which may be changed safely; else frames own their memory.
        grows: the shared segment starts without rows, for `append`.
        blocks: the numbers, a read-only array of shape (columns, rows) per dtype; by default new
            memory to write to.
        watches: detect writes to the given blocks; by default the kernel or checksums do.
    """

    def __init__(
        self,
        layout: Layout,
        rows: int,
        *,
        shared: bool = False,
        grows: bool = False,
        blocks: Sequence[np.ndarray] | None = None,
        watches: Sequence[views.Watch] | None = None,
    ) -> None:
        self.layout = layout
        self.rows = rows
        self.arrow_bytes = 0
        """Bytes of the columns that Arrow holds."""
        self.filled = 0 if grows else rows
        """Rows that are present, or about to be: all except the room left for `append`."""
        self._shared = shared
        self._grows = grows
        self._watches: Sequence[views.Watch] | None = watches
        self._views: Sequence[np.ndarray] = blocks or ()
        if blocks is None and shared:
            blocks, self._views = views.shared_room(layout, rows, grows=grows)
        elif blocks is None:
            blocks = [np.empty((len(at), rows), dtype) for dtype, at in layout.numbers]
        self.blocks = list(blocks)
        self._objects: dict[int, _Objects] = {}
        self._columns: dict[int, tuple[int, pa.ChunkedArray | None]] = {}
        """Per Arrow column: its number of runs, and all its rows if the runs have no gaps."""
        self._runs: dict[int, list[Run]] = {position: [] for position in layout.others}
        self._rows = {
            position: (block, row)
            for (_, positions), block in zip(layout.numbers, self.blocks, strict=True)
            for row, position in enumerate(positions)
        }
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes that the segment takes, including room for later rows."""
        numbers = self.rows * self.layout.row_bytes
        objects = sum(kept.cells.nbytes for kept in self._objects.values())
        return numbers + self.arrow_bytes + objects

    def write(self, start: int, stop: int, pieces: Sequence[MakePiece], threads: int = 1) -> None:
        """Write rows to a place that no one else writes to.

        Args:
            start: the first row.
            stop: the row after the last.
            pieces: the columns in the layout's order. A column of numbers may be an Arrow array
                if it holds nulls that its dtype cannot express.
            threads: number of columns written at a time.

        Raises:
            MisfitError: the number of columns is wrong, or a column does not have `stop - start`
                rows: it is not written, but other columns may have been.
        """
        if len(pieces) != (expected := len(self.layout.names)):
            raise MisfitError(f"it has {len(pieces)} columns instead of {expected}")

        def write(position: int) -> None:
            with stage("convert"):
                self._write_column(position, start, stop, pieces[position]())

        for _ in ordered_map(write, range(len(pieces)), 0 if threads == 1 else threads, 0):
            pass

    def _write_column(self, position: int, start: int, stop: int, piece: Piece) -> None:
        rows = sum(map(len, piece)) if isinstance(piece, list) else len(piece)
        if rows != stop - start:
            raise MisfitError(f"a column has {rows} rows where its footer says {stop - start}")
        if not isinstance(piece, list):
            self.put(position, start, piece)
            return
        for part in piece:
            self.numbers(position, start, start + len(part))[:] = part
            start += len(part)

    def put(self, position: int, start: int, values: pa.Array | pa.ChunkedArray) -> None:
        """Put Arrow rows of one column at a place that no one else writes to."""
        if len(values):
            chunks = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
            run = Run(start, start + len(values), tuple(chunks))
            with self._lock:
                bisect.insort(self._runs.setdefault(position, []), run, key=_start)
                self.arrow_bytes += values.nbytes

    def discard(self, start: int, stop: int) -> None:
        """Forget Arrow rows between `start` and `stop`, which are about to be written again."""
        with self._lock:
            for position, runs in self._runs.items():
                removed = [run for run in runs if start <= run.start < stop]
                self.arrow_bytes -= sum(chunk.nbytes for run in removed for chunk in run.chunks)
                self._runs[position] = [run for run in runs if not start <= run.start < stop]

    def frame(self, start: int, stop: int) -> pd.DataFrame:
        """Rows as a frame equal to the one that pandas would make.

        Changes to the frame affect nothing else. The frame of a shared segment is a view.
        """
        layout = self.layout
        blocks: list[tuple[Any, np.ndarray]] = []
        number_blocks = self._number_blocks(start, stop)
        for (_, positions), block in zip(layout.numbers, number_blocks, strict=True):
            rows = [row for row, at in enumerate(positions) if not self.between(at, start, stop)]
            if len(rows) == len(positions):
                blocks.append((block, np.array(positions)))
                continue
            blocks += [(block[row : row + 1], np.array([positions[row]])) for row in rows]
        done = {int(position) for _, positions in blocks for position in positions}
        for position in range(len(layout.names)):
            if position not in done:
                blocks.append((self._array(position, start, stop), np.array([position])))
        frame: pd.DataFrame = create_dataframe_from_blocks(
            blocks, pd.RangeIndex(stop - start), layout.template.columns.copy()
        )
        frame.attrs = dict(layout.template.attrs)
        return views.copied_before_writing(frame) if self._shared else frame

    def _number_blocks(self, start: int, stop: int) -> list[np.ndarray]:
        """The numbers of some rows: views of a shared segment, or arrays that the caller owns."""
        if not self._shared and start == 0 and stop == self.rows:
            return self.blocks
        if self._shared and (stop - start) * self.layout.row_bytes > views.COPIED_BYTES:
            self._watch()
            return [view[:, start:stop] for view in self._views]
        return [block[:, start:stop].copy() for block in self.blocks]

    def _watch(self) -> None:
        """Watch the numbers from now on; call this before returning views of them."""
        with self._lock:
            if self._watches is None:
                some = [view for view in self._views if view.size]
                self._watches = [views.watch(one, self.filled, grows=self._grows) for one in some]

    def is_unchanged(self, start: int, stop: int) -> bool:
        """Whether the numbers of some rows are unchanged since they were first returned."""
        return all(watch.is_unchanged(start, stop) for watch in self._watches or ())

    def has_room(self, rows: int, start: int) -> bool:
        """Whether `rows` rows fit from `start` on."""
        return start + rows <= self.rows

    def append(self, places: Sequence[Place]) -> bool:
        """Append copies of rows; no one else may append at the same time.

        Args:
            places: rows of other segments with compatible layouts, for which there is room.

        Returns:
            Whether the earlier rows are unchanged since they were first returned.
        """
        at = self.filled
        for segment, start, stop in places:
            end = at + stop - start
            for block, source in zip(self.blocks, segment.blocks, strict=True):
                block[:, at:end] = source[:, start:stop]
            for position in range(len(self.layout.names)):
                for run in segment.between(position, start, stop):
                    self.put(position, at + max(run.start, start) - start, run.within(start, stop))
            at = end
        with self._lock:
            self.filled = at
            return all([watch.extend(at) for watch in self._watches or ()])  # noqa: C419 - extend all

    def held_layout(self, start: int, stop: int) -> Layout:
        """The layout of these rows: columns that turned out to hold nulls are not numbers in it."""
        numbers = (at for at in self.layout.dtypes if not self.between(at, start, stop))
        return self.layout.with_numbers(tuple(numbers))

    def column(self, position: int, start: int, stop: int) -> pa.ChunkedArray:
        """A column's rows as an Arrow array, also of numbers."""
        if position not in self._rows and (column := self._arrow_column(position)) is not None:
            has_all = start == 0 and stop == len(column)
            return column if has_all else column.slice(start, stop - start)
        chunks: list[pa.Array] = []
        at = start
        for run in self.between(position, start, stop):
            if at < run.start:
                chunks.append(pa.array(self.numbers(position, at, run.start)))
            chunks += run.rows(start, stop)
            at = run.stop
        if at < stop:
            chunks.append(pa.array(self.numbers(position, at, stop)))
        kind = chunks[0].type if chunks else self.layout.types[position]
        return pa.chunked_array(chunks, kind)

    def _arrow_column(self, position: int) -> pa.ChunkedArray | None:
        """All rows of a column that Arrow holds; None if its runs have gaps."""
        with self._lock:
            runs = self._runs[position]
            count, column = self._columns.get(position, (0, None))
            if count != len(runs):
                chunks = [chunk for run in runs for chunk in run.chunks]
                column = pa.chunked_array(chunks, chunks[0].type) if _have_no_gaps(runs) else None
                self._columns[position] = len(runs), column
            return column

    def numbers(self, position: int, start: int, stop: int) -> np.ndarray:
        """Rows of a column of numbers, as they are stored."""
        block, row = self._rows[position]
        return block[row, start:stop]

    def _array(self, position: int, start: int, stop: int) -> Any:
        kind, dtype = self.layout.types[position], self.layout.pandas_dtypes[position]
        if self._shared and dtype is np.dtype(object) and not pt.is_nested(kind):
            return self._constants(position, start, stop)
        values = self._converted(position, start, stop)
        return values.reshape(1, -1) if isinstance(values, np.ndarray) else values

    def _constants(self, position: int, start: int, stop: int) -> np.ndarray:
        """A view of immutable objects, such as dates, which are made once."""
        kept = self._objects.get(position)
        if kept is None or stop < kept.start or kept.stop < start:
            values = self._converted(position, start, stop)
            kept = _Objects(start, stop, values if values.base is None else values.copy())
        elif start < kept.start or kept.stop < stop:
            parts = [kept.cells]
            if start < kept.start:
                parts.insert(0, self._converted(position, start, kept.start))
            if kept.stop < stop:
                parts.append(self._converted(position, kept.stop, stop))
            low, high = min(start, kept.start), max(stop, kept.stop)
            kept = _Objects(low, high, np.concatenate(parts))
        kept.cells.flags.writeable = False
        self._objects[position] = kept
        return kept.cells[None, start - kept.start : stop - kept.start]

    def _converted(self, position: int, start: int, stop: int) -> Any:
        layout = self.layout
        return to_array(
            self.column(position, start, stop),
            layout.schema.field(position),
            layout.pandas_dtypes[position],
            layout.schema.metadata,
        )

    def between(self, position: int, start: int, stop: int) -> list[Run]:
        """The runs of a column that touch these rows."""
        if not self._runs.get(position):
            return []
        with self._lock:  # threads may be writing other rows
            runs = self._runs[position]
            low = bisect.bisect_right(runs, start, key=_start)
            low -= bool(low and runs[low - 1].stop > start)
            high = bisect.bisect_left(runs, stop, key=_start)
            return runs[low:high]


def _have_no_gaps(runs: Sequence[Run]) -> bool:
    """Whether runs follow each other without gaps from the first row on."""
    ends = [0, *(run.stop for run in runs)]
    return all(run.start == end for run, end in zip(runs, ends, strict=False))


def _start(run: Run) -> int:
    return run.start


class PandasRows(NamedTuple):
    """One file's rows as pandas read them."""

    schema: pa.Schema
    frame: pd.DataFrame
    why: str | None = None
    """Why feedrate could not decode the file, if its footer did not show the reason."""


class Place(NamedTuple):
    """Where a file's rows are."""

    segment: Segment
    start: int
    stop: int

    @property
    def schema(self) -> pa.Schema:
        """The requested columns of the file."""
        return self.segment.layout.schema


def spanned(files: Iterable[Place | PandasRows]) -> list[Place]:
    """For each segment, the range from the first to the last of the files' rows in it."""
    spans: dict[int, Place] = {}
    last: Segment | None = None
    low = high = 0
    for file in files:
        if not isinstance(file, Place):
            continue
        segment, start, stop = file
        if segment is not last:
            if last is not None:
                spans[id(last)] = Place(last, low, high)
            last = segment
            _, low, high = spans.get(id(segment), file)
        low = start if start < low else low  # noqa: FURB136 - a call for each costs more
        high = stop if stop > high else high  # noqa: FURB136 - the same
    if last is not None:
        spans[id(last)] = Place(last, low, high)
    return list(spans.values())


def merged(places: Iterable[Place]) -> list[Place]:
    """Places in the same order, with adjacent rows of a segment merged."""
    runs: list[Place] = []
    last: Segment | None = None
    low = high = 0
    for segment, start, stop in places:
        if segment is last and start == high:
            high = stop
            continue
        if last is not None:
            runs.append(Place(last, low, high))
        last, low, high = segment, start, stop
    if last is not None:
        runs.append(Place(last, low, high))
    return runs
