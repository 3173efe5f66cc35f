"""The rows of many Parquet files as float32: in chunks while they are read, or by number."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .epochs import Order
from .matrix import Columns
from .schedule import ordered_map
from .settings import default_workers
from .spans import Arrays, SpanReader, find_spans, read_span

SPANS_KEPT = 4  # decoded spans that `take` keeps; an order that visits files in turn needs two


@dataclass(frozen=True)
class Piece:
    """One slice of a span."""

    reader: SpanReader
    number: int
    start: int
    """The number of its first row among the rows of all files."""
    rows: int


@dataclass(frozen=True)
class Chunk:
    """What is decoded in one go: pieces put together and, in a shuffled epoch, permuted."""

    number: int
    pieces: tuple[Piece, ...]

    @property
    def rows(self) -> int:
        """Rows of all pieces."""
        return sum(piece.rows for piece in self.pieces)

    def permutation(self, order: Order) -> np.ndarray | None:
        """How the rows are permuted, or None where they stay."""
        return order.permutation(self.rows, self.number + 1) if order.shuffle else None

    def indices(self, order: Order) -> np.ndarray:
        """The numbers of its rows in the order in which `read` gives them."""
        parts = [np.arange(piece.start, piece.start + piece.rows) for piece in self.pieces]
        return _permuted((np.concatenate(parts),), self.permutation(order))[0]

    def read(self, order: Order) -> Arrays:
        """Decode it."""
        parts = [piece.reader.read(piece.number) for piece in self.pieces]
        arrays = (
            parts[0] if len(parts) == 1 else tuple(map(np.concatenate, zip(*parts, strict=True)))
        )
        return _permuted(arrays, self.permutation(order))


class ParquetRows:
    """Rows of files that may be larger than memory.

    Args:
        paths: Parquet files; only their footers are read until rows are asked for.
        columns: features, target and what nulls become.
        chunk_rows: rows that are decoded in one go; a smaller file is a chunk of its own.

    Raises:
        ColumnError: a column that no file has, or that is not numeric in one of them.
        ParquetFileError: a file that cannot be read.
    """

    def __init__(self, paths: Sequence[str], columns: Columns, chunk_rows: int) -> None:
        self.columns = columns
        self.chunk_rows = chunk_rows
        self.spans = find_spans(paths, columns, chunk_rows)
        self._starts = np.cumsum([0, *(span.rows for span in self.spans)])
        self._recent = Recent(SPANS_KEPT)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def plan(self, order: Order) -> list[Chunk]:
        """The chunks of an epoch.

        Unshuffled, they follow the files. Shuffled, spans come in random order, `order.window`
        of them together in each chunk.
        """
        count = len(self.spans)
        visit = order.permutation(count) if order.shuffle else np.arange(count)
        window = order.window if order.shuffle else 1
        chunks: list[Chunk] = []
        for low in range(0, count, window):
            columns = [self._pieces(int(at)) for at in visit[low : low + window]]
            for number in range(max(map(len, columns))):
                pieces = tuple(pieces[number] for pieces in columns if number < len(pieces))
                chunks.append(Chunk(len(chunks), pieces))
        return chunks

    def chunks(
        self, order: Order, rows: range | None = None, num_workers: int = 0, prefetch: int = 0
    ) -> Iterator[Arrays]:
        """Decode an epoch's rows, a chunk at a time.

        Args:
            order: the epoch's order.
            rows: consecutive positions in that order; all by default. Only the chunks they lie
                in are decoded.
            num_workers: threads that decode; 0 works in the caller's.
            prefetch: chunks that are decoded ahead beyond those in work.

        Returns:
            X of shape (rows, features) and, with a target, y of shape (rows,), float32 in fresh
            memory. At most `num_workers + prefetch` chunks are under way.
        """

        def read(part: tuple[Chunk, slice]) -> Arrays:
            chunk, cut = part
            return tuple(array[cut] for array in chunk.read(order))

        parts = _overlapping(self.plan(order), range(len(self)) if rows is None else rows)
        for chunk, _ in parts:
            for piece in chunk.pieces:
                piece.reader.want(piece.number)
        return ordered_map(read, parts, num_workers, prefetch)

    def indices(self, order: Order) -> np.ndarray:
        """The row numbers of an epoch, in the order in which `chunks` gives the rows."""
        parts = [chunk.indices(order) for chunk in self.plan(order)]
        return np.concatenate(parts) if parts else np.arange(0)

    def take(self, indices: np.ndarray) -> Arrays:
        """Gather rows by number, decoding the spans they lie in unless they are kept.

        Rows in random order over many files decode every file again and again: take them in
        the order of `indices(order)`.
        """
        x = np.empty((len(indices), len(self.columns.features)), dtype=np.float32)
        out: Arrays = (x,)
        if self.columns.target is not None:
            out = (x, np.empty(len(indices), dtype=np.float32))
        span_of = np.searchsorted(self._starts, indices, side="right") - 1
        for at in np.unique(span_of):
            here = span_of == at
            for target, source in zip(out, self._decoded(int(at)), strict=True):
                target[here] = source[indices[here] - self._starts[at]]
        return out

    def read_all(self) -> Arrays:
        """Decode every row into one matrix, in threads that each fill their part of it."""
        x = np.empty((len(self), len(self.columns.features)), dtype=np.float32)
        out: Arrays = (x,)
        if self.columns.target is not None:
            out = (x, np.empty(len(self), dtype=np.float32))
        low = 0
        for arrays in self.chunks(Order(), num_workers=default_workers()):
            high = low + len(arrays[0])
            for target, source in zip(out, arrays, strict=True):
                target[low:high] = source
            low = high
        return out

    def _pieces(self, at: int) -> list[Piece]:
        reader = SpanReader(self.spans[at], self.columns, self.chunk_rows)
        starts = np.cumsum([self._starts[at], *reader.sizes])
        return [
            Piece(reader, number, int(start), rows)
            for number, (start, rows) in enumerate(zip(starts, reader.sizes, strict=False))
        ]

    def _decoded(self, at: int) -> Arrays:
        return self._recent.get(at, lambda: read_span(self.spans[at], self.columns))

    def __getstate__(self) -> dict[str, Any]:
        # Decoded spans and locks stay in this process; a copy elsewhere decodes its own.
        return {**self.__dict__, "_recent": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _recent=Recent(SPANS_KEPT))


class Recent:
    """The last few spans that were decoded."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Arrays] = OrderedDict()

    def get(self, key: int, make: Callable[[], Arrays]) -> Arrays:
        """The value of `key`, made by `make()` where it is not kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = make()
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
        return made


def _overlapping(chunks: Sequence[Chunk], rows: range) -> list[tuple[Chunk, slice]]:
    """The chunks in which the positions `rows` lie, and where in each."""
    found = []
    start = 0
    for chunk in chunks:
        cut = slice(max(0, rows.start - start), min(chunk.rows, rows.stop - start))
        if cut.start < cut.stop:
            found.append((chunk, cut))
        start += chunk.rows
    return found


def _permuted(arrays: Arrays, permutation: np.ndarray | None) -> Arrays:
    if permutation is None:
        return arrays
    return tuple(array.take(permutation, axis=0) for array in arrays)
