"""Segments: rows of many files of one layout, column by column, and the frames made of them.

Numbers lie in one array per dtype, of shape (columns, rows), so that a frame is a view of them;
other columns are kept as Arrow has them, in runs.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api.internals import (  # type: ignore[import-not-found]  # the stubs lack it
    create_dataframe_from_blocks,
)

from .layout import Layout
from .objects import to_array

Piece: TypeAlias = "np.ndarray | pa.Array | pa.ChunkedArray"
"""A column's rows: numbers of the layout's dtype, or what Arrow has."""


class MisfitError(Exception):
    """Decoded columns are not the rows that there is a place for."""


class Store(Protocol):
    """Where the numbers of a segment are: an array of shape (columns, rows) per dtype."""

    blocks: list[np.ndarray]

    def own(self, start: int, stop: int) -> list[np.ndarray]:
        """Rows of each block, in memory that belongs to the caller."""
        ...


class HeapStore:
    """Numbers in the process's own memory, given away where all rows are asked for.

    Args:
        layout: the columns.
        rows: how many rows there is room for.
    """

    def __init__(self, layout: Layout, rows: int) -> None:
        self.blocks = [
            np.empty((len(positions), rows), dtype) for dtype, positions in layout.numbers
        ]

    def own(self, start: int, stop: int) -> list[np.ndarray]:
        """The blocks themselves, or copies of a part of them."""
        if start == 0 and all(stop == block.shape[1] for block in self.blocks):
            return self.blocks
        return copies(self.blocks, start, stop)


def copies(blocks: Sequence[np.ndarray], start: int, stop: int) -> list[np.ndarray]:
    """Rows of each block, copied."""
    return [block[:, start:stop].copy() for block in blocks]


class Run(NamedTuple):
    """Rows `start` to `stop` of a column as Arrow has them."""

    start: int
    stop: int
    chunks: tuple[pa.Array, ...]

    def rows(self, start: int, stop: int) -> Sequence[pa.Array]:
        """The chunks of those of its rows that lie between two."""
        if start <= self.start and self.stop <= stop:
            return self.chunks
        low = max(start, self.start)
        part = pa.chunked_array(self.chunks).slice(low - self.start, min(stop, self.stop) - low)
        chunks: Sequence[pa.Array] = part.chunks
        return chunks


class Segment:
    """Rows that files of one layout have.

    Args:
        layout: the columns.
        store: the numbers.
        rows: how many rows there is room for.
    """

    def __init__(self, layout: Layout, store: Store, rows: int) -> None:
        self.layout = layout
        self.store = store
        self.rows = rows
        self.arrow_bytes = 0
        """Memory of the columns that Arrow holds."""
        self._runs: dict[int, list[Run]] = {position: [] for position in layout.others}
        self._rows = {
            position: (block, row)
            for (_, positions), block in zip(layout.numbers, store.blocks, strict=True)
            for row, position in enumerate(positions)
        }
        self._lock = threading.Lock()

    def write(self, start: int, stop: int, pieces: Iterable[Piece]) -> None:
        """Put rows at a place that nobody else writes to.

        Args:
            start: the first row.
            stop: the row after the last.
            pieces: the columns in the layout's order. A column of numbers may come as Arrow has
                it, where it holds nulls that its dtype cannot express.

        Raises:
            MisfitError: a column of other than `stop - start` rows, which is not written, or
                another number of columns. Other columns may have been written.
        """
        written = 0
        for position, piece in enumerate(pieces):
            if len(piece) != stop - start:
                raise MisfitError(f"{len(piece)} rows for {stop - start}")
            if position >= len(self.layout.schema):
                raise MisfitError(f"more columns than {len(self.layout.schema)}")
            if isinstance(piece, np.ndarray):
                self.numbers(position, start, stop)[:] = piece
            else:
                self.put(position, start, piece)
            written += 1
        if written != len(self.layout.schema):
            raise MisfitError(f"{written} columns of {len(self.layout.schema)}")

    def put(self, position: int, start: int, values: pa.Array | pa.ChunkedArray) -> None:
        """Put rows of one column, as Arrow has them, at a place that nobody else writes to."""
        if len(values):
            chunks = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
            run = Run(start, start + len(values), tuple(chunks))
            with self._lock:
                bisect.insort(self._runs.setdefault(position, []), run, key=_start)
                self.arrow_bytes += values.nbytes

    def discard(self, start: int, stop: int) -> None:
        """Forget what was put between two rows, which are about to be written again."""
        with self._lock:
            for position, runs in self._runs.items():
                gone = [run for run in runs if start <= run.start < stop]
                self.arrow_bytes -= sum(chunk.nbytes for run in gone for chunk in run.chunks)
                self._runs[position] = [run for run in runs if all(run is not one for one in gone)]

    def frame(self, start: int, stop: int) -> pd.DataFrame:
        """Rows as pandas would have them; the frame's memory belongs to the caller."""
        layout = self.layout
        blocks: list[tuple[Any, np.ndarray]] = []
        owned = self.store.own(start, stop)
        for (_, positions), block in zip(layout.numbers, owned, strict=True):
            whole = [row for row, at in enumerate(positions) if not self._between(at, start, stop)]
            if len(whole) == len(positions):
                blocks.append((block, np.array(positions)))
                continue
            blocks += [(block[row : row + 1], np.array([positions[row]])) for row in whole]
        placed = {int(at) for _, places in blocks for at in places}
        for position in range(len(layout.schema)):
            if position not in placed:
                blocks.append((self._array(position, start, stop), np.array([position])))
        frame: pd.DataFrame = create_dataframe_from_blocks(
            blocks, pd.RangeIndex(stop - start), layout.template.columns.copy()
        )
        frame.attrs = dict(layout.template.attrs)
        return frame

    def held_layout(self, start: int, stop: int) -> Layout:
        """The layout that these rows have: without the numbers that turned out to hold nulls."""
        whole = (at for at in self.layout.dtypes if not self._between(at, start, stop))
        return self.layout.with_numbers(tuple(whole))

    def column(self, position: int, start: int, stop: int) -> pa.ChunkedArray:
        """A column's rows as Arrow has them, numbers included."""
        chunks: list[pa.Array] = []
        at = start
        for run in self._between(position, start, stop):
            if at < run.start:
                chunks.append(pa.array(self.numbers(position, at, run.start)))
            chunks += run.rows(start, stop)
            at = run.stop
        if at < stop:
            chunks.append(pa.array(self.numbers(position, at, stop)))
        kind = chunks[0].type if chunks else self.layout.schema.types[position]
        return pa.chunked_array(chunks, kind)

    def numbers(self, position: int, start: int, stop: int) -> np.ndarray:
        """Rows of a column of numbers, as they are stored."""
        block, row = self._rows[position]
        return block[row, start:stop]

    def _array(self, position: int, start: int, stop: int) -> Any:
        layout = self.layout
        values = to_array(
            self.column(position, start, stop),
            layout.schema.field(position),
            layout.pandas_dtypes[position],
            layout.schema.metadata,
        )
        return values.reshape(1, -1) if isinstance(values, np.ndarray) else values

    def _between(self, position: int, start: int, stop: int) -> list[Run]:
        """The runs of a column that touch these rows."""
        if not self._runs.get(position):
            return []
        with self._lock:  # threads may be writing other rows
            runs = self._runs[position]
            low = bisect.bisect_right(runs, start, key=_start)
            low -= bool(low and runs[low - 1].stop > start)
            high = bisect.bisect_left(runs, stop, key=_start)
            return runs[low:high]


def _start(run: Run) -> int:
    return run.start


class Place(NamedTuple):
    """Where a file's rows are."""

    segment: Segment
    start: int
    stop: int

    @property
    def schema(self) -> pa.Schema:
        """The file's columns, those that are wanted."""
        return self.segment.layout.schema


def merged(places: Sequence[Place]) -> list[Place]:
    """Places in the same order, with neighbours in a segment made one."""
    runs: list[Place] = []
    for place in places:
        last = runs[-1] if runs else None
        if last is not None and last.segment is place.segment and last.stop == place.start:
            runs[-1] = Place(last.segment, last.start, place.stop)
        else:
            runs.append(place)
    return runs
