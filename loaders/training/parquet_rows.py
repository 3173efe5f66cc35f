"""The rows of many Parquet files as floats: in chunks while they are read, or by number."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from ..base.schedule import ordered_map
from ..base.settings import REQUESTS, default_workers
from ..base.stages import stage
from ..parquet.filters import RowFilter
from ..remote.options import adopt, public_options
from ..remote.urls import is_url
from .epochs import Order, Positions
from .matrix import Columns
from .spans import SMALL_ROWS, Arrays, SpanReader, find_spans, pooled, read_span, to_arrays
from .spans_ahead import SpansAhead

Cut = slice | np.ndarray
"""Which rows of a chunk."""
SPANS_KEPT = 4  # decoded spans that `take` keeps; taking rows file by file needs two


@dataclass(frozen=True)
class SpanPiece:
    """One slice of a span."""

    reader: SpanReader
    number: int
    start: int
    """The number of its first row among the rows of all files."""
    rows: int
    ahead: SpansAhead | None = None
    """Requests the objects of an epoch."""

    def read(self) -> pa.Table:
        """Decode it.

        Raises:
            ParquetFileError: the file cannot be read, or was replaced.
        """
        if self.ahead is None:
            return self.reader.read(self.number)
        return self.reader.read(self.number, self.ahead.take(self.reader.span))


@dataclass(frozen=True)
class Block:
    """Pieces whose rows are permuted together in a shuffled epoch."""

    number: int
    pieces: tuple[SpanPiece, ...]

    @property
    def rows(self) -> int:
        """Rows of all pieces."""
        return sum(piece.rows for piece in self.pieces)


@dataclass(frozen=True)
class Chunk:
    """The rows to decode at once: a block, or several small ones."""

    blocks: tuple[Block, ...]

    @property
    def rows(self) -> int:
        """Rows of all blocks."""
        return sum(block.rows for block in self.blocks)

    @property
    def pieces(self) -> list[SpanPiece]:
        """The pieces of all blocks."""
        return [piece for block in self.blocks for piece in block.pieces]

    def with_requests(self, ahead: SpansAhead) -> Chunk:
        """The same chunk, whose objects are requested ahead."""
        blocks = (
            Block(block.number, tuple(replace(piece, ahead=ahead) for piece in block.pieces))
            for block in self.blocks
        )
        return Chunk(tuple(blocks))

    def indices(self, order: Order) -> np.ndarray:
        """The numbers of its rows in the order in which `read` returns them."""
        pieces = [np.arange(piece.start, piece.start + piece.rows) for piece in self.pieces]
        rows = np.concatenate(pieces)
        return rows[self._permutation(order)] if order.shuffle else rows

    def read(self, order: Order) -> Arrays:
        """Decode the chunk's rows, mixed if the order is shuffled."""
        with stage("part"):
            pieces = self.pieces
            tables = [piece.read() for piece in pieces]
            arrays = to_arrays(tables, pieces[0].reader.columns)
            if not order.shuffle:
                return arrays
            with stage("gather"):
                permutation = self._permutation(order)
                return tuple(_gathered(array, permutation) for array in arrays)

    def _permutation(self, order: Order) -> np.ndarray:
        """A permutation that mixes the rows of each block."""
        if len(self.blocks) == 1:  # adding 0 and copying would take half as long again
            return order.permutation(self.rows, self.blocks[0].number + 1)
        lows = np.cumsum([0, *(block.rows for block in self.blocks)])
        return np.concatenate(
            [
                low + order.permutation(block.rows, block.number + 1)
                for low, block in zip(lows, self.blocks, strict=False)
            ]
        )


def _gathered(array: np.ndarray, indices: np.ndarray) -> np.ndarray:
    out = pooled(array.shape, array.dtype)
    # The indices are in range; letting numpy check them costs a copy of `out`.
    return np.take(array, indices, axis=0, out=out, mode="clip")


class ParquetRows:
    """Rows of files that may be larger than memory.

    Args:
        paths: Parquet files; only their footers are read until rows are requested.
        columns: features, target and the value for nulls.
        chunk_rows: rows to decode at once; a smaller file is one span.
        row_filter: which rows to keep; all by default.
        requests: requests in flight for objects.

    Raises:
        ColumnError: a column that no file has, that is not numeric in one of them, or a date in
            one and a timestamp in another.
        ParquetFileError: a file that cannot be read.
    """

    def __init__(
        self,
        paths: Sequence[str],
        columns: Columns,
        chunk_rows: int,
        row_filter: RowFilter | None = None,
        requests: int = REQUESTS,
    ) -> None:
        self.columns = columns
        self.chunk_rows = chunk_rows
        self.requests = requests
        with stage("plan"):
            self.spans = find_spans(paths, columns, chunk_rows, row_filter, requests)
        self._has_objects = any(map(is_url, paths))
        self._starts = np.cumsum([0, *(span.rows for span in self.spans)])
        self._recent = Recent(SPANS_KEPT)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def plan(self, order: Order) -> list[Chunk]:
        """The chunks of an epoch.

        Unshuffled, chunks follow the files. Shuffled, spans (files, or row groups of large files)
        come in random order; each block holds `order.window` of them and mixes their rows
        uniformly. So the mean distance between two rows of a span is a third of a block; after a
        uniform shuffle of all n rows it is n/3. With spans of equal size the window reaches
        `window / len(spans)` of the uniform shuffle's mean displacement, and each chunk needs the
        memory of `window` spans.
        """
        chunks: list[Chunk] = []
        small: list[Block] = []
        rows = 0
        for block in self._blocks(order):
            if small and rows + block.rows > min(SMALL_ROWS, self.chunk_rows):
                chunks.append(Chunk(tuple(small)))
                small, rows = [], 0
            small.append(block)
            rows += block.rows
        return [*chunks, Chunk(tuple(small))] if small else chunks

    def chunks(
        self, order: Order, rows: Positions | None = None, num_workers: int = 0, prefetch: int = 0
    ) -> Iterator[Arrays]:
        """Decode an epoch's rows in chunks.

        Args:
            order: the epoch's order.
            rows: positions in that order, of steps of 1; all by default. Only the chunks that
                contain them are decoded.
            num_workers: threads that decode; 0 uses the caller's thread.
            prefetch: chunks to decode ahead, in addition to those in progress.

        Returns:
            X of shape (rows, features) and, with a target, y, of the columns' dtype and in fresh
            memory. At most `num_workers + prefetch` chunks are in progress or ready.
        """

        def read(part: tuple[Chunk, Cut]) -> Arrays:
            chunk, cut = part
            return tuple(array[cut] for array in chunk.read(order))

        parts = self.parts(order, (range(len(self)),) if rows is None else rows)
        return ordered_map(read, parts, num_workers, prefetch)

    def parts(self, order: Order, rows: Positions) -> list[tuple[Chunk, Cut]]:
        """The chunks that hold `rows` of an epoch, with their rows; announces their pieces."""
        with stage("plan"):
            parts = [
                (chunk, _as_cut(start, ranges))
                for chunk, start, ranges in overlapping(self.plan(order), rows)
            ]
            for chunk, _ in parts:
                for piece in chunk.pieces:
                    piece.reader.want(piece.number)
        return self._with_requests(parts) if self._has_objects else parts

    def _with_requests(self, parts: Sequence[tuple[Chunk, Cut]]) -> list[tuple[Chunk, Cut]]:
        """The same chunks, whose objects are requested ahead."""
        spans = (piece.reader.span for chunk, _ in parts for piece in chunk.pieces)
        ahead = SpansAhead(spans, self.requests)
        return [(chunk.with_requests(ahead), cut) for chunk, cut in parts]

    def indices(self, order: Order) -> np.ndarray:
        """The row numbers of an epoch, in the order in which `chunks` returns the rows."""
        parts = [chunk.indices(order) for chunk in self.plan(order)]
        return np.concatenate(parts) if parts else np.arange(0)

    def take(self, indices: np.ndarray) -> Arrays:
        """Gather rows by number; decode the spans that contain them unless these are kept.

        Random order over many files decodes every file again and again: use the order of
        `indices(order)`.
        """
        out = self.columns.empty(len(indices))
        span_of = np.searchsorted(self._starts, indices, side="right") - 1
        for at in np.unique(span_of):
            in_span = span_of == at
            for target, source in zip(out, self._decoded(int(at)), strict=True):
                target[in_span] = source[indices[in_span] - self._starts[at]]
        return out

    def read_all(self) -> Arrays:
        """Decode all rows in threads; the caller's thread copies them into one array."""
        out = self.columns.empty(len(self))
        low = 0
        for arrays in self.chunks(Order(), num_workers=default_workers()):
            high = low + len(arrays[0])
            for target, source in zip(out, arrays, strict=True):
                target[low:high] = source
            low = high
        return out

    def _blocks(self, order: Order) -> Iterator[Block]:
        count = len(self.spans)
        span_order = order.permutation(count) if order.shuffle else np.arange(count)
        window = order.window if order.shuffle else 1
        numbers = itertools.count()
        for low in range(0, count, window):
            window_pieces = [self._pieces(int(at)) for at in span_order[low : low + window]]
            for pieces in itertools.zip_longest(*window_pieces):
                yield Block(next(numbers), tuple(piece for piece in pieces if piece is not None))

    def _pieces(self, at: int) -> list[SpanPiece]:
        reader = SpanReader(self.spans[at], self.columns, self.chunk_rows)
        starts = np.cumsum([self._starts[at], *reader.sizes])
        return [
            SpanPiece(reader, number, int(start), rows)
            for number, (start, rows) in enumerate(zip(starts, reader.sizes, strict=False))
        ]

    def _decoded(self, at: int) -> Arrays:
        return self._recent.get(at, lambda: self._decode(at))

    def _decode(self, at: int) -> Arrays:
        return to_arrays([read_span(self.spans[at])], self.columns)

    def __getstate__(self) -> dict[str, Any]:
        # Decoded spans and locks stay in this process; a copy decodes its own.
        urls = [span.path for span in self.spans if is_url(span.path)] if self._has_objects else []
        return {**self.__dict__, "_recent": None, "_options": public_options(urls)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        adopt(state.pop("_options"))
        self.__dict__.update(state, _recent=Recent(SPANS_KEPT))


class Recent:
    """The latest decoded spans."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Arrays] = OrderedDict()

    def get(self, key: int, make: Callable[[], Arrays]) -> Arrays:
        """The value of `key`, made by `make()` if it is not kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        arrays = make()
        with self._lock:
            self._kept[key] = arrays
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
        return arrays


def overlapping(
    chunks: Sequence[Chunk], rows: Positions
) -> Iterator[tuple[Chunk, int, list[range]]]:
    """The chunks that contain positions, each with its first position and those it contains."""
    start = 0
    for chunk in chunks:
        end = start + chunk.rows
        shared = [range(max(start, part.start), min(end, part.stop)) for part in rows]
        if ranges := [part for part in shared if part]:
            yield chunk, start, ranges
        start = end


def _as_cut(start: int, ranges: Sequence[range]) -> Cut:
    """Which rows of a chunk positions are; a slice, which copies nothing, where that is enough."""
    slices = [slice(part.start - start, part.stop - start) for part in ranges]
    return slices[0] if len(slices) == 1 else np.r_[tuple(slices)]
