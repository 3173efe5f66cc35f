"""How much memory a trial needs at least, estimated before it is started."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import msgspec
import pyarrow.types as pt

from ...loaders.base.errors import ParquetFileError
from ...loaders.parquet.footers import Footers
from ...loaders.parquet.reader import open_parquet, reading
from ..plan.spec import Trial
from ..system.formats import format_bytes
from ..trial.work import Data

SAMPLE_ROWS = 65_536  # of each sampled file
TRIED_UP_TO = 0.9  # of the estimate: files differ, and trials that might just fit are run
FLOAT_BYTES = 4


class Rows(msgspec.Struct, frozen=True):
    """Decoded rows and their size, estimated from the first, the middle and the last file."""

    count: float
    bytes: float
    """As Arrow holds them; pandas needs less only for decimals that repeat, and for nulls."""


def check_memory(data: Data, *, wanted: int | None, free: int) -> Callable[[Trial], str | None]:
    """Make a function that returns why a trial would exceed the memory, or None.

    A frame is held in full, however it is loaded; rows in memory are held as a frame and as a
    matrix. A stream holds a few chunks, and is always run.

    Args:
        data: the files and columns.
        wanted: memory limit of settings in bytes, or None; the original is exempt, since nobody
            is going to choose it.
        free: available bytes.
    """

    @cache
    def rows(files: int, job: str) -> Rows:
        columns = data.columns if job == "frame" else data.training.names
        return estimate_rows(data.paths[:files], columns)

    def exceeds(trial: Trial) -> str | None:
        limit = free if wanted is None or trial.backend == "original" else min(wanted, free)
        if trial.job == "stream":
            return None
        found = rows(trial.files, trial.job)
        need = found.bytes
        if trial.job == "batches":
            need += FLOAT_BYTES * found.count * len(data.training.names)
        if TRIED_UP_TO * need <= limit:
            return None
        return (
            f"not started: it would need about {format_bytes(need)} or more, beyond the limit of "
            f"{format_bytes(limit)}"
        )

    return exceeds


def rows_of(paths: Sequence[str]) -> int | None:
    """The number of rows by the files' footers; None if a footer cannot be read."""
    footers = Footers()
    try:
        return sum(footers.read(path).rows for path in paths)
    except ParquetFileError:
        return None


def estimate_rows(paths: Sequence[str], columns: Sequence[str] | None) -> Rows:
    """Estimate the rows of all files and their bytes, from a sample of those that can be read."""
    picked = sorted({0, len(paths) // 2, len(paths) - 1})
    count = size = on_disk = 0.0
    for path in (paths[position] for position in picked):
        try:
            rows, file_bytes = _of_file(path, columns)
        except ParquetFileError:  # the trial reports it
            continue
        count += rows
        size += file_bytes
        on_disk += _size(path)
    scale = sum(map(_size, paths)) / on_disk if on_disk else 0.0
    return Rows(scale * count, scale * size)


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:  # it was deleted meanwhile
        return 0


def _of_file(path: str, columns: Sequence[str] | None) -> tuple[int, float]:
    """A file's rows and their bytes; a dictionary counts once, however many rows refer to it."""
    with reading(path), open_parquet(path) as file:
        present = [name for name in file.schema_arrow.names if columns is None or name in columns]
        batches = file.iter_batches(SAMPLE_ROWS, columns=present, use_threads=False)
        first = next(batches, None)
        if first is None or not first.num_rows:
            return 0, 0.0
        rows = file.metadata.num_rows
        kept = [one.dictionary.nbytes for one in first.columns if pt.is_dictionary(one.type)]
        return rows, sum(kept) + rows * (first.nbytes - sum(kept)) / first.num_rows
