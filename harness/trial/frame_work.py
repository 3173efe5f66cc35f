"""The timed work of the frame job: files to one frame."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import pandas as pd

from ...loaders.base.settings import LoaderSettings
from ...loaders.base.stages import Recorder
from ...loaders.caching.base import FileCache
from ...loaders.caching.tiers import make_cache
from ...loaders.choosing.backend import Backend
from ...loaders.frames.reader import FrameReader
from ...loaders.parquet.original import read_frame
from ..record.metrics import FILES_BY_PANDAS
from ..system.pagecache import PageCache
from ..system.scratch import scratch_folder
from ..system.units import counted
from .alone import total_bytes
from .breakdown import copy_alone, files_alone, staged
from .fingerprint import Fingerprint, frame_fingerprint
from .gpu import Metrics, Reasons, untransferred
from .probes import Stopwatch
from .timeline import mark_seconds
from .what_if import what_ifs
from .work import Pass

SHOWN = 3  # reasons why pandas reads files

LoadFrame = Callable[[Sequence[str], Sequence[str] | None], pd.DataFrame]
"""Loads columns (None: all) of files."""


class FrameWork:
    """The frame job: files to one frame."""

    def __init__(
        self,
        backend: Backend,
        settings: LoaderSettings,
        paths: list[str],
        columns: list[str] | None,
    ) -> None:
        self._paths, self._columns = paths, columns
        self._backend, self._settings = backend, settings
        self._frame: pd.DataFrame | None = None
        self._size = 0.0
        self._marks = 0
        with ExitStack() as cleanup:
            folder = None
            if settings.cache == "disk":
                folder = scratch_folder()
                cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
            self._cache: FileCache | None = make_cache(settings.cache, folder, settings.cache_bytes)
            self._load, self._reader = self._loader(self._cache)
            self._cleanup = cleanup.pop_all()

    def _loader(self, cache: FileCache | None) -> tuple[LoadFrame, FrameReader | None]:
        """The function that loads a frame, and its reader if that counts files read by pandas."""
        if self._backend.name == "original":
            return read_frame, None  # the reference itself, without the checks the drop-in adds
        loader = self._backend.frame(self._settings, cache, "concat", "raise")
        return loader.load, loader if isinstance(loader, FrameReader) else None

    def _by_pandas(self) -> Counter[str]:
        """The number of files that pandas has read itself so far, by reason."""
        return Counter() if self._reader is None else Counter(self._reader.by_pandas)

    def visit(self) -> Pass:
        """Load the frame; it is kept until the next pass."""
        self._frame = None
        before = self._by_pandas()
        with Recorder() as recorder, Stopwatch() as watch:
            frame = self._load(self._paths, self._columns)
        self._frame = frame
        self._size = float(frame.memory_usage(deep=False).sum())
        self._marks = len(recorder.marks)
        metrics = watch.metrics | {"bytes_per_s": total_bytes(self._paths) / watch.seconds}
        metrics |= staged(recorder, watch.interval, self._settings)
        if self._reader is None:
            return Pass(rows=len(frame), metrics=metrics)
        by_pandas = self._by_pandas() - before
        metrics[FILES_BY_PANDAS] = float(by_pandas.total())
        reasons = {FILES_BY_PANDAS: in_one_line(by_pandas)} if by_pandas else {}
        return Pass(rows=len(frame), metrics=metrics, reasons=reasons)

    def fingerprint(self) -> Fingerprint:
        """Digest the frame of the last pass; without one, load it untimed."""
        frame = self._frame
        if frame is None:
            frame = self._load(self._paths, self._columns)
        return frame_fingerprint(frame)

    def overhead(self) -> Metrics:
        """Time two readings of the clock, and recording the stages of the last pass."""
        with Stopwatch() as watch:
            pass
        return {"harness_s": watch.seconds + self._marks * mark_seconds()}

    def alone(self, page_cache: PageCache) -> tuple[Metrics, Reasons]:
        """Time reading and decoding the files, and copying as many bytes as the frame has."""
        self._frame = None
        metrics, reasons = files_alone(self._paths, self._columns, self._settings, page_cache)
        return metrics | copy_alone(self._size), reasons

    def what_if(self) -> tuple[Metrics, Reasons]:
        """Time fewer columns and rewritten files, each loaded by a new loader without a cache."""
        self._frame = None

        def load(paths: Sequence[str], columns: Sequence[str] | None) -> None:
            self._loader(None)[0](paths, columns)

        return what_ifs(self._paths, self._columns, load)

    def transfer(self) -> tuple[Metrics, Reasons]:
        """Measure nothing: a frame stays in the host's memory."""
        return untransferred("the frame job never touches a GPU")

    def close(self) -> None:
        """Drop the frame and the cache."""
        self._frame = None
        if self._cache is not None:
            self._cache.clear()
        self._load = read_frame
        self._cleanup.close()


def in_one_line(reasons: Counter[str]) -> str:
    """Why pandas read files, the reason for most files first.

    >>> in_one_line(Counter({"an index is stored": 2, "column 'a' holds maps (map)": 3}))
    "column 'a' holds maps (map) (3 files) and an index is stored (2 files)"
    """
    if len(reasons) == 1:
        return next(iter(reasons))
    shown = [f"{reason} ({counted(count, 'file')})" for reason, count in reasons.most_common(SHOWN)]
    left = len(reasons) - SHOWN
    more = f" and for {counted(left, 'other reason')}" if left > 0 else ""
    return " and ".join(shown) + more
