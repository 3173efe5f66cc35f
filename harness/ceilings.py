"""What nothing can beat on this machine: reading, decoding, copying and gathering, each alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq

from ..loaders.engine import import_polars
from ..loaders.machine import effective_cpus
from ..loaders.reader import read_table
from .pagecache import establish, read_through
from .statistics import median

ROUNDS = 5
SAMPLE_BYTES = 64 << 20  # of files that are read and decoded
COPY_BYTES = 64 << 20  # beyond any cache of one core
GATHER_ROWS = 200_000
GATHER_FEATURES = 32


class Ceiling(msgspec.Struct, frozen=True):
    """One limit: the median of a few rounds, with the lowest and the highest."""

    name: str
    unit: str
    """`B/s` or `rows/s`."""
    rate: float | None
    low: float | None = None
    high: float | None = None
    how: str = ""
    """How it was measured, or why it was not."""


def ceilings(paths: Sequence[str], columns: Sequence[str] | None = None) -> Iterator[Ceiling]:
    """Measure the limits that loading these files is up against, in a few seconds.

    Args:
        paths: Parquet files; as many from all over the list as make 64 MiB are used.
        columns: the columns to decode; None means all.
    """
    some = sample(paths)
    size = float(sum(Path(path).stat().st_size for path in some))
    rows = float(sum(pq.read_metadata(path).num_rows for path in some))
    yield _cold(some, size)
    establish("warm", some)
    yield _rate("page cache read", "B/s", size, lambda: read_through(some), "read(2), one thread")
    for threads in sorted({1, effective_cpus()}):
        yield _rate(
            f"decode, {threads} thread{'s' * (threads > 1)}",
            "rows/s",
            rows,
            lambda threads=threads: _decode(some, columns, threads),  # type: ignore[misc]
            "Arrow, without making a frame",
        )
    yield _by_polars(some, columns, rows)
    yield _copy()
    yield _gather()


def sample(paths: Sequence[str]) -> list[str]:
    """Files from all over the list, of about `SAMPLE_BYTES` together and at least one."""
    sizes = [Path(path).stat().st_size for path in paths]
    step = max(1, round(sum(sizes) / SAMPLE_BYTES))
    return list(paths[::step])


def _cold(paths: Sequence[str], size: float) -> Ceiling:
    rates = []
    for _ in range(ROUNDS):
        state = establish("cold", paths)
        if state.state != "cold":
            return Ceiling("storage read", "B/s", None, how=f"not measured: {state.reason}")
        rates.append(size / _seconds(lambda: read_through(paths)))
    return _of("storage read", "B/s", rates, "read(2), one thread, page cache empty and verified")


def _rate(name: str, unit: str, amount: float, do: Callable[[], object], how: str) -> Ceiling:
    do()  # a warm-up
    return _of(name, unit, [amount / _seconds(do) for _ in range(ROUNDS)], how)


def _of(name: str, unit: str, rates: list[float], how: str) -> Ceiling:
    return Ceiling(name, unit, median(rates), min(rates), max(rates), how)


def _seconds(do: Callable[[], object]) -> float:
    start = time.perf_counter()
    do()
    return time.perf_counter() - start


def _decode(paths: Sequence[str], columns: Sequence[str] | None, threads: int) -> None:
    def decode(path: str) -> None:
        read_table(path, columns)

    if threads == 1:
        for path in paths:
            decode(path)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(decode, paths))


def _by_polars(paths: Sequence[str], columns: Sequence[str] | None, rows: float) -> Ceiling:
    pl = import_polars()

    def decode() -> None:
        scan = pl.scan_parquet(list(paths), hive_partitioning=False, glob=False)
        (scan if columns is None else scan.select(list(columns))).collect()

    name, how = "decode, polars", "polars with all CPUs, without making a frame"
    try:
        return _rate(name, "rows/s", rows, decode, how)
    except (pl.exceptions.PolarsError, OSError) as error:  # files of several schemas, for one
        why = str(error).partition("\n")[0]
        return Ceiling(name, "rows/s", None, how=f"not measured, polars cannot: {why}")


def _copy() -> Ceiling:
    source, target = np.ones(COPY_BYTES, np.uint8), np.zeros(COPY_BYTES, np.uint8)
    how = f"numpy, one thread, {COPY_BYTES >> 20} MiB into memory that is used again"
    return _rate("memory copy", "B/s", COPY_BYTES, lambda: np.copyto(target, source), how)


def _gather() -> Ceiling:
    matrix = np.ones((GATHER_ROWS, GATHER_FEATURES), np.float32)
    order = np.random.default_rng(0).permutation(GATHER_ROWS)
    target = np.empty_like(matrix)
    how = f"numpy, one thread, rows of {GATHER_FEATURES} float32 in random order"
    return _rate(
        "gather",
        "rows/s",
        GATHER_ROWS,
        lambda: np.take(matrix, order, axis=0, out=target, mode="clip"),
        how,
    )
