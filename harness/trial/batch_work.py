"""The training jobs as work to be timed: epochs of batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ...loaders.base.settings import LoaderSettings
from ...loaders.base.stages import Recorder
from ..record.metrics import WHAT_IF_METRICS
from ..system.pagecache import PageCache
from .alone import total_bytes
from .breakdown import copy_alone, files_alone, rows_alone, staged
from .consumption import Consumption, Step, alone_seconds, consume, loop_seconds, parts
from .fingerprint import Fingerprint, fingerprint_batches
from .gpu import NO_BATCHES, Metrics, Reasons, measure_h2d, untransferred
from .probes import Stopwatch
from .timeline import mark_seconds
from .what_if import what_ifs
from .work import Pass


class BatchWork:
    """Epochs of batches of rows in memory. The first pass includes building the loader."""

    def __init__(
        self,
        build: Callable[[], Iterable[Any]],
        settings: LoaderSettings,
        step: Step | None = None,
    ) -> None:
        self._build = build
        self._settings = settings
        self._paths: Sequence[str] = ()
        self._marks = 0
        self._batches: Iterable[Any] | None = None
        self._step = step
        self._seen: Consumption | None = None
        self._untransferable: str | None = NO_BATCHES

    def visit(self) -> Pass:
        """Run one epoch and consume each batch as it comes."""
        self._seen = None
        with Recorder() as recorder, Stopwatch() as watch:
            seen = consume(self._epoch, self._step)
        self._seen = seen
        self._marks = len(recorder.marks)
        self._untransferable = untransferable(seen.last) if seen.came else NO_BATCHES
        metrics = watch.metrics | seen.metrics
        if self._step is not None:
            metrics |= seen.step_metrics
        steps = () if self._step is None else seen.steps
        metrics |= staged(
            recorder, watch.interval, self._settings, steps, from_files=bool(self._paths)
        )
        if self._paths:
            metrics["bytes_per_s"] = total_bytes(self._paths) / watch.seconds
        return Pass(rows=sum(seen.rows), metrics=metrics)

    def _epoch(self) -> Iterable[Any]:
        if self._batches is None:
            self._batches = self._build()
        return self._batches

    def take_one_batch(self) -> None:
        """Take one batch."""
        next(iter(self._epoch()), None)

    def fingerprint(self) -> Fingerprint:
        """Run one more epoch, untimed, and return its fingerprint."""
        return fingerprint_batches(self._epoch(), ordered=not self._settings.shuffle)

    def overhead(self) -> Metrics:
        """Time the loop over as many ready-made batches as in a pass; the step without a loader."""
        seen = self._seen
        if seen is None or not seen.came:
            return {}
        loop = loop_seconds(seen.last) * len(seen.came)
        found: Metrics = {"harness_s": loop + self._marks * mark_seconds()}
        if self._step is not None:
            found["step_alone_s"] = alone_seconds(self._step, seen.last)
        return found

    def transfer(self) -> tuple[Metrics, Reasons]:
        """Run one more epoch and time copying its torch tensors to the GPU, if there are any."""
        if self._untransferable is not None:
            return untransferred(self._untransferable)
        return measure_h2d(self._tensors())

    def alone(self, page_cache: PageCache) -> tuple[Metrics, Reasons]:
        """Time gathering as many rows as a pass has, and copying as many bytes."""
        del page_cache  # the rows come from no file
        seen = self._seen
        if seen is None or not seen.came:
            return {}, {}
        width = sum(math.prod(part.shape[1:]) for part in parts(seen.last))
        rows = sum(seen.rows)
        return rows_alone(rows, width, self._settings.num_workers) | copy_alone(
            4.0 * rows * width
        ), {}

    def what_if(self) -> tuple[Metrics, Reasons]:
        """Measure nothing: no file is read."""
        return {}, dict.fromkeys(WHAT_IF_METRICS, "the rows are in memory before the job starts")

    def _tensors(self) -> Iterator[Any]:
        # A generator expression would start an epoch before its first tensor is requested.
        for batch in self._batches or ():
            yield from filter(_is_tensor, parts(batch))

    def close(self) -> None:
        """Drop the loader."""
        self._batches = self._seen = None
        self._build = list


class StreamWork(BatchWork):
    """Epochs of batches of rows that are read from files during the epoch."""

    def __init__(
        self,
        stream: Callable[[Sequence[str]], Iterable[Any]],
        settings: LoaderSettings,
        paths: Sequence[str],
        columns: Sequence[str],
        step: Step | None = None,
    ) -> None:
        super().__init__(lambda: stream(paths), settings, step)
        self._stream = stream
        self._paths, self._columns = paths, columns

    def alone(self, page_cache: PageCache) -> tuple[Metrics, Reasons]:
        """Also time reading and decoding the files."""
        workers = self._settings.num_workers
        found, reasons = files_alone(self._paths, self._columns, workers, page_cache)
        gathered, _ = super().alone(page_cache)
        return found | gathered, reasons

    def what_if(self) -> tuple[Metrics, Reasons]:
        """Time streaming rewritten files, each by a new loader; no column can be left out."""

        def load(paths: Sequence[str], columns: Sequence[str] | None) -> None:
            del columns
            for _ in self._stream(paths):
                pass

        return what_ifs(self._paths, self._columns, load, all_needed=True)


def untransferable(batch: Any) -> str | None:
    """Why copying batches like this one to a GPU is not measured; None for torch tensors."""
    found = parts(batch)
    if any(map(_is_tensor, found)):
        return None
    kinds = {type(part).__module__.partition(".")[0] for part in found}
    if kinds == {"numpy"}:
        return "the batches are numpy arrays"
    if "tensorflow" in kinds:
        return "TensorFlow places its tensors itself"
    return f"the batches hold {', '.join(sorted({type(part).__name__ for part in found}))} objects"


def _is_tensor(part: Any) -> bool:
    return hasattr(part, "pin_memory")  # without importing torch
