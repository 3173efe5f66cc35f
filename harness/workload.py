"""One job on one set of files, prepared, visited pass by pass, and fingerprinted."""

from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..loaders.backends import Backend, get_backend
from ..loaders.cache import FileCache, make_cache
from ..loaders.errors import ColumnError
from ..loaders.frames import FrameReader
from ..loaders.matrix import Columns
from ..loaders.original import read_file, read_frame
from ..loaders.profile import Job
from ..loaders.schedule import ThreadScheduler
from ..loaders.settings import LoaderSettings, default_workers
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
from .probes import Stopwatch

WARM_UP_ROWS = 64  # of a batch
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
    if job == "batches":
        # Not part of what is timed, and if it were wrong the fingerprint would tell.
        frame = FrameReader(ThreadScheduler(default_workers())).load(paths, columns.names)
        return BatchWork(lambda: backend.batches(settings, frame, columns), settings, step=step)
    return BatchWork(
        lambda: backend.stream(settings, paths, columns), settings, size_of(paths), step
    )


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
        self._frame: pd.DataFrame | None = None
        with ExitStack() as cleanup:
            folder = None
            if settings.cache == "disk":
                folder = tempfile.mkdtemp(prefix="feedrate-cache-")
                cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
            self._cache: FileCache | None = make_cache(settings.cache, folder)
            self._load: Callable[[], pd.DataFrame]
            if backend.name == "original":
                # The reference itself, without the checks that the drop-in adds.
                self._load = lambda: read_frame(self._paths, self._columns)
            else:
                loader = backend.frame(settings, self._cache, "concat", "raise")
                self._load = lambda: loader.load(self._paths, self._columns)
            self._cleanup = cleanup.pop_all()

    def visit(self) -> Pass:
        """Load the frame; it is held until the next visit."""
        self._frame = None
        with Stopwatch() as watch:
            frame = self._load()
        self._frame = frame
        rate = size_of(self._paths) / watch.seconds
        return Pass(rows=len(frame), metrics=watch.metrics | {"bytes_per_s": rate})

    def fingerprint(self) -> str:
        """Load once more, untimed, and digest the frame."""
        self._frame = None
        return frame_fingerprint(self._load())

    def overhead(self) -> Metrics:
        """A visit is a call between two readings of the clock."""
        with Stopwatch() as watch:
            pass
        return {"harness_s": watch.seconds}

    def transfer(self) -> tuple[Metrics, Reasons]:
        """Nothing: a frame stays in the host's memory."""
        return untransferred("the frame job never touches a GPU")

    def close(self) -> None:
        """Drop the frame and the cache."""
        self._frame = None
        if self._cache is not None:
            self._cache.clear()
        self._load = pd.DataFrame
        self._cleanup.close()


class BatchWork:
    """The training jobs: epochs of batches. The first pass includes building the loader."""

    def __init__(
        self,
        build: Callable[[], Iterable[Any]],
        settings: LoaderSettings,
        file_bytes: int | None = None,
        step: Step | None = None,
    ) -> None:
        self._build = build
        self._file_bytes = file_bytes
        self._settings = settings
        self._batches: Iterable[Any] | None = None
        self._step = step
        self._seen: Consumption | None = None
        self._untransferable: str | None = NO_BATCHES

    def visit(self) -> Pass:
        """One epoch, each batch consumed as it comes."""
        self._seen = None
        with Stopwatch() as watch:
            seen = consume(self._epoch, self._step)
        self._seen = seen
        self._untransferable = untransferable(seen.last) if seen.came else NO_BATCHES
        metrics = watch.metrics | seen.metrics
        if self._step is not None:
            metrics |= seen.step_metrics
        if self._file_bytes is not None:
            metrics["bytes_per_s"] = self._file_bytes / watch.seconds
        return Pass(rows=sum(seen.rows), metrics=metrics)

    def _epoch(self) -> Iterable[Any]:
        if self._batches is None:
            self._batches = self._build()
        return self._batches

    def fingerprint(self) -> str:
        """One epoch more, untimed, and its digest."""
        return fingerprint_batches(self._epoch(), ordered=not self._settings.shuffle)

    def overhead(self) -> Metrics:
        """The loop over as many ready-made batches as a pass has; the step without a loader."""
        seen = self._seen
        if seen is None or not seen.came:
            return {}
        found: Metrics = {"harness_s": loop_seconds(seen.last) * len(seen.came)}
        if self._step is not None:
            found["step_alone_s"] = alone_seconds(self._step, seen.last)
        return found

    def transfer(self) -> tuple[Metrics, Reasons]:
        """One epoch more of torch tensors, to the GPU; no epoch where that cannot be."""
        if self._untransferable is not None:
            return untransferred(self._untransferable)
        return measure_h2d(self._tensors())

    def _tensors(self) -> Iterator[Any]:
        # Not an expression, which would start an epoch before its first tensor is asked for.
        for batch in self._batches or ():
            yield from filter(_is_tensor, parts(batch))

    def close(self) -> None:
        """Drop the loader."""
        self._batches = self._seen = None
        self._build = list


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


def size_of(paths: Iterable[str]) -> int:
    """The sizes of files together, in bytes."""
    return sum(Path(path).stat().st_size for path in paths)


def settle() -> None:
    """Give back what the last trial left, as far as a process can."""
    gc.collect()
    pa.default_memory_pool().release_unused()
