"""The stages of a pass as metrics, and the times that they take alone: the limits of a pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from ...loaders.base.machine import effective_cpus
from ...loaders.base.settings import LoaderSettings
from ...loaders.base.stages import Recorder
from ...loaders.choosing.registry import is_foreign
from ...loaders.frames.engine import polars_failures
from ...loaders.remote.urls import is_url
from ..record.metrics import STAGES, UNSEEN
from ..record.stages import Numbers
from ..system.formats import format_bytes
from ..system.pagecache import AS_IS, PageCache, establish, evict
from . import alone
from .objects_alone import MOST_REQUESTS, contents, objects_reader
from .timeline import Interval, Timeline, attribute

_READ_METRICS = ("read_alone_s", "ceiling_read_s", "load_alone_s")
_FILE_METRICS = (*_READ_METRICS, "ceiling_decode_s")


def staged(
    recorder: Recorder,
    interval: Interval,
    settings: LoaderSettings,
    steps: Iterable[Interval] = (),
    *,
    from_files: bool = True,
) -> Numbers:
    """The stages of a pass and its number of idle workers; empty for loaders not feedrate's."""
    if is_foreign(settings.backend):
        return {}
    timeline = attribute(recorder.marks, interval, steps)
    metrics = stage_metrics(timeline, gathered_unseen=not from_files and not timeline.parts)
    # With a cache, only misses are parts.
    if from_files and timeline.parts and settings.cache == "none":
        metrics["idle_workers"] = float(max(0, settings.num_workers - timeline.parts))
    return metrics


def stage_metrics(timeline: Timeline, *, gathered_unseen: bool) -> Numbers:
    """The raw stages of a pass; `record.stages` turns them into the final ones.

    Args:
        timeline: the pass.
        gathered_unseen: whether the time outside all stages includes the gathering.
    """
    shares = dict.fromkeys((*STAGES, *UNSEEN), 0.0) | timeline.shares
    if gathered_unseen:
        shares |= {"library": shares["handover"], "handover": 0.0}
    return {f"stage_{name}_s": seconds for name, seconds in shares.items()}


def files_alone(
    paths: Sequence[str],
    columns: Sequence[str] | None,
    settings: LoaderSettings,
    page_cache: PageCache,
) -> tuple[Numbers, dict[str, str]]:
    """Time reading alone, and reading with decoding; also the least times that they can take.

    If there are many files, a sample is read and the times are scaled up by bytes.

    Args:
        paths: the files of a pass.
        columns: the columns of the job; None means all.
        settings: has the job's threads (0 means the calling thread) and requests in flight.
        page_cache: the intended state of the page cache at the start of a pass.

    Returns:
        `read_alone_s` and `load_alone_s` with the job's workers, `ceiling_read_s` and
        `ceiling_decode_s` with all CPUs; and the reasons for missing ones. Objects are read with
        the job's requests in flight, and at least with `MOST_REQUESTS`.
    """
    sample = alone.sample(paths)
    size = alone.total_bytes(sample)
    if size > alone.MOST_BYTES:
        reason = f"one file has {format_bytes(size)}, too much for a sample"
        return {}, dict.fromkeys(_FILE_METRICS, reason)
    scale = alone.total_bytes(paths) / max(1, size)
    metrics: Numbers = {}
    reasons: dict[str, str] = {}
    workers = max(1, settings.num_workers)
    if any(map(is_url, sample)):
        return _objects_alone(sample, columns, settings, scale)
    state = establish("cold", sample) if page_cache == "cold" else AS_IS
    if state.state == "unknown":
        reasons = dict.fromkeys(_READ_METRICS, f"not cold: {state.reason}")
    else:
        before = partial(evict, sample) if page_cache == "cold" else None
        read_times = _by_threads(
            workers,
            lambda threads: alone.typical_seconds(alone.reader(sample, columns, threads), before),
        )
        load = alone.arrow_decoder(sample, columns, workers)
        metrics["read_alone_s"] = scale * read_times[0]
        metrics["ceiling_read_s"] = scale * read_times[1]
        metrics["load_alone_s"] = scale * alone.typical_seconds(load, before)
    decoders = alone.memory_decoders(alone.bytes_of(sample), columns, effective_cpus())
    metrics["ceiling_decode_s"] = scale * min(map(_decode_seconds, decoders))
    return metrics, reasons


def _objects_alone(
    sample: Sequence[str], columns: Sequence[str] | None, settings: LoaderSettings, scale: float
) -> tuple[Numbers, dict[str, str]]:
    """As `files_alone`, for a sample of objects; its times are multiplied by `scale`."""
    held = contents(sample, settings.requests)
    by_arrow = alone.memory_decoders(held, columns, max(1, settings.num_workers))[0]
    decoders = alone.memory_decoders(held, columns, effective_cpus())
    metrics: Numbers = {"ceiling_decode_s": scale * min(map(_decode_seconds, decoders))}
    if settings.backend == "original":
        # Its calls hide waits for one request after the other, and nothing shows how long.
        reason = "plain pandas waits for its requests in calls that also decode"
        return metrics, dict.fromkeys(_READ_METRICS, reason)
    read_s, fastest_s = (
        alone.typical_seconds(objects_reader(sample, columns, requests))
        for requests in (settings.requests, max(MOST_REQUESTS, settings.requests))
    )
    metrics["read_alone_s"] = scale * read_s
    metrics["ceiling_read_s"] = scale * min(read_s, fastest_s)
    metrics["load_alone_s"] = scale * (read_s + alone.typical_seconds(by_arrow))
    return metrics, {}


def _decode_seconds(decode: Callable[[], object]) -> float:
    """The typical time of a decoder; infinite if polars cannot decode the files."""
    try:
        decode()  # a warm-up
        return alone.typical_seconds(decode)
    except polars_failures():
        return float("inf")


def rows_alone(rows: int, width: int, workers: int) -> Numbers:
    """Time gathering float32 rows alone, with the job's workers and with all CPUs."""
    sample = alone.gather_rows(rows, width)
    job_s, least_s = _by_threads(
        max(1, workers), lambda n: alone.typical_seconds(alone.gatherer(sample, width, n))
    )
    return {"gather_alone_s": rows / sample * job_s, "ceiling_gather_s": rows / sample * least_s}


def _by_threads(workers: int, measure: Callable[[int], float]) -> tuple[float, float]:
    """Seconds with the job's workers, and the fewest seconds with those or with all CPUs."""
    job_s = measure(workers)
    cpus = effective_cpus()
    return job_s, job_s if cpus == workers else min(job_s, measure(cpus))


def copy_alone(size: float) -> Numbers:
    """Time copying `size` bytes: any loader writes the bytes that it delivers at least once."""
    copy = alone.copier(effective_cpus())
    return {"ceiling_copy_s": size / alone.COPY_BYTES * alone.typical_seconds(copy)}
