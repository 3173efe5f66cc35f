"""Parts of a load: files that a worker decodes together, and the outcome of each file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import pandas as pd
import pyarrow as pa
import pyarrow.types as pt

from ..base.errors import ParquetFileError
from ..base.settings import DtypeBackend
from ..caching.segments import MakePiece, MisfitError, PandasRows, Place, Segment
from ..parquet.filters import RowFilter
from ..parquet.footers import Content, FileSchema, Footer
from ..parquet.layout import Layout, wanted
from ..parquet.original import read_file
from ..parquet.reader import reading
from ..parquet.sources import ReplacedError
from ..remote.requests import ChangedError
from .convert import read_loose
from .engine import are_long, decode_with_arrow, decode_with_polars
from .pieces import CannotDecodeError

# Several parts per worker, so that no worker is idle while another still has a long part, and only
# some of the rows are in memory twice: with two workers, peak memory was 1.50, 1.47, 1.44 and 1.40
# times a result of 51 MB in 8, 10, 12 and 16 parts.
PARTS_PER_WORKER = 5
PART_BYTES = 32 << 20  # of files, so that the part bounds memory and not the dataset
# polars divides a part among its own threads, and a call takes 1 to 2 ms. So a part should take
# polars this long, unless it has many rows. Small files take polars a fixed time per file and per
# column chunk: 400 files take 11 ms without columns, and 2 ms for each of 14 columns.
POLARS_PART_S = 12e-3
POLARS_FILE_S, POLARS_CHUNK_S = 28e-6, 5e-6
POLARS_PART_ROWS_BYTES = 4 << 20  # of decoded rows
VIEW_BYTES = 16  # per value that is not a number: a view of data elsewhere

Outcome = Place | PandasRows | ParquetFileError
Unreadable = Callable[[ParquetFileError], ParquetFileError]
"""Returns a file's error to leave the file out, else raises the error."""


class Part(Protocol):
    """Some files to decode."""

    def read(self, unreadable: Unreadable) -> dict[str, Outcome]:
        """The outcome of each file, by path."""
        ...


@dataclass(frozen=True)
class PandasPart:
    """A file that pandas has to read."""

    path: str
    columns: Sequence[str] | None
    dtype_backend: DtypeBackend = "numpy"
    why: str | None = None
    """Why it could not be decoded, if its footer did not show the reason beforehand."""
    content: Content | None = None
    """The bytes of a file, if they are held or will be requested."""

    def read(self, unreadable: Unreadable) -> dict[str, Outcome]:
        """The file's frame."""
        try:
            held = None if self.content is None else self.content.take()
            rows = read_loose(self.path, self.columns, self.dtype_backend, held)
            return {self.path: rows._replace(why=self.why)}
        except ParquetFileError as error:
            return {self.path: unreadable(error)}


@dataclass(frozen=True)
class FilteredPart:
    """A file with a row filter; pandas reads it unless its statistics rule out wanted rows."""

    path: str
    schema: FileSchema
    columns: Sequence[str] | None
    dtype_backend: DtypeBackend
    row_filter: RowFilter
    empty: dict[int, pd.DataFrame] | None
    """pandas' frames of files without wanted rows, by the `id` of their schema; None to read every
    file. All parts of a load share it."""

    def read(self, unreadable: Unreadable) -> dict[str, Outcome]:
        """The frame of the wanted rows."""
        try:
            with reading(self.path):
                left_out = self.empty is not None and not self.row_filter.may_have_rows(self.path)
            frame = self._frame(left_out=left_out)
            return {self.path: PandasRows(wanted(self.schema.arrow, self.columns), frame)}
        except ParquetFileError as error:
            return {self.path: unreadable(error)}

    def _frame(self, *, left_out: bool) -> pd.DataFrame:
        known = self.empty.get(id(self.schema)) if self.empty is not None and left_out else None
        if known is not None:
            return known
        frame = read_file(self.path, self.columns, self.dtype_backend, self.row_filter)
        # Each file has its own categories, even without rows: do not reuse its frame.
        has_categories = any(map(pt.is_dictionary, self.schema.arrow.types))
        if self.empty is not None and not len(frame) and not has_categories:
            self.empty[id(self.schema)] = frame
        return frame


@dataclass(frozen=True)
class SegmentPart:
    """Files of one layout, whose rows get a place in a segment."""

    files: Sequence[Footer]
    layout: Layout
    room: Future[Segment]
    """The segment, which may not exist yet."""
    start: int
    """Their first row in the segment."""
    polars: bool
    columns: Sequence[str] | None
    dtype_backend: DtypeBackend
    threads: int = 1
    """Threads that convert columns: more than one only if the load has no other part."""

    def read(self, unreadable: Unreadable) -> dict[str, Outcome]:
        """Each file's place; if decoding fails, Arrow decodes file by file to find the cause."""
        if self.polars:
            try:
                self._write(self.files, self.start, decode_with_polars(self.files, self.layout))
                return dict(self._places())
            except (CannotDecodeError, MisfitError, ParquetFileError):
                pass  # continue below: within the block, the error keeps decoded data in memory
            return self._read_one_by_one(unreadable)
        try:
            for files, start in self._groups():
                self._write(files, start, decode_with_arrow(files, self.layout))
            return dict(self._places())
        except (MisfitError, ParquetFileError, pa.ArrowException):
            pass
        return self._read_one_by_one(unreadable)

    def _read_one_by_one(self, unreadable: Unreadable) -> dict[str, Outcome]:
        outcomes: dict[str, Outcome] = {}
        segment = self.room.result()
        segment.discard(self.start, self.start + sum(file.rows for file in self.files))
        for file, (path, place) in zip(self.files, self._places(), strict=True):
            try:
                with reading(path):
                    self._write([file], place.start, decode_with_arrow([file], self.layout))
                outcomes[path] = place
            except (MisfitError, ReplacedError, ChangedError) as error:
                # Its rows have no place here; pandas reads the file as it is now.
                segment.discard(place.start, place.stop)
                why = str(error) if isinstance(error, MisfitError) else error.reason
                loose = PandasPart(path, self.columns, self.dtype_backend, why)
                outcomes.update(loose.read(unreadable))
            except ParquetFileError as error:
                segment.discard(place.start, place.stop)
                outcomes[path] = unreadable(error)
        return outcomes

    def _groups(self) -> Iterator[tuple[Sequence[Footer], int]]:
        """Yield files to decode together, and their first row; long files go one by one.

        Arrow then decodes each long file into the memory of the previous one.
        """
        if not are_long(self.files):
            yield self.files, self.start
            return
        start = self.start
        for file in self.files:
            yield [file], start
            start += file.rows

    def _write(self, files: Sequence[Footer], start: int, pieces: Sequence[MakePiece]) -> None:
        segment = self.room.result()  # the rows are decoded by now
        rows = sum(file.rows for file in files)
        segment.write(start, start + rows, pieces, self.threads)

    def _places(self) -> Iterator[tuple[str, Place]]:
        segment, start = self.room.result(), self.start
        for file in self.files:
            yield file.path, Place(segment, start, start + file.rows)
            start += file.rows


def part_count(
    files: float, layout: Layout, rows: float, size: float, workers: int, *, polars: bool
) -> int:
    """The number of parts to decode files in.

    Args:
        files: number of files.
        layout: their layout.
        rows: rows of all files.
        size: bytes of all files.
        workers: number of workers that decode in parallel.
        polars: whether polars decodes them.
    """
    count: float = PARTS_PER_WORKER * max(1, workers)
    if polars:
        duration_s = files * (POLARS_FILE_S + len(layout.names) * POLARS_CHUNK_S)
        row_bytes = layout.row_bytes + VIEW_BYTES * len(layout.others)
        decoded_bytes = max(size, rows * row_bytes)  # text may be long
        count = min(count, max(duration_s / POLARS_PART_S, decoded_bytes / POLARS_PART_ROWS_BYTES))
    return int(max(1, count, size / PART_BYTES))
