"""Every metric's name, unit, formatter, direction and method."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ..system.formats import (
    format_bytes,
    format_bytes_per_s,
    format_count,
    format_percent,
    format_rows_per_s,
    format_seconds,
)

Better = Literal["lower", "higher"]
Passes = Literal["sum", "highest", "middle"]
REQUEST_METRICS = ("requests", "request_bytes", "request_retries", "request_throttled_s")
"""Metrics of requests to an object store; only data there have them."""
_SUMMED = {
    "wall_s", "cpu_s", "wait_s", "storage_read_bytes", "syscall_read_bytes", *REQUEST_METRICS,
}  # fmt: skip
MEMORY_METRICS = (
    "baseline_pss_bytes",
    "peak_pss_bytes",
    "peak_rss_bytes",
    "peak_uss_bytes",
    "shm_bytes",
    "cgroup_peak_bytes",
)
"""Metrics that are sampled from outside, in launches that are not timed."""
_HIGHEST = {"peak_pss_bytes", "peak_rss_bytes", "peak_uss_bytes", "cgroup_peak_bytes", "shm_bytes"}


STAGES = {
    "plan": ("look at files", "looking at files, footers and schemas"),
    "read": ("read", "reading bytes from storage or the page cache"),
    "decode": ("decode", "decompressing and decoding columns"),
    "convert": ("convert", "converting columns to the delivered format"),
    "gather": ("shuffle, gather", "drawing the order and gathering rows"),
    "cache": ("cache", "looking up the cache and filling it"),
    "handover": ("hand over", "handing over between threads or processes, and Python in between"),
    "step": ("consumer", "the consumer's own steps"),
}
"""The stages of a waterfall in order, each with its label in tables and its description."""

UNSEEN = {
    "load": ("read, decode", "reading and decoding in one call, not separated in this launch"),
    "pandas": ("pandas", "reading, decoding and converting by pandas, not separated"),
    "library": ("library", "a library's gathering and handing over, not separated"),
}
"""Stages that hide others, until the hidden ones are measured alone."""


class WhatIf(NamedTuple):
    """A change of columns or files, with which a sample of the files is also loaded."""

    tried: str
    """Its label in a list of changes that were tried."""
    how: str
    """Its words in a sentence on the saving."""


FILES_BY_PANDAS = "files_by_pandas"
"""Number of files that left the fast path; a sample's reason of this name says why."""

FEWER_COLUMNS = "fewer_columns_pct"
"""The what-if whose columns are found by measuring; a sample's reason of this name lists them."""

WHAT_IFS = {
    FEWER_COLUMNS: WhatIf("fewer columns", "without the columns of the kind that costs most"),
    "uncompressed_pct": WhatIf(
        "no compression", "from files without compression (no codec could save more)"
    ),
    "merged_pct": WhatIf("merged files", "from files merged, up to 30 into one"),
    "row_groups_pct": WhatIf(
        "other row groups", "from files with row groups of 131,072 rows at most"
    ),
}
"""What-ifs by the metric of the time that they save."""


def what_if_bounds(name: str) -> tuple[str, str]:
    """The metrics of the ends of a saving's interval.

    >>> what_if_bounds("merged_pct")
    ('merged_low_pct', 'merged_high_pct')
    """
    stem = name.removesuffix("_pct")
    return f"{stem}_low_pct", f"{stem}_high_pct"


WHAT_IF_METRICS = tuple(metric for name in WHAT_IFS for metric in (name, *what_if_bounds(name)))
"""Each what-if with its interval."""


_SAMPLED = "highest of the samples, a lower bound"
_EVENTS = "median of five rounds, CUDA events around"
_ALONE = "(a sample scaled up), by as many workers"
_CEILING = "(a sample scaled up), with all usable CPUs: no setting can take less"
_SAVING = "how much less time a sample of the files takes"
_SAVING_END = (
    "end of the 95% interval of this saving (signed ranks of 8 to 32 rounds, widened for "
    "differences between processes)"
)
_PRESSURE = "time in which some task of the machine waited for"


@dataclass(frozen=True)
class Metric:
    """One thing that is measured."""

    name: str
    """The key in a sample's `metrics`."""
    unit: str
    """The unit of the stored number: `s`, `B`, `rows/s`, `B/s`, `%` or none."""
    label: str
    """Its name in tables and charts."""
    format: Callable[[float | None], str]
    better: Better
    how: str
    """How it is measured, in one sentence."""

    @property
    def least(self) -> float:
        """The level below which a value is noise: a millisecond, a mebibyte, or 1.

        Waits of microseconds, and the bytes of a few pages, vary from launch to launch.
        """
        return {"s": 1e-3, "B": 1048576.0}.get(self.unit, 1.0)

    @property
    def passes(self) -> Passes:
        """How the passes of a launch are combined: their sum, the highest, or the median."""
        if self.name in _SUMMED:
            return "sum"
        return "highest" if self.name in _HIGHEST else "middle"


def _time(name: str, label: str, how: str) -> Metric:
    return Metric(name, "s", label, format_seconds, "lower", how)


def _size(name: str, label: str, how: str) -> Metric:
    return Metric(name, "B", label, format_bytes, "lower", how)


def _percentage(name: str, label: str, how: str) -> Metric:
    return Metric(name, "%", label, format_percent, "lower", how)


def _rate(
    name: str, unit: str, label: str, form: Callable[[float | None], str], how: str
) -> Metric:
    return Metric(name, unit, label, form, "higher", how)


def _what_if_metrics(name: str, what_if: WhatIf) -> Iterator[Metric]:
    label = name.removesuffix("_pct").replace("_", " ")
    yield _rate(name, "%", label, format_percent, f"{_SAVING} {what_if.how} (Hodges-Lehmann)")
    for bound, end in zip(what_if_bounds(name), ("lower", "upper"), strict=True):
        yield _rate(bound, "%", f"{label}, {end} end", format_percent, f"{end} {_SAVING_END}")


_ALL = (
    _time("wall_s", "time", "monotonic clock (perf_counter_ns) around one pass"),
    _rate("rows_per_s", "rows/s", "rows/s", format_rows_per_s, "rows delivered, over wall_s"),
    _rate("bytes_per_s", "B/s", "bytes/s", format_bytes_per_s, "sizes of the files, over wall_s"),
    _time("first_batch_s", "first batch", "from the start of the pass to its first batch"),
    _time("batch_p50_s", "batch p50", "median of the consumer's waits for a batch"),
    _time("batch_p95_s", "batch p95", "95th percentile of the consumer's waits for a batch"),
    _time("batch_p99_s", "batch p99", "99th percentile of the consumer's waits for a batch"),
    _time("wait_s", "wait", "sum of the consumer's waits for batches"),
    _rate(
        "steady_rows_per_s",
        "rows/s",
        "steady rows/s",
        format_rows_per_s,
        "rows of the second half of a pass's batches, over their time: the backlog is drained",
    ),
    _time("step_s", "step", "median time of the consumer's step, while loading goes on"),
    _time("step_alone_s", "step alone", "median time of the step on a batch that is ready"),
    _percentage("step_slowdown_pct", "step slowdown", "how far step_s is above step_alone_s"),
    _percentage("stall_pct", "stalled", "the consumer's waits, over the time of the pass"),
    _time(
        "harness_s",
        "harness",
        "time of the measuring loop alone, for as many ready-made batches (a null loader)",
    ),
    *(
        _time(f"stage_{stage}_s", label, f"share of the pass's time: {description}")
        for stage, (label, description) in (STAGES | UNSEEN).items()
    ),
    _time("read_alone_s", "reading alone", f"only reading the same bytes {_ALONE}"),
    _time("load_alone_s", "decoding alone", f"only reading and decoding by Arrow {_ALONE}"),
    _time("gather_alone_s", "gathering alone", f"only gathering as many rows {_ALONE}"),
    _time("ceiling_read_s", "least reading", f"reading the same bytes {_CEILING}"),
    _time(
        "ceiling_decode_s",
        "least decoding",
        f"decoding from memory, by Arrow or polars, whichever is faster {_CEILING}",
    ),
    _time("ceiling_gather_s", "least gathering", f"gathering as many rows {_CEILING}"),
    _time(
        "ceiling_copy_s",
        "least copying",
        f"copying as many bytes as were delivered into reused memory {_CEILING}",
    ),
    *(metric for name, what_if in WHAT_IFS.items() for metric in _what_if_metrics(name, what_if)),
    Metric(
        "idle_workers",
        "",
        "idle workers",
        format_count,
        "lower",
        "workers without work, since the files were decoded in fewer parts",
    ),
    Metric(
        FILES_BY_PANDAS,
        "",
        "files by pandas",
        format_count,
        "lower",
        "files of the pass that pandas itself read one by one; the reasons name the columns",
    ),
    _time("cpu_s", "CPU", "user and system time of the process and its descendants"),
    _size("baseline_pss_bytes", "baseline PSS", "PSS of the process tree before loading"),
    _size("peak_pss_bytes", "peak PSS", f"PSS of the process tree (smaps_rollup), {_SAMPLED}"),
    _size(
        "peak_rss_bytes",
        "peak RSS",
        f"RSS of the process tree, {_SAMPLED}, and at least each process's VmHWM; shared pages "
        "count once per process",
    ),
    _size("peak_uss_bytes", "peak USS", f"private pages of the process tree, {_SAMPLED}"),
    _size(
        "arrow_peak_bytes",
        "Arrow peak",
        "peak of Arrow's default memory pool; known only if the pass set a new one",
    ),
    _size("shm_bytes", "shared memory", f"shared memory's part of the tree's PSS, {_SAMPLED}"),
    _size(
        "cgroup_peak_bytes",
        "group's peak",
        "memory.peak of the control group, with the page cache and all its processes; known if the "
        "kernel can reset it or the pass raised it",
    ),
    _size(
        "storage_read_bytes", "read from storage", "read_bytes of /proc/PID/io, with descendants"
    ),
    _size(
        "syscall_read_bytes",
        "read by system calls",
        "rchar of /proc/PID/io, with descendants; reads through mmap bypass it",
    ),
    Metric(
        "requests",
        "",
        "requests",
        format_count,
        "lower",
        "requests that the process sent to an object store, repeated ones included",
    ),
    _size("request_bytes", "requested", "bytes of objects that the process received"),
    Metric(
        "request_retries",
        "",
        "repeated requests",
        format_count,
        "lower",
        "requests that the process sent again after a fault",
    ),
    _time(
        "request_throttled_s",
        "request throttling",
        "waits of requests because the store asked for fewer, summed over requests in flight",
    ),
    _time("steal_s", "CPU steal", "time that the hypervisor gave our CPUs to others (/proc/stat)"),
    _time(
        "throttled_s",
        "CPU throttling",
        "time that CPU quotas of the cgroup and its parents stopped it",
    ),
    _time("cpu_stall_s", "waits for CPU", f"{_PRESSURE} a CPU (/proc/pressure/cpu)"),
    _time("io_stall_s", "waits for I/O", f"{_PRESSURE} input or output (/proc/pressure/io)"),
    _time("memory_stall_s", "waits for memory", f"{_PRESSURE} memory (/proc/pressure/memory)"),
    Metric(
        "load_1m",
        "",
        "load",
        format_count,
        "lower",
        "tasks that ran or waited in the last minute, when the pass began (getloadavg)",
    ),
    _time("h2d_pageable_s", "H2D pageable", f"{_EVENTS} copies from pageable memory"),
    _time("h2d_pinned_s", "H2D pinned", f"{_EVENTS} copies from pinned memory"),
    _time(
        "h2d_overlap_s",
        "H2D overlapped",
        f"{_EVENTS} staging into two pinned buffers and copies on a side stream",
    ),
    _size("h2d_bytes", "H2D bytes", "bytes of the pass's batches"),
    _rate(
        "gpu_util_pct",
        "%",
        "GPU utilisation",
        format_percent,
        "mean of NVML's timestamped samples; only says that a kernel was active",
    ),
    _size(
        "gpu_mem_peak_bytes",
        "GPU memory",
        "device memory in use when the pass ended (NVML, all processes); a lower bound",
    ),
)

STAGE_METRICS = tuple(f"stage_{stage}_s" for stage in (*STAGES, *UNSEEN))
ALONE_METRICS = (
    "read_alone_s", "load_alone_s", "gather_alone_s",
    "ceiling_read_s", "ceiling_decode_s", "ceiling_gather_s", "ceiling_copy_s",
)  # fmt: skip
"""The times of parts of a pass, measured alone."""
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
