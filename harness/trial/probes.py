"""Probes around one timed call, for use inside the trial's own process.

A probe is a context manager. It sets `metrics`, and in `reasons` why a metric is None. Nest the
stopwatch innermost, so that it times no other probe:

    with CpuProbe() as cpu, IoProbe() as io, ArrowProbe() as arrow, Stopwatch() as watch:
        load()

Memory is sampled from the parent: see `MemorySampler`.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Self

import psutil

from ...loaders.base.machine import cgroup_folders
from ...loaders.remote.requests import counts
from ..record.metrics import REQUEST_METRICS
from ..system.procfs import (
    IoCounts,
    descendants,
    parse_pressure,
    parse_proc_io,
    parse_steal,
    parse_throttled,
    read_proc,
)


class Probe(AbstractContextManager["Probe"]):
    """Base of the probes: metrics by name, and reasons for those that are None."""

    def __init__(self) -> None:
        self.metrics: dict[str, float | None] = {}
        self.reasons: dict[str, str] = {}


class Stopwatch(Probe):
    """Wall time in seconds (`wall_s`), from the monotonic clock."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self._start = 0
        self._end = 0

    def __enter__(self) -> Self:
        self._start = time.perf_counter_ns()
        return self

    def __exit__(self, *_: object) -> None:
        self._end = time.perf_counter_ns()
        self.seconds = (self._end - self._start) / 1e9
        self.metrics["wall_s"] = self.seconds

    @property
    def interval(self) -> tuple[float, float]:
        """When it was started and stopped, by `perf_counter`."""
        return self._start / 1e9, self._end / 1e9


class CpuProbe(Probe):
    """CPU seconds, user and system, of this process and its descendants (`cpu_s`).

    A child's time moves to its parent when the parent has waited for it, so the sum over the
    living tree never falls. The time of processes that no parent waits for is lost. Time of this
    process has the clock's resolution, that of living descendants 10 ms.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self._before = 0.0

    def __enter__(self) -> Self:
        others = sum(map(_cpu_of, descendants()))
        self._before = others + _own_cpu_s()
        return self

    def __exit__(self, *_: object) -> None:
        process_s = _own_cpu_s()  # first, so that looking for descendants is not counted
        self.seconds = process_s + sum(map(_cpu_of, descendants())) - self._before
        self.metrics["cpu_s"] = self.seconds


def _own_cpu_s() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _cpu_of(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


class IoProbe(Probe):
    """Bytes read from storage and through system calls, by this process and readable descendants.

    Like CPU time, the counts of a child pass to the parent that waits for it. The metrics are None
    if the kernel keeps no such counts. The probe excludes its own reads.
    """

    def __init__(self) -> None:
        super().__init__()
        self._before = IoCounts(0, 0)

    def __enter__(self) -> Self:
        others = [parse_proc_io(read_proc(f"/proc/{pid}/io")) for pid in descendants()]
        text = read_proc("/proc/self/io")
        # The kernel counts this read too, after it is done.
        self._before = _sum([*others, parse_proc_io(text), IoCounts(len(text), 0)])
        return self

    def __exit__(self, *_: object) -> None:
        process = parse_proc_io(read_proc("/proc/self/io"))
        if process is None:
            self.metrics |= {"syscall_read_bytes": None, "storage_read_bytes": None}
            self.reasons |= dict.fromkeys(self.metrics, "/proc/self/io cannot be read here")
            return
        others = [parse_proc_io(read_proc(f"/proc/{pid}/io")) for pid in descendants()]
        after = _sum([process, *others])
        self.metrics["syscall_read_bytes"] = float(after.syscall - self._before.syscall)
        self.metrics["storage_read_bytes"] = float(after.storage - self._before.storage)


def _sum(counts: list[IoCounts | None]) -> IoCounts:
    known = [count for count in counts if count is not None]
    return IoCounts(sum(count.syscall for count in known), sum(count.storage for count in known))


class ArrowProbe(Probe):
    """Peak of Arrow's default memory pool during the call (`arrow_peak_bytes`).

    The pool keeps one peak for the life of the process and cannot reset it: the peak of this call
    is known only if it is the highest so far, and None otherwise. Several threads make it
    approximate (Arrow's documentation of `MemoryPool.max_memory`).
    """

    def __init__(self) -> None:
        super().__init__()
        import pyarrow as pa

        self._pool = pa.default_memory_pool()
        self._peak_before = 0
        self._at_peak = False

    def __enter__(self) -> Self:
        self._peak_before = self._pool.max_memory()
        self._at_peak = self._pool.bytes_allocated() >= self._peak_before
        return self

    def __exit__(self, *_: object) -> None:
        peak = self._pool.max_memory()
        known = self._at_peak or peak > self._peak_before
        self.metrics["arrow_peak_bytes"] = float(peak) if known else None
        if not known:
            self.reasons["arrow_peak_bytes"] = (
                "an earlier call in this process had a higher peak, and Arrow keeps only one"
            )


class RequestProbe(Probe):
    """Requests of this process to object stores, as `loaders.remote.requests` counts them.

    Args:
        why_not: why they are not counted; empty if they are.
    """

    def __init__(self, why_not: str = "") -> None:
        super().__init__()
        self._why_not = why_not
        self._before = counts()

    def __enter__(self) -> Self:
        self._before = counts()
        return self

    def __exit__(self, *_: object) -> None:
        if self._why_not:
            self.metrics |= dict.fromkeys(REQUEST_METRICS)
            self.reasons |= dict.fromkeys(REQUEST_METRICS, self._why_not)
            return
        made = map(float, counts().since(self._before))
        self.metrics |= dict(zip(REQUEST_METRICS, made, strict=True))


class HostProbe(Probe):
    """The load, stolen and throttled CPU time, and the time that tasks were stalled.

    All are of the whole machine or control group, other processes included.
    """

    def __init__(self) -> None:
        super().__init__()
        self._before: dict[str, float | None] = {}

    def __enter__(self) -> Self:
        self.metrics["load_1m"] = os.getloadavg()[0]
        self._before = {name: read() for name, (read, _) in _COUNTERS.items()}
        return self

    def __exit__(self, *_: object) -> None:
        for name, (read, missing) in _COUNTERS.items():
            before, after = self._before[name], read()
            if before is None or after is None:
                self.metrics[name], self.reasons[name] = None, missing
            else:
                self.metrics[name] = after - before


def _steal_s() -> float | None:
    return parse_steal(read_proc("/proc/stat"), os.sysconf("SC_CLK_TCK"))


def _throttled_s() -> float | None:
    """Total seconds of throttling by quotas of this control group and of those around it."""
    readings = [
        parse_throttled(read_proc(str(folder / "cpu.stat"))) for folder in cgroup_folders("cpu")
    ]
    known = [seconds for seconds in readings if seconds is not None]
    return sum(known) if known else None


def _pressure(resource: str) -> Callable[[], float | None]:
    return lambda: parse_pressure(read_proc(f"/proc/pressure/{resource}"))


_NO_PRESSURE = "the kernel does not record pressure (CONFIG_PSI)"
_COUNTERS: dict[str, tuple[Callable[[], float | None], str]] = {
    "steal_s": (_steal_s, "/proc/stat has no steal time"),
    "throttled_s": (_throttled_s, "no control group here counts throttling"),
    "cpu_stall_s": (_pressure("cpu"), _NO_PRESSURE),
    "io_stall_s": (_pressure("io"), _NO_PRESSURE),
    "memory_stall_s": (_pressure("memory"), _NO_PRESSURE),
}
"""Counters that only grow: the function that reads each, and why it may be missing."""
