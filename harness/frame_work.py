"""The frame job as work to be timed: files to one frame."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import pandas as pd

from ..loaders.backends import Backend
from ..loaders.caching.base import FileCache, make_cache
from ..loaders.original import read_frame
from ..loaders.settings import LoaderSettings
from ..loaders.stages import Recorder
from .alone import total_bytes
from .breakdown import copy_alone, files_alone, staged
from .fingerprint import Fingerprint, frame_fingerprint
from .gpu import Metrics, Reasons, untransferred
from .pagecache import PageCache
from .probes import Stopwatch
from .timeline import mark_seconds
from .what_if import what_ifs
from .work import Pass

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
                folder = tempfile.mkdtemp(prefix="feedrate-cache-")
                cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
            self._cache: FileCache | None = make_cache(settings.cache, folder, settings.cache_bytes)
            self._load = self._loader(self._cache)
            self._cleanup = cleanup.pop_all()

    def _loader(self, cache: FileCache | None) -> LoadFrame:
        if self._backend.name == "original":
            return read_frame  # the reference itself, without the checks that the drop-in adds
        return self._backend.frame(self._settings, cache, "concat", "raise").load

    def visit(self) -> Pass:
        """Load the frame; it is held until the next visit."""
        self._frame = None
        with Recorder() as recorder, Stopwatch() as watch:
            frame = self._load(self._paths, self._columns)
        self._frame = frame
        self._size = float(frame.memory_usage(deep=False).sum())
        self._marks = len(recorder.marks)
        metrics = watch.metrics | {"bytes_per_s": total_bytes(self._paths) / watch.seconds}
        metrics |= staged(recorder, watch.interval, self._settings)
        return Pass(rows=len(frame), metrics=metrics)

    def fingerprint(self) -> Fingerprint:
        """Load once more, untimed, and digest the frame."""
        self._frame = None
        return frame_fingerprint(self._load(self._paths, self._columns))

    def overhead(self) -> Metrics:
        """A visit is a call between two readings of the clock, in which stages are noted."""
        with Stopwatch() as watch:
            pass
        return {"harness_s": watch.seconds + self._marks * mark_seconds()}

    def alone(self, page_cache: PageCache) -> tuple[Metrics, Reasons]:
        """Reading and decoding the files, and copying as many bytes as the frame has."""
        self._frame = None
        workers = self._settings.num_workers
        found, reasons = files_alone(self._paths, self._columns, workers, page_cache)
        return found | copy_alone(self._size), reasons

    def what_if(self) -> tuple[Metrics, Reasons]:
        """Other columns and files, each loaded by a new loader without a cache."""
        self._frame = None

        def load(paths: Sequence[str], columns: Sequence[str] | None) -> None:
            self._loader(None)(paths, columns)

        return what_ifs(self._paths, self._columns, load)

    def transfer(self) -> tuple[Metrics, Reasons]:
        """Nothing: a frame stays in the host's memory."""
        return untransferred("the frame job never touches a GPU")

    def close(self) -> None:
        """Drop the frame and the cache."""
        self._frame = None
        if self._cache is not None:
            self._cache.clear()
        self._load = read_frame
        self._cleanup.close()
