"""One job on one set of files, prepared, visited pass by pass, and fingerprinted."""

from __future__ import annotations

import gc
import math
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..loaders.backends import Backend, get_backend, is_own
from ..loaders.cache import FileCache, make_cache
from ..loaders.errors import ColumnError
from ..loaders.frames import FrameReader
from ..loaders.matrix import Columns
from ..loaders.original import read_file, read_frame
from ..loaders.profile import Job
from ..loaders.schedule import ThreadScheduler
from ..loaders.settings import LoaderSettings, default_workers
from ..loaders.stages import Recorder
from .alone import total_bytes
from .breakdown import copy_alone, files_alone, rows_alone, stage_metrics
from .consumer import make_step
from .consumption import (
    Consumption,
    Step,
    alone_seconds,
    consume,
    loop_seconds,
    parts,
)
from .fingerprint import BatchFingerprint, fingerprint_batches, frame_fingerprint
from .gpu import NO_BATCHES, Metrics, Reasons, measure_h2d, untransferred
from .metrics import WHAT_IFS
from .pagecache import PageCache
from .probes import Stopwatch
from .timeline import Interval, attribute, mark_seconds
from .what_if import what_ifs

WARM_UP_ROWS = 64  # of a batch
WARM_UP_OWN_FILES = 8
WARM_UP_FILES, WARM_UP_FILE_ROWS = 2, 20_000


class Data(msgspec.Struct, frozen=True, kw_only=True):
    """The files and columns of a sweep, as a child process is told them once."""

    paths: list[str]
    columns: list[str] | None
    """Columns of the frame job; None means all."""
    features: list[str]
    """Columns of the training jobs."""
    target: str | None
    null_value: float = 0.0

    @property
    def training(self) -> Columns:
        """Features and target of the training jobs."""
        return Columns.of(self.features, self.target, self.null_value)


class Pass(msgspec.Struct, frozen=True, kw_only=True):
    """What one timed visit of the data gave."""

    rows: int
    metrics: dict[str, float | None]


class Work(Protocol):
    """A loader, ready to be timed."""

    def visit(self) -> Pass:
        """Visit the data once, and keep what was delivered until the next visit."""
        ...

    def fingerprint(self) -> str:
        """Visit the data once more, untimed, and digest what is delivered."""
        ...

    def overhead(self) -> Metrics:
        """What measuring itself takes of a pass, and what the consumer does without a loader."""
        ...

    def transfer(self) -> tuple[Metrics, Reasons]:
        """How long the delivered batches take to reach a GPU."""
        ...

    def alone(self, page_cache: PageCache) -> tuple[Metrics, Reasons]:
        """How long the things that a pass consists of take alone, and why some is not known."""
        ...

    def what_if(self) -> tuple[Metrics, Reasons]:
        """What other columns or other files would save, and why some of it is not known."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


def prepare(
    job: Job, settings: LoaderSettings, files: int, data: Data, consumer: str | None = None
) -> Work:
    """Build the loader of a trial; imports and one-off start-up are done when this returns.

    Args:
        job: what is loaded.
        settings: how.
        files: how many of the data's files.
        data: files and columns.
        consumer: what stands for a training step, as `make_step` takes it.
    """
    backend = get_backend(settings.backend)
    paths = data.paths[:files]
    if job == "frame":
        return FrameWork(backend, settings, paths, data.columns)
    columns = data.training
    step = None if consumer is None else _warmed_step(consumer, columns)
    if job == "batches" and (build := backend.batches_of_files) is not None:
        return BatchWork(lambda: build(settings, paths, columns), settings, step=step)
    if job == "batches":
        # Not part of what is timed, and if it were wrong the fingerprint would tell.
        frame = FrameReader(ThreadScheduler(default_workers())).load(paths, columns.names)
        return BatchWork(lambda: backend.batches(settings, frame, columns), settings, step=step)

    def stream(files: Sequence[str]) -> Iterable[Any]:
        return backend.stream(settings, files, columns)

    return StreamWork(stream, settings, paths, columns.names, step)


def _warmed_step(consumer: str, columns: Columns) -> Step:
    """A consumer's step that has been taken once, so that its start is not in the first pass."""
    step = make_step(consumer)
    arrays = columns.empty(WARM_UP_ROWS, np.zeros)
    step(tuple(arrays) if len(arrays) > 1 else arrays[0])
    return step


def pipeline(settings: LoaderSettings) -> LoaderSettings:
    """The settings without those that do not shape a pipeline: one warm-up serves all of them."""
    plain = LoaderSettings()
    return msgspec.structs.replace(
        settings, cache="none", seed=plain.seed, batch_size=plain.batch_size
    )


def warm_up(job: Job, settings: LoaderSettings) -> None:
    """Run the job once on files of our own: imports, thread pools and runtimes start here.

    What a user pays once a process would else be counted in the first pass. There are several
    files, and not too small ones: a loader may do without its workers, and without the decoder
    that they share, where there is little to do.
    """
    with tempfile.TemporaryDirectory(prefix="feedrate-") as folder:
        numbers = np.random.default_rng(0).random((2, WARM_UP_FILE_ROWS))  # they hardly compress
        text = [str(row) for row in range(WARM_UP_FILE_ROWS)]
        table = pa.table({"x": numbers[0], "y": numbers[1], "text": text})
        paths = [str(Path(folder, f"{number}.parquet")) for number in range(WARM_UP_FILES)]
        for path in paths:
            pq.write_table(table, path)
        data = Data(paths=paths, columns=None, features=["x"], target="y")
        work = prepare(job, msgspec.structs.replace(settings, cache="none"), len(paths), data)
        work.visit()
        work.fingerprint()
        work.close()


def warm_up_own(job: Job, settings: LoaderSettings, data: Data) -> None:
    """Run a user's loader once on the first few files: it may know no other columns than theirs.

    There are several, since a loader may not import or start what it needs for many.
    """
    work = prepare(job, settings, WARM_UP_OWN_FILES, data)
    try:
        if isinstance(work, BatchWork):
            work.taste()  # its epochs may never end
        else:
            work.visit()
    finally:
        work.close()


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
            self._cache: FileCache | None = make_cache(settings.cache, folder)
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
        metrics |= _staged(recorder, watch.interval, self._settings)
        return Pass(rows=len(frame), metrics=metrics)

    def fingerprint(self) -> str:
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


LoadFrame = Callable[[Sequence[str], Sequence[str] | None], pd.DataFrame]
"""Loads columns (None: all) of files."""


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
        """One epoch, each batch consumed as it comes."""
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
        metrics |= _staged(
            recorder, watch.interval, self._settings, steps, from_files=bool(self._paths)
        )
        if self._paths:
            metrics["bytes_per_s"] = total_bytes(self._paths) / watch.seconds
        return Pass(rows=sum(seen.rows), metrics=metrics)

    def _epoch(self) -> Iterable[Any]:
        if self._batches is None:
            self._batches = self._build()
        return self._batches

    def taste(self) -> None:
        """Take one batch."""
        next(iter(self._epoch()), None)

    def fingerprint(self) -> str:
        """One epoch more, untimed, and its digest."""
        return fingerprint_batches(self._epoch(), ordered=not self._settings.shuffle)

    def overhead(self) -> Metrics:
        """The loop over as many ready-made batches as a pass has; the step without a loader."""
        seen = self._seen
        if seen is None or not seen.came:
            return {}
        loop = loop_seconds(seen.last) * len(seen.came)
        found: Metrics = {"harness_s": loop + self._marks * mark_seconds()}
        if self._step is not None:
            found["step_alone_s"] = alone_seconds(self._step, seen.last)
        return found

    def transfer(self) -> tuple[Metrics, Reasons]:
        """One epoch more of torch tensors, to the GPU; no epoch where that cannot be."""
        if self._untransferable is not None:
            return untransferred(self._untransferable)
        return measure_h2d(self._tensors())

    def alone(self, page_cache: PageCache) -> tuple[Metrics, Reasons]:
        """Gathering as many rows, and copying as many bytes."""
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
        """Nothing: no file is read."""
        return {}, dict.fromkeys(WHAT_IFS, "the rows are in memory before the job starts")

    def _tensors(self) -> Iterator[Any]:
        # Not an expression, which would start an epoch before its first tensor is asked for.
        for batch in self._batches or ():
            yield from filter(_is_tensor, parts(batch))

    def close(self) -> None:
        """Drop the loader."""
        self._batches = self._seen = None
        self._build = list


class StreamWork(BatchWork):
    """Epochs of batches of rows that are read from files meanwhile."""

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
        """The same, and reading and decoding the files."""
        workers = self._settings.num_workers
        found, reasons = files_alone(self._paths, self._columns, workers, page_cache)
        gathered, _ = super().alone(page_cache)
        return found | gathered, reasons

    def what_if(self) -> tuple[Metrics, Reasons]:
        """Other files, each streamed by a new loader; no column can be left out."""

        def load(paths: Sequence[str], columns: Sequence[str] | None) -> None:
            del columns
            for _ in self._stream(paths):
                pass

        return what_ifs(self._paths, self._columns, load, all_needed=True)


def _staged(
    recorder: Recorder,
    interval: Interval,
    settings: LoaderSettings,
    steps: Iterable[Interval] = (),
    *,
    from_files: bool = True,
) -> Metrics:
    """The stages of a pass, and how many workers had nothing to do; none of a user's loader."""
    if is_own(settings.backend):
        return {}
    timeline = attribute(recorder.marks, interval, steps)
    unseen = not from_files and not timeline.parts
    metrics = stage_metrics(timeline, gathered_unseen=unseen)
    if from_files and timeline.parts and settings.cache == "none":  # else only misses are parts
        metrics["idle_workers"] = float(max(0, settings.num_workers - timeline.parts))
    return metrics


def reference(job: Job, files: int, data: Data, *, ordered: bool) -> str:
    """The fingerprint of what the original delivers, by pandas alone."""
    paths = data.paths[:files]
    if job == "frame":
        return frame_fingerprint(read_frame(paths, data.columns))
    names = data.training.names
    result = BatchFingerprint(ordered=ordered)
    frames = (
        [read_frame(paths, names)]
        if job == "batches"
        else (read_file(path, names) for path in paths)
    )
    for frame in frames:
        result.update(_plain_matrix(frame, data))
    return result.hexdigest()


def _plain_matrix(frame: pd.DataFrame, data: Data) -> np.ndarray:
    """Features and target as float32 by pandas, without the code under test."""
    wanted = [*data.features, *([data.target] if data.target is not None else [])]
    frame = frame.reindex(columns=wanted)
    matrix = np.empty((len(frame), len(wanted)), dtype=np.float32)
    for position, name in enumerate(wanted):
        column = frame[name]
        try:
            if column.dtype == object:  # booleans or decimals with nulls among them
                column = column.map(float, na_action="ignore")
            matrix[:, position] = column.astype("float32").fillna(data.null_value)
        except (ValueError, TypeError) as error:
            raise ColumnError(
                f"column {name!r} holds values that are not numbers ({error}); leave it out with "
                "--columns, or mend the files"
            ) from error
    return matrix


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
    return hasattr(part, "pin_memory")  # torch is not imported for the question


def settle() -> None:
    """Give back what the last trial left, as far as a process can."""
    gc.collect()
    pa.default_memory_pool().release_unused()
