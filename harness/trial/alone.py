"""The parts of loading, each timed alone: reading, decoding, gathering, copying."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...loaders.base.schedule import ordered_map, split
from ...loaders.frames.engine import import_polars
from ...loaders.parquet.reader import open_parquet, read_table, reading
from ...loaders.remote.source import open_source
from ...loaders.remote.urls import is_url
from ..record.statistics import median
from ..system.pagecache import BLOCK_BYTES

SAMPLE_BYTES = 32 << 20  # of files that are read and decoded
MOST_BYTES = 8 * SAMPLE_BYTES  # limit if a single file is larger than a sample
COPY_BYTES = 64 << 20  # larger than any cache of one core
GATHER_BYTES = 64 << 20  # of a matrix, for the same reason
GROUPS_PER_THREAD = 4  # several, so that no thread is idle for long
FEWEST_ROUNDS, MOST_ROUNDS = 3, 7
LONG_ENOUGH_S = 0.1  # for all rounds together: short calls are repeated more often

Item = TypeVar("Item")
Range = tuple[int, int]
"""The first byte in a file, and the number of bytes."""


def sample(paths: Sequence[str]) -> list[str]:
    """Evenly spaced files of the list: about `SAMPLE_BYTES` in total, at least one."""
    step = max(1, round(total_bytes(paths) / SAMPLE_BYTES))
    return list(paths[::step])


def leading_files(paths: Sequence[str], size: int) -> list[str]:
    """The first files, until they have `size` bytes in total; all if they have fewer."""
    chosen: list[str] = []
    total = 0
    for path in paths:
        chosen.append(path)
        total += total_bytes([path])
        if total >= size:
            break
    return chosen


def total_bytes(paths: Iterable[str]) -> int:
    """The total size of files."""
    return sum(map(size_of, paths))


def size_of(path: str) -> int:
    """The size of a file, or of an object, as its listing gave it."""
    if not is_url(path):
        return Path(path).stat().st_size
    size: int | None = getattr(path, "size", None)
    return open_source(path).size if size is None else size


def seconds(do: Callable[[], object]) -> float:
    """The duration of a call."""
    start = time.perf_counter()
    do()
    return time.perf_counter() - start


def typical_seconds(do: Callable[[], object], before: Callable[[], object] | None = None) -> float:
    """The median duration of a few calls, each after an untimed call of `before`."""
    times: list[float] = []
    while len(times) < FEWEST_ROUNDS or (len(times) < MOST_ROUNDS and sum(times) < LONG_ENOUGH_S):
        if before is not None:
            before()
        times.append(seconds(do))
    return median(times)


def reader(
    paths: Sequence[str], columns: Sequence[str] | None, threads: int
) -> Callable[[], object]:
    """Return a function that reads the bytes of columns (None: all bytes) in `threads` threads."""
    files = [(path, _ranges(path, columns)) for path in paths]

    def read(part: Sequence[tuple[str, list[Range]]]) -> None:
        block = memoryview(bytearray(BLOCK_BYTES))
        for path, ranges in part:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                for start, size in ranges:
                    for low in range(start, start + size, BLOCK_BYTES):
                        os.preadv(descriptor, [block[: start + size - low]], low)
            finally:
                os.close(descriptor)

    return _in_threads(read, files, threads)


def _ranges(path: str, columns: Sequence[str] | None) -> list[Range]:
    """The byte ranges of columns in a file, and of the footer."""
    size = size_of(path)
    if columns is None:
        return [(0, size)]
    chosen = set(columns)
    with open_parquet(path) as file:
        footer = file.metadata
    ranges = [(size - footer.serialized_size, footer.serialized_size)]
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        for position in range(group.num_columns):
            chunk = group.column(position)
            name = chunk.path_in_schema
            if name in chosen or name.partition(".")[0] in chosen:
                start = chunk.dictionary_page_offset or chunk.data_page_offset
                ranges.append((start, chunk.total_compressed_size))
    return ranges


def bytes_of(paths: Sequence[str]) -> list[bytes]:
    """The contents of files."""
    return [Path(path).read_bytes() for path in paths]


def memory_decoders(
    files: Sequence[bytes], columns: Sequence[str] | None, threads: int
) -> list[Callable[[], object]]:
    """Return functions that decode files in memory, without making a frame.

    One uses Arrow, in `threads` threads. Two use polars: all files in one call, or some at a time
    in each of `threads` threads; they raise one of `polars_failures()` if polars cannot decode.
    """

    def by_arrow(part: Sequence[bytes]) -> None:
        for content in part:
            file = pq.ParquetFile(pa.BufferReader(content))
            file.read(columns=None if columns is None else list(columns), use_threads=False)

    def by_polars(part: Sequence[bytes]) -> None:
        _scan(part, columns, parallel="none")

    return [
        _in_threads(by_arrow, files, threads),
        partial(_scan, files, columns),
        _in_threads(by_polars, files, threads),
    ]


def arrow_decoder(
    paths: Sequence[str], columns: Sequence[str] | None, threads: int
) -> Callable[[], object]:
    """Return a function that reads and decodes files with Arrow in `threads` threads: no frame."""

    def decode(part: Sequence[str]) -> None:
        for path in part:
            read_table(path, columns)

    return _in_threads(decode, paths, threads)


def polars_decoder(paths: Sequence[str], columns: Sequence[str] | None) -> Callable[[], object]:
    """Return a function that reads and decodes files with polars, on all CPUs.

    It makes no pandas frame. It raises one of `polars_failures()` if polars cannot decode the
    files, for example because their schemas differ.
    """
    return partial(_scan, paths, columns)


def _scan(
    sources: Sequence[str] | Sequence[bytes],
    columns: Sequence[str] | None,
    parallel: Any = "auto",
) -> None:
    scan = import_polars().scan_parquet(
        list(sources), hive_partitioning=False, glob=False, use_statistics=False, parallel=parallel
    )
    (scan if columns is None else scan.select(list(columns))).collect()


def gatherer(rows: int, features: int, threads: int) -> Callable[[], object]:
    """Return a function that gathers shuffled float32 rows in `threads` threads, reusing memory."""
    matrix = np.ones((rows, features), np.float32)
    order = np.random.default_rng(0).permutation(rows)
    target = np.empty_like(matrix)

    def gather(part: Sequence[int]) -> None:
        low, high = part[0], part[-1] + 1
        np.take(matrix, order[low:high], axis=0, out=target[low:high], mode="clip")

    return _in_threads(gather, range(rows), threads)


def gather_rows(rows: int, features: int) -> int:
    """The number of rows, at most `rows`, that make a matrix larger than any cache."""
    return max(1, min(rows, GATHER_BYTES // (4 * max(1, features))))


def copier(threads: int) -> Callable[[], object]:
    """Return a function that copies `COPY_BYTES` in `threads` threads into reused memory."""
    source, target = np.ones(COPY_BYTES, np.uint8), np.zeros(COPY_BYTES, np.uint8)

    def copy(part: Sequence[int]) -> None:
        low, high = part[0], part[-1] + 1
        np.copyto(target[low:high], source[low:high])

    return _in_threads(copy, range(COPY_BYTES), threads)


def _in_threads(
    work: Callable[[Sequence[Item]], None], items: Sequence[Item], threads: int
) -> Callable[[], object]:
    """Return a function that runs `work` on groups of the items in `threads` threads."""
    groups = split(items, GROUPS_PER_THREAD * threads) if threads > 1 else [items]
    workers = threads if threads > 1 else 0
    return lambda: list(ordered_map(work, groups, workers, len(groups)))


def rows_of(paths: Sequence[str]) -> int:
    """The number of rows of files, from their footers.

    Raises:
        ParquetFileError: one of them cannot be read.
    """
    rows = 0
    for path in paths:
        with reading(path), open_parquet(path) as file:
            rows += file.metadata.num_rows
    return rows
