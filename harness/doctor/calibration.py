"""Calibration: measure trials with known figures through the whole harness."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ...loaders.base.machine import fingerprint, is_installed
from ...loaders.base.settings import LoaderSettings
from ..plan.spec import make_trial
from ..record.metrics import METRICS
from ..record.results import Phase, Verdict
from ..record.statistics import median
from ..run.child_executor import ChildExecutor
from ..run.executor import TrialRun
from ..system.formats import format_bytes, format_seconds
from ..system.pagecache import PageCache
from ..trial import known
from ..trial.gpu import NO_CUDA, measure_h2d, plain_copy_seconds
from ..trial.work import Data

PAGE_BYTES = 4096
COPY_BYTES, COPIES = 8 << 20, 32
COPY_TOLERANCE = 0.15
COPY_ROUNDS = 5  # the plain loop's wall time varies by 15% between rounds
TIMEOUT_S = 60.0
HANG_TIMEOUT_S = 2.0
MEMORY_LIMIT_BYTES = 1 << 30
NULL_LIMIT_S = 5e-6
NEAR_ZERO_BYTES = 64 << 10
"""The interpreter and the file system may read this much while a warm dataset is read."""


@dataclass(frozen=True)
class Finding:
    """A known figure and its measured value."""

    what: str
    true: str
    measured: str
    holds: bool
    reason: str = ""
    """Why it does not hold, or could not be measured."""


@dataclass(frozen=True)
class _Figure:
    """A known figure that must be measured within a tolerance."""

    what: str
    backend: str
    value: Callable[[dict[str, float | None]], float | None]
    true: Callable[[list[str]], float]
    format: Callable[[float | None], str]
    tolerance: float = 0.05
    at_most: bool = False
    page_cache: PageCache = "as-is"
    phase: Phase = "confirming"

    def holds(self, measured: float, true: float) -> bool:
        return measured <= true if self.at_most else abs(measured - true) <= self.tolerance * true


def _metric(name: str) -> Callable[[dict[str, float | None]], float | None]:
    return lambda metrics: metrics.get(name)


def _memory_rise(metrics: dict[str, float | None]) -> float | None:
    peak, before = metrics.get("peak_pss_bytes"), metrics.get("baseline_pss_bytes")
    return None if peak is None or before is None else peak - before


def _harness_s_per_batch(metrics: dict[str, float | None]) -> float | None:
    seconds = metrics.get("harness_s")
    return None if seconds is None else seconds / known.NULL_BATCHES


def _bytes_in_pages(paths: list[str]) -> float:
    sizes = (Path(path).stat().st_size for path in paths)
    return float(sum(-(-size // PAGE_BYTES) * PAGE_BYTES for size in sizes))


def _constant(value: float) -> Callable[[list[str]], float]:
    return lambda _: value


FIGURES = (
    _Figure(
        "sleeps 5 ms per batch: batch p50", "known-sleep", _metric("batch_p50_s"),
        _constant(known.STEP_S), format_seconds,
    ),
    _Figure(
        "allocates 300 MiB in a worker: peak minus baseline", "known-worker-memory", _memory_rise,
        _constant(known.WORKER_BYTES), format_bytes, phase="memory",
    ),
    _Figure(
        "four workers share 200 MiB: shared memory", "known-shared-memory", _metric("shm_bytes"),
        _constant(known.SHARED_BYTES), format_bytes, phase="memory",
    ),
    _Figure(
        "burns 1 CPU-second in a child: CPU", "known-cpu", _metric("cpu_s"),
        _constant(known.CPU_S), format_seconds,
    ),
    _Figure(
        "reads the dataset cold: from storage", "known-read", _metric("storage_read_bytes"),
        _bytes_in_pages, format_bytes, tolerance=0.01, page_cache="cold",
    ),
    _Figure(
        "reads the dataset warm: from storage", "known-read", _metric("storage_read_bytes"),
        _constant(NEAR_ZERO_BYTES), format_bytes, at_most=True, page_cache="warm",
    ),
    _Figure(
        "delivers ready-made batches: the harness's time per batch", "known-null",
        _harness_s_per_batch, _constant(NULL_LIMIT_S), format_seconds, at_most=True,
    ),
)  # fmt: skip

VERDICTS: tuple[tuple[str, str, Verdict], ...] = (
    ("hangs", "known-hang", "hang"),
    ("is killed by SIGSEGV", "known-segfault", "crash"),
    ("calls exit(7)", "known-exit", "crash"),
    ("allocates without end", "known-allocate", "out-of-memory"),
    ("needs more than /dev/shm has", "known-shm", "shm-full"),
)


def calibrate(paths: list[str]) -> Iterator[Finding]:
    """Measure loaders of known behaviour, one after the other.

    Args:
        paths: a dataset to read, of at least a few MB.
    """
    data = Data(paths=paths, columns=None, features=["x"], target=None)
    for figure in FIGURES:
        with ChildExecutor(data, TIMEOUT_S, page_cache=figure.page_cache) as executor:
            yield _figure(figure, _run(executor, figure.backend, paths, figure.phase), paths)
    for what, backend, verdict in VERDICTS:
        timeout = HANG_TIMEOUT_S if verdict == "hang" else TIMEOUT_S
        with ChildExecutor(data, timeout, max_memory=MEMORY_LIMIT_BYTES) as executor:
            run = _run(executor, backend, paths)
        measured = run.verdict or "ok"
        yield Finding(f"{what}: verdict", verdict, measured, measured == verdict, run.message)
    if fingerprint().gpu is not None and is_installed("torch"):
        finding = copies()
        if finding is not None:
            yield finding


def copies() -> Finding | None:
    """Compare a trial's time for copies to the GPU with a plain loop's; None without CUDA."""
    import torch  # `measure_h2d` looks for CUDA only if torch has been imported

    what = f"copies {COPY_BYTES * COPIES >> 20} MiB from pinned memory: H2D pinned"
    batches = [torch.zeros(COPY_BYTES, dtype=torch.uint8)] * COPIES
    plain_s: list[float] = []
    trial_s: list[float] = []
    for _ in range(COPY_ROUNDS):
        metrics, reasons = measure_h2d(batches, rounds=1)
        if (seconds := metrics["h2d_pinned_s"]) is None:
            if reasons["h2d_pinned_s"] == NO_CUDA:
                return None
            return Finding(what, "–", "–", holds=False, reason=reasons["h2d_pinned_s"])  # noqa: RUF001 - a dash
        trial_s.append(seconds)
        plain_s.append(plain_copy_seconds(COPY_BYTES, COPIES))
    true, measured = median(plain_s), median(trial_s)
    holds = abs(measured - true) <= COPY_TOLERANCE * true
    return Finding(what, format_seconds(true), format_seconds(measured), holds)


def _run(
    executor: ChildExecutor, backend: str, paths: list[str], phase: Phase = "confirming"
) -> TrialRun:
    settings = LoaderSettings(backend=backend, num_workers=0, prefetch=0, cache="none")
    trial = make_trial("stream", settings, len(paths))
    return executor.run(trial, phase, passes=1, verify=False)


def _figure(figure: _Figure, run: TrialRun, paths: list[str]) -> Finding:
    true = figure.true(paths)
    shown = f"{'at most ' if figure.at_most else ''}{figure.format(true)}"
    if run.verdict is not None:
        return Finding(figure.what, shown, run.verdict, holds=False, reason=run.message)
    sample = run.passes[0]
    measured = figure.value(sample.metrics)
    if sample.page_cache.state == "unknown":
        return Finding(figure.what, shown, "–", holds=False, reason=sample.page_cache.reason)  # noqa: RUF001 - a dash
    if measured is None:
        reasons = [sample.reasons[name] for name in METRICS if name in sample.reasons]
        return Finding(figure.what, shown, "–", holds=False, reason="; ".join(reasons[:1]))  # noqa: RUF001 - a dash
    return Finding(figure.what, shown, figure.format(measured), figure.holds(measured, true))
