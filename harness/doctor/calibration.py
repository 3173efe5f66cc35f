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
from ..run.executor import ChildExecutor, TrialRun
from ..system.formats import format_bytes, format_seconds
from ..system.pagecache import PageCache
from ..trial import known
from ..trial.gpu import NO_CUDA, measure_h2d, plain_copy_seconds
from ..trial.work import Data

PAGE_BYTES = 4096
COPY_BYTES, COPIES = 8 << 20, 32
COPY_TOLERANCE = 0.15
COPY_ROUNDS = 5  # the plain loop's time by the host's clock varies by 15% between rounds
TIMEOUT_S = 60.0
HANG_TIMEOUT_S = 2.0
MEMORY_LIMIT_BYTES = 1 << 30
NULL_LIMIT_S = 5e-6
NEAR_ZERO_BYTES = 64 << 10
"""Bytes that the interpreter and the file system may read while a warm dataset is read."""


@dataclass(frozen=True)
class Finding:
    """A known figure, and its measured value."""

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


def _rise(metrics: dict[str, float | None]) -> float | None:
    peak, before = metrics.get("peak_pss_bytes"), metrics.get("baseline_pss_bytes")
    return None if peak is None or before is None else peak - before


def _a_batch(metrics: dict[str, float | None]) -> float | None:
    took = metrics.get("harness_s")
    return None if took is None else took / known.NULL_BATCHES


def _pages(paths: list[str]) -> float:
    sizes = (Path(path).stat().st_size for path in paths)
    return float(sum(-(-size // PAGE_BYTES) * PAGE_BYTES for size in sizes))


def _constant(value: float) -> Callable[[list[str]], float]:
    return lambda _: value


FIGURES = (
    _Figure(
        "sleeps 5 ms a batch: batch p50", "known-sleep", _metric("batch_p50_s"),
        _constant(known.STEP_S), format_seconds,
    ),
    _Figure(
        "allocates 300 MiB in a worker: peak less baseline", "known-worker-memory", _rise,
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
        _pages, format_bytes, tolerance=0.01, page_cache="cold",
    ),
    _Figure(
        "reads the dataset warm: from storage", "known-read", _metric("storage_read_bytes"),
        _constant(NEAR_ZERO_BYTES), format_bytes, at_most=True, page_cache="warm",
    ),
    _Figure(
        "ready-made batches: the harness's own time, each", "known-null", _a_batch,
        _constant(NULL_LIMIT_S), format_seconds, at_most=True,
    ),
)  # fmt: skip

VERDICTS: tuple[tuple[str, str, Verdict], ...] = (
    ("hangs", "known-hang", "hang"),
    ("ends by SIGSEGV", "known-segfault", "crash"),
    ("calls exit(7)", "known-exit", "crash"),
    ("allocates without end", "known-allocate", "out-of-memory"),
    ("asks for more than /dev/shm has", "known-shm", "shm-full"),
)


def calibrate(paths: list[str]) -> Iterator[Finding]:
    """Measure loaders of known behaviour, one after the other.

    Args:
        paths: a dataset to read; a few MB or more.
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
        found = copies()
        if found is not None:
            yield found


def copies() -> Finding | None:
    """Compare copies to the GPU as timed by a trial and by a plain loop; None without CUDA."""
    import torch  # `measure_h2d` looks for CUDA only if torch has been imported

    what = f"copies {COPY_BYTES * COPIES >> 20} MiB from pinned memory: H2D pinned"
    batches = [torch.zeros(COPY_BYTES, dtype=torch.uint8)] * COPIES
    plain: list[float] = []
    measured: list[float] = []
    for _ in range(COPY_ROUNDS):
        found, reasons = measure_h2d(batches, rounds=1)
        if (took := found["h2d_pinned_s"]) is None:
            if reasons["h2d_pinned_s"] == NO_CUDA:
                return None
            return Finding(what, "–", "–", holds=False, reason=reasons["h2d_pinned_s"])  # noqa: RUF001 - a dash
        measured.append(took)
        plain.append(plain_copy_seconds(COPY_BYTES, COPIES))
    true, here = median(plain), median(measured)
    holds = abs(here - true) <= COPY_TOLERANCE * true
    return Finding(what, format_seconds(true), format_seconds(here), holds)


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
    done = run.passes[0]
    measured = figure.value(done.metrics)
    if done.page_cache.state == "unknown":
        return Finding(figure.what, shown, "–", holds=False, reason=done.page_cache.reason)  # noqa: RUF001 - a dash
    if measured is None:
        reasons = [done.reasons[name] for name in METRICS if name in done.reasons]
        return Finding(figure.what, shown, "–", holds=False, reason="; ".join(reasons[:1]))  # noqa: RUF001 - a dash
    return Finding(figure.what, shown, figure.format(measured), figure.holds(measured, true))
