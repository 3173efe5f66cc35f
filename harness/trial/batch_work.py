"""The timed work of training jobs: epochs of batches."""

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
        self._consumption: Consumption | None = None
        self._no_transfer_reason: str | None = NO_BATCHES

    def visit(self) -> Pass:
        """Run one epoch and consume each batch as it comes."""
        self._consumption = None
        with Recorder() as recorder, Stopwatch() as watch:
            consumption = consume(self._epoch, self._step)
        self._consumption = consumption
        self._marks = len(recorder.marks)
        reason = untransferable(consumption.last) if consumption.came else NO_BATCHES
        self._no_transfer_reason = reason
        metrics = watch.metrics | consumption.metrics
        if self._step is not None:
            metrics |= consumption.step_metrics
        steps = () if self._step is None else consumption.steps
        metrics |= staged(
            recorder, watch.interval, self._settings, steps, from_files=bool(self._paths)
        )
        if self._paths:
            metrics["bytes_per_s"] = total_bytes(self._paths) / watch.seconds
        return Pass(rows=sum(consumption.rows), metrics=metrics)

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
        """Time the loop over ready-made batches, as many as in a pass, and the step alone."""
        consumption = self._consumption
        if consumption is None or not consumption.came:
            return {}
        loop = loop_seconds(consumption.last) * len(consumption.came)
        metrics: Metrics = {"harness_s": loop + self._marks * mark_seconds()}
        if self._step is not None:
            metrics["step_alone_s"] = alone_seconds(self._step, consumption.last)
        return metrics

    def transfer(self) -> tuple[Metrics, Reasons]:
        """Run one more epoch and time copying its torch tensors to the GPU, if there are any."""
        if self._no_transfer_reason is not None:
            return untransferred(self._no_transfer_reason)
        return measure_h2d(self._tensors())

    def alone(self, page_cache: PageCache) -> tuple[Metrics, Reasons]:
        """Time gathering as many rows as a pass has, and copying as many bytes."""
        del page_cache  # the rows come from no file
        consumption = self._consumption
        if consumption is None or not consumption.came:
            return {}, {}
        width = sum(math.prod(part.shape[1:]) for part in parts(consumption.last))
        rows = sum(consumption.rows)
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
        self._batches = self._consumption = None
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
        metrics, reasons = files_alone(self._paths, self._columns, self._settings, page_cache)
        row_metrics, _ = super().alone(page_cache)
        return metrics | row_metrics, reasons

    def what_if(self) -> tuple[Metrics, Reasons]:
        """Time streaming rewritten files, each by a new loader; no column can be left out."""

        def load(paths: Sequence[str], columns: Sequence[str] | None) -> None:
            del columns
            for _ in self._stream(paths):
                pass

        return what_ifs(self._paths, self._columns, load, all_needed=True)


def untransferable(batch: Any) -> str | None:
    """Why copying batches like this one to a GPU is not measured; None for torch tensors."""
    arrays = parts(batch)
    if any(map(_is_tensor, arrays)):
        return None
    kinds = {type(part).__module__.partition(".")[0] for part in arrays}
    if kinds == {"numpy"}:
        return "the batches are numpy arrays"
    if "tensorflow" in kinds:
        return "TensorFlow places its tensors itself"
    return f"the batches hold {', '.join(sorted({type(part).__name__ for part in arrays}))} objects"


def _is_tensor(part: Any) -> bool:
    return hasattr(part, "pin_memory")  # without importing torch
