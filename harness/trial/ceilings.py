"""The limits of this machine: reading, decoding, copying and gathering, each measured alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from ...loaders.base.machine import effective_cpus, fingerprint, is_installed
from ...loaders.base.settings import REQUESTS
from ...loaders.frames.engine import polars_failures
from ...loaders.remote.urls import is_url
from ..record.statistics import median
from ..system.pagecache import establish, read_through
from ..system.scratch import scratch
from ..system.units import counted, without_hints
from . import alone
from .gpu import measure_h2d
from .objects_alone import copied

ROUNDS = 5
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
    """Measure the limits for loading these files, in a few seconds.

    Args:
        paths: Parquet files; evenly spaced ones of about 32 MiB in total are used. Objects are
            copied to disk first, so that only the limits of this machine are measured.
        columns: the columns to decode; None means all.
    """
    sample = alone.sample(paths)
    if any(map(is_url, sample)):
        with scratch() as folder:
            yield from _of_this_machine(copied(sample, folder, REQUESTS), columns)
        return
    size = float(alone.total_bytes(sample))
    yield _storage_read(sample, size)
    establish("warm", sample)
    yield _rate("page cache read", "B/s", size, lambda: read_through(sample), "read(2), one thread")
    yield from _of_this_machine(sample, columns)


def _of_this_machine(sample: Sequence[str], columns: Sequence[str] | None) -> Iterator[Ceiling]:
    """The limits that do not depend on where files are stored."""
    rows = float(alone.rows_of(sample))
    for threads in sorted({1, effective_cpus()}):
        yield _rate(
            f"decode, {counted(threads, 'thread')}",
            "rows/s",
            rows,
            alone.arrow_decoder(sample, columns, threads),
            "Arrow, without making a frame",
        )
    yield _polars_decoding(sample, columns, rows)
    method = f"numpy, one thread, {alone.COPY_BYTES >> 20} MiB into reused memory"
    yield _rate("memory copy", "B/s", alone.COPY_BYTES, alone.copier(1), method)
    method = f"numpy, one thread, rows of {GATHER_FEATURES} float32 in random order"
    gather = alone.gatherer(GATHER_ROWS, GATHER_FEATURES, 1)
    yield _rate("gather", "rows/s", GATHER_ROWS, gather, method)
    yield to_device()


def to_device(gpu: str | None = None) -> Ceiling:
    """Time copies to the GPU from pinned memory, if there is a GPU.

    Args:
        gpu: its name, or None to look for it.
    """
    name = "host to device"
    if not (gpu or fingerprint().gpu):
        return Ceiling(name, "B/s", None, how="not measured: no NVIDIA GPU")
    if not is_installed("torch"):
        return Ceiling(name, "B/s", None, how="not measured: torch is not installed")
    import torch

    rates = []
    for _ in range(ROUNDS):
        times, reasons = measure_h2d([torch.zeros(alone.COPY_BYTES, dtype=torch.uint8)], rounds=1)
        seconds = times["h2d_pinned_s"]
        if not seconds:
            return Ceiling(name, "B/s", None, how=f"not measured: {reasons['h2d_pinned_s']}")
        rates.append(alone.COPY_BYTES / seconds)
    return _limit(name, "B/s", rates, f"{alone.COPY_BYTES >> 20} MiB, pinned memory, CUDA events")


def _storage_read(paths: Sequence[str], size: float) -> Ceiling:
    rates = []
    for _ in range(ROUNDS):
        state = establish("cold", paths)
        if state.state != "cold":
            return Ceiling("storage read", "B/s", None, how=f"not measured: {state.reason}")
        rates.append(size / alone.seconds(lambda: read_through(paths)))
    return _limit("storage read", "B/s", rates, "read(2), one thread, page cache verified empty")


def _rate(name: str, unit: str, amount: float, call: Callable[[], object], method: str) -> Ceiling:
    call()  # a warm-up
    return _limit(name, unit, [amount / alone.seconds(call) for _ in range(ROUNDS)], method)


def _limit(name: str, unit: str, rates: list[float], method: str) -> Ceiling:
    return Ceiling(name, unit, median(rates), min(rates), max(rates), method)


def _polars_decoding(paths: Sequence[str], columns: Sequence[str] | None, rows: float) -> Ceiling:
    name, method = "decode, polars", "polars with all CPUs, without making a frame"
    try:
        return _rate(name, "rows/s", rows, alone.polars_decoder(paths, columns), method)
    except polars_failures() as error:  # for example, over files of several schemas
        reason = without_hints(str(error))
        return Ceiling(name, "rows/s", None, how=f"not measured, polars cannot: {reason}")
