"""Estimate the memory that a trial needs at least, before it is started."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import msgspec
import pyarrow.types as pt

from ...loaders.base.errors import ParquetFileError
from ...loaders.parquet.footers import Footers
from ...loaders.parquet.reader import open_parquet, reading
from ...loaders.parquet.wanted_ranges import wanted_ranges
from ...loaders.remote.ahead import map_paths
from ...loaders.remote.source import RemoteSource, open_source
from ...loaders.remote.urls import is_url
from ..plan.spec import Trial
from ..system.formats import format_bytes
from ..trial.alone import size_of
from ..trial.work import Data

SAMPLE_ROWS = 65_536  # of each sampled file
TRIED_UP_TO = 0.9  # of the estimate: files differ, so trials that might just fit are run
FLOAT_BYTES = 4


class Rows(msgspec.Struct, frozen=True):
    """Decoded rows and their size, estimated from the first, the middle and the last file."""

    count: float
    bytes: float
    """In Arrow's memory; pandas needs less only for repeated decimals and for nulls."""


def check_memory(data: Data, *, wanted: int | None, free: int) -> Callable[[Trial], str | None]:
    """Make a function that returns why a trial would exceed the memory, or None.

    The frame job holds the whole frame, and the batches job a frame and a matrix. A stream holds a
    few chunks, and is always run.

    Args:
        data: the files and columns.
        wanted: memory limit of settings in bytes, or None; it does not apply to the original,
            which is only a baseline.
        free: available bytes.
    """

    @cache
    def rows(files: int, job: str) -> Rows:
        columns = data.columns if job == "frame" else data.training.names
        return estimate_rows(data.first(files), columns)

    def exceeds(trial: Trial) -> str | None:
        limit = free if wanted is None or trial.backend == "original" else min(wanted, free)
        if trial.job == "stream":
            return None
        estimate = rows(trial.files, trial.job)
        need = estimate.bytes
        if trial.job == "batches":
            need += FLOAT_BYTES * estimate.count * len(data.training.names)
        if TRIED_UP_TO * need <= limit:
            return None
        return (
            f"not started: it would need about {format_bytes(need)} or more, beyond the limit of "
            f"{format_bytes(limit)}"
        )

    return exceeds


def rows_of(paths: Sequence[str]) -> int | None:
    """Return the number of rows by the files' footers; None if a footer cannot be read."""
    footers = Footers()
    try:
        return sum(map_paths(lambda path: footers.read(path).rows, paths, 0))
    except ParquetFileError:
        return None


def estimate_rows(paths: Sequence[str], columns: Sequence[str] | None) -> Rows:
    """Estimate the rows of all files and their bytes, from a sample of those that can be read."""
    sampled = sorted({0, len(paths) // 2, len(paths) - 1})
    rows = decoded_bytes = file_bytes = 0.0
    for path in (paths[position] for position in sampled):
        try:
            some_rows, some_bytes = _estimate_file(path, columns)
        except ParquetFileError:  # the trial reports it
            continue
        rows += some_rows
        decoded_bytes += some_bytes
        file_bytes += _file_bytes(path)
    scale = sum(map(_file_bytes, paths)) / file_bytes if file_bytes else 0.0
    return Rows(scale * rows, scale * decoded_bytes)


def _file_bytes(path: str) -> int:
    try:
        return size_of(path)
    except (OSError, ParquetFileError):  # it has been deleted
        return 0


def _estimate_file(path: str, columns: Sequence[str] | None) -> tuple[int, float]:
    """A file's rows and their decoded bytes; a dictionary counts once for all its rows."""
    with reading(path), open_parquet(path, _first_rows(path, columns)) as file:
        present = [name for name in file.schema_arrow.names if columns is None or name in columns]
        batches = file.iter_batches(SAMPLE_ROWS, columns=present, use_threads=False)
        first = next(batches, None)
        if first is None or not first.num_rows:
            return 0, 0.0
        rows = file.metadata.num_rows
        shared = sum(c.dictionary.nbytes for c in first.columns if pt.is_dictionary(c.type))
        return rows, shared + rows * (first.nbytes - shared) / first.num_rows


def _first_rows(path: str, columns: Sequence[str] | None) -> RemoteSource | None:
    """An object whose first rows were requested, neighbouring columns together; None for a file."""
    if not is_url(path):
        return None
    source = open_source(path)
    with open_parquet(path, source) as file:
        groups = range(min(1, file.metadata.num_row_groups))
        source.fetch(wanted_ranges(file.metadata, columns, groups))
    return source
