"""Metrics derived from the measured ones of a pass, and reasons for those that are null."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from ...loaders.choosing.profile import Job
from ...loaders.choosing.registry import is_foreign
from ..plan.spec import Trial
from ..record.metrics import (
    ALONE_METRICS,
    FILES_BY_PANDAS,
    METRICS,
    STAGE_METRICS,
    WHAT_IF_METRICS,
)
from ..record.results import Phase
from ..record.stages import complete_stages
from .executor import PassSample

MAX_OVERHEAD = 0.05  # of a pass; samples above it are flagged

_STEP_PREFIXES = ("step_", "stall_")
_BATCH_PREFIXES = ("first_batch", "batch_", "wait", "steady", *_STEP_PREFIXES)
_FILE_PREFIXES = ("bytes_per_s", "read_alone", "load_alone", "ceiling_read", "ceiling_decode")
_ROW_PREFIXES = ("gather_alone", "ceiling_gather")
_EXPLAINED = (*STAGE_METRICS, *ALONE_METRICS, *WHAT_IF_METRICS)
_RECORDED_BY_LOADERS = (*STAGE_METRICS, "idle_workers")
_IN_MEMORY = "the rows are in memory before the job starts"


def complete(
    trial: Trial, phase: Phase, done: PassSample
) -> tuple[dict[str, float | None], dict[str, str]]:
    """Return all metrics by name: measured, derived, or None with a reason."""
    metrics, reasons = complete_stages(done.metrics), dict(done.reasons)
    wall = metrics.get("wall_s")
    metrics["rows_per_s"] = done.rows / wall if wall else None
    step, alone = metrics.get("step_s"), metrics.get("step_alone_s")
    if step is not None and alone:
        metrics["step_slowdown_pct"] = 100 * (step / alone - 1)
    overhead = metrics.get("harness_s")
    if wall and overhead is not None and overhead > MAX_OVERHEAD * wall:
        larger = "more files" if trial.job == "frame" else "larger batches"
        reasons["harness_s"] = (
            f"the measuring loop takes {overhead / wall:.0%} of the time, so the figure is partly "
            f"feedrate's own; use {larger}"
        )
    foreign = is_foreign(trial.backend)
    for name in METRICS:
        if metrics.get(name) is None:
            metrics[name] = None
            if name not in reasons:
                reasons[name] = _reason(name, trial.job, trial.backend, phase, foreign=foreign)
        elif name in STAGE_METRICS:
            reasons.pop(name, None)  # the stage is known after all
    return metrics, reasons


@cache  # of each sample some fifty metrics are null
def _reason(name: str, job: Job, backend: str, phase: Phase, *, foreign: bool) -> str:
    """The best reason why a metric is null."""
    return next(_reasons(name, job, backend, phase, foreign=foreign))


def _reasons(name: str, job: Job, backend: str, phase: Phase, *, foreign: bool) -> Iterator[str]:
    if name in _RECORDED_BY_LOADERS and foreign:
        yield "a loader that is not feedrate's records no stages"
    if job == "frame" and name.startswith(_BATCH_PREFIXES):
        yield "the frame job has no batches"
    if job == "frame" and name.startswith(_ROW_PREFIXES):
        yield "the frame job gathers no rows"
    if job == "batches" and name.startswith(_FILE_PREFIXES):
        yield _IN_MEMORY
    if name.startswith(_STEP_PREFIXES):
        yield "there was no consumer: name one with --consumer or --consumer-ms"
    if phase == "screening" and name.startswith("h2d_"):
        yield "measured when confirming"
    if name in _EXPLAINED:
        yield "measured only for recommended settings, in separate launches"
    if name == "idle_workers":
        yield "no file was decoded by threads of this process"
    if name == FILES_BY_PANDAS:
        yield _why_not_counted(job, backend, foreign=foreign)
    yield "not measured here"


def _why_not_counted(job: Job, backend: str, *, foreign: bool) -> str:
    """Why files that pandas itself reads were not counted."""
    if foreign:
        return "a loader that is not feedrate's does not report how its files are read"
    if job == "frame" and backend == "original":
        return "the original reads all files with pandas"
    return "no training job reads files with pandas itself"
