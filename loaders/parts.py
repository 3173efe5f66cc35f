"""Parts of a load: what one worker does at a time, and which files' rows came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pandas as pd
import pyarrow as pa
import pyarrow.types as pt

from .convert import read_loose
from .engine import (
    CannotDecodeError,
    ReplacedError,
    are_long,
    decode_with_arrow,
    decode_with_polars,
)
from .errors import ParquetFileError
from .filters import RowFilter
from .footers import FileSchema, Footer
from .layout import wanted
from .original import read_file
from .reader import reading
from .schedule import split
from .segments import Loose, MisfitError, Piece, Place
from .settings import DtypeBackend
from .stages import stage

# Several files a call, since a call costs more than opening a file; several calls a worker, so
# that no worker is left with nothing while another still has a long part, and only some of the
# rows are in memory twice. With two workers 365 small files took 104, 113, 123 and 133 ms in 4, 8,
# 12 and 16 parts; in 8, 10, 12 and 16 the peak of memory was 1.50, 1.47, 1.44 and 1.40 times the
# result.
PARTS_PER_WORKER = 5
# polars divides a part among threads of its own, so few bytes are one part: 31 files of 11 KB took
# 5.0, 6.3 and 9.7 ms in 1, 2 and 8 parts, 100 of them 13, 16 and 18 ms, 365 of them 53, 49 and 57.
POLARS_PART_BYTES = 3 << 19  # of files, at least
PART_BYTES = 32 << 20  # of files, so that memory is bounded by the part and not by the dataset

Outcome = Place | Loose | ParquetFileError
Unreadable = Callable[[ParquetFileError], ParquetFileError]
"""Gives back the error of a file that is to be left out, or raises it."""


class Part(Protocol):
    """Some files to decode."""

    def read(self, unreadable: Unreadable) -> dict[str, Outcome]:
        """What became of each file, by path."""
        ...


@dataclass(frozen=True)
class LoosePart:
    """A file that pandas has to read."""

    path: str
    columns: Sequence[str] | None
    dtype_backend: DtypeBackend = "numpy"
    why: str | None = None
    """Why it is not decoded after all, where its footer did not tell that beforehand."""

    def read(self, unreadable: Unreadable) -> dict[str, Outcome]:
        """The file's frame."""
        try:
            found = read_loose(self.path, self.columns, self.dtype_backend)
            return {self.path: found._replace(why=self.why)}
        except ParquetFileError as error:
            return {self.path: unreadable(error)}


@dataclass(frozen=True)
class FilteredPart:
    """A file of which some rows are wanted, that pandas reads where statistics allow any."""

    path: str
    schema: FileSchema
    columns: Sequence[str] | None
    dtype_backend: DtypeBackend
    row_filter: RowFilter
    empty: dict[int, pd.DataFrame] | None
    """What pandas makes of files without such rows, by the identity of their schema; None where
    it reads each file itself. Shared by all parts of a load."""

    def read(self, unreadable: Unreadable) -> dict[str, Outcome]:
        """The frame of the rows."""
        try:
            with reading(self.path):
                left_out = self.empty is not None and not self.row_filter.may_have_rows(self.path)
            frame = self._frame(left_out=left_out)
            return {self.path: Loose(wanted(self.schema.arrow, self.columns), frame)}
        except ParquetFileError as error:
            return {self.path: unreadable(error)}

    def _frame(self, *, left_out: bool) -> pd.DataFrame:
        known = self.empty.get(id(self.schema)) if self.empty is not None and left_out else None
        if known is not None:
            return known
        frame = read_file(self.path, self.columns, self.dtype_backend, self.row_filter)
        # Of categories each file has its own, also without rows.
        has_categories = any(map(pt.is_dictionary, self.schema.arrow.types))
        if self.empty is not None and not len(frame) and not has_categories:
            self.empty[id(self.schema)] = frame
        return frame


@dataclass(frozen=True)
class SegmentPart:
    """Files of one layout, whose rows get a place in a segment."""

    files: Sequence[Footer]
    place: Place
    polars: bool
    columns: Sequence[str] | None
    dtype_backend: DtypeBackend

    def read(self, unreadable: Unreadable) -> dict[str, Outcome]:
        """Each file's place; where polars fails Arrow tries, and says which file is at fault."""
        segment, start, stop = self.place
        if self.polars:
            try:
                _write(self.place, decode_with_polars(self.files, segment.layout))
                return dict(self._places())
            except (CannotDecodeError, MisfitError, ParquetFileError):
                segment.discard(start, stop)
                return self._read_one_by_one(unreadable)
        try:
            for files, place in self._at_once():
                _write(place, decode_with_arrow(files, segment.layout))
        except (MisfitError, ParquetFileError, pa.ArrowException):
            segment.discard(start, stop)
            return self._read_one_by_one(unreadable)
        return dict(self._places())

    def _read_one_by_one(self, unreadable: Unreadable) -> dict[str, Outcome]:
        outcomes: dict[str, Outcome] = {}
        for file, (path, place) in zip(self.files, self._places(), strict=True):
            segment = place.segment
            try:
                with reading(path):
                    _write(place, decode_with_arrow([file], segment.layout))
                outcomes[path] = place
            except (MisfitError, ReplacedError) as error:
                # Its rows have no place here; pandas reads the file as it is now.
                segment.discard(place.start, place.stop)
                why = error.reason if isinstance(error, ReplacedError) else str(error)
                loose = LoosePart(path, self.columns, self.dtype_backend, why)
                outcomes.update(loose.read(unreadable))
            except ParquetFileError as error:
                segment.discard(place.start, place.stop)
                outcomes[path] = unreadable(error)
        return outcomes

    def _at_once(self) -> Iterator[tuple[Sequence[Footer], Place]]:
        """Files to decode together, and the place of their rows: long ones go one by one.

        Arrow then decodes each into the memory of the one before.
        """
        if not are_long(self.files):
            yield self.files, self.place
            return
        for file, (_, place) in zip(self.files, self._places(), strict=True):
            yield [file], place

    def _places(self) -> Iterator[tuple[str, Place]]:
        start = self.place.start
        for file in self.files:
            yield file.path, Place(self.place.segment, start, start + file.rows)
            start += file.rows


def _write(place: Place, pieces: Iterable[Piece]) -> None:
    with stage("convert"):  # a piece is converted when it is its turn
        place.segment.write(place.start, place.stop, pieces)


def segment_parts(
    files: Sequence[Footer],
    place: Place,
    workers: int,
    *,
    polars: bool,
    columns: Sequence[str] | None = None,
    dtype_backend: DtypeBackend = "numpy",
) -> Iterator[SegmentPart]:
    """Parts of nearly equal numbers of files.

    Args:
        files: files of the layout of the place's segment.
        place: room for the rows of all of them.
        workers: how many decode at a time.
        polars: whether polars may decode.
        columns: the columns wanted, for a file that turns out to be another one.
        dtype_backend: what pandas makes of such a file.
    """
    size = sum(file.size for file in files)
    count = PARTS_PER_WORKER * max(1, workers)
    if polars:
        count = min(count, max(1, size // POLARS_PART_BYTES))
    count = max(count, size // PART_BYTES)
    start = place.start
    for part in split(files, count):
        stop = start + sum(file.rows for file in part)
        here = Place(place.segment, start, stop)
        yield SegmentPart(part, here, polars, columns, dtype_backend)
        start = stop
