"""One job on one set of files, prepared, visited pass by pass, and fingerprinted."""

from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
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
from .fingerprint import BatchFingerprint, fingerprint_batches, frame_fingerprint
from .gpu import NO_BATCHES, Metrics, Reasons, measure_h2d, untransferred
from .probes import Stopwatch

WARM_UP_ROWS = 64


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

    def transfer(self) -> tuple[Metrics, Reasons]:
        """How long the delivered batches take to reach a GPU."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


def prepare(job: Job, settings: LoaderSettings, files: int, data: Data) -> Work:
    """Build the loader of a trial; imports and one-off start-up are done when this returns."""
    backend = get_backend(settings.backend)
    paths = data.paths[:files]
    if job == "frame":
        return FrameWork(backend, settings, paths, data.columns)
    columns = data.training
    if job == "batches":
        # Not part of what is timed, and if it were wrong the fingerprint would tell.
        frame = FrameReader(ThreadScheduler(default_workers())).load(paths, columns.names)
        return BatchWork(lambda: backend.batches(settings, frame, columns), settings)
    return BatchWork(lambda: backend.stream(settings, paths, columns), settings, size_of(paths))


def pipeline(settings: LoaderSettings) -> LoaderSettings:
    """The settings without those that do not shape a pipeline: one warm-up serves all of them."""
    plain = LoaderSettings()
    return msgspec.structs.replace(
        settings, cache="none", seed=plain.seed, batch_size=plain.batch_size
    )


def warm_up(job: Job, settings: LoaderSettings) -> None:
    """Run the job once on a tiny file of our own: imports, thread pools and runtimes start here.

    What a user pays once a process would else be counted in the first pass.
    """
    with tempfile.TemporaryDirectory(prefix="feedrate-") as folder:
        path = str(Path(folder, "tiny.parquet"))
        numbers = np.arange(WARM_UP_ROWS, dtype=np.float64)
        text = [str(number) for number in range(WARM_UP_ROWS)]
        pq.write_table(pa.table({"x": numbers, "y": numbers, "text": text}), path)
        data = Data(paths=[path, path], columns=None, features=["x"], target="y")
        work = prepare(job, msgspec.structs.replace(settings, cache="none"), 2, data)
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
    ) -> None:
        self._build = build
        self._file_bytes = file_bytes
        self._settings = settings
        self._batches: Iterable[Any] | None = None
        self._untransferable: str | None = NO_BATCHES

    def visit(self) -> Pass:
        """One epoch, consumed as fast as it comes."""
        waits: list[float] = []
        rows = 0
        batch = None
        with Stopwatch() as watch:
            before = perf_counter()
            if self._batches is None:
                self._batches = self._build()
            for batch in self._batches:
                waits.append(perf_counter() - before)
                rows += _length(batch)
                before = perf_counter()
        self._untransferable = NO_BATCHES if batch is None else untransferable(batch)
        metrics = watch.metrics | latencies(waits)
        if self._file_bytes is not None:
            metrics["bytes_per_s"] = self._file_bytes / watch.seconds
        return Pass(rows=rows, metrics=metrics)

    def fingerprint(self) -> str:
        """One epoch more, untimed, and its digest."""
        if self._batches is None:
            self._batches = self._build()
        return fingerprint_batches(self._batches, ordered=not self._settings.shuffle)

    def transfer(self) -> tuple[Metrics, Reasons]:
        """One epoch more of torch tensors, to the GPU; no epoch where that cannot be."""
        if self._untransferable is not None:
            return untransferred(self._untransferable)
        return measure_h2d(self._tensors())

    def _tensors(self) -> Iterator[Any]:
        # Not an expression, which would start an epoch before its first tensor is asked for.
        for batch in self._batches or ():
            yield from filter(_is_tensor, _parts(batch))

    def close(self) -> None:
        """Drop the loader."""
        self._batches = None
        self._build = list


def latencies(waits: list[float]) -> dict[str, float | None]:
    """Time to the first batch, and percentiles of the waits, in seconds."""
    if not waits:
        return {}
    p50, p95, p99 = np.percentile(waits, [50, 95, 99])
    return {
        "first_batch_s": waits[0],
        "batch_p50_s": float(p50),
        "batch_p95_s": float(p95),
        "batch_p99_s": float(p99),
        "wait_s": sum(waits),
    }


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
    parts = _parts(batch)
    if any(map(_is_tensor, parts)):
        return None
    kinds = {type(part).__module__.partition(".")[0] for part in parts}
    if kinds == {"numpy"}:
        return "the batches are numpy arrays"
    if "tensorflow" in kinds:
        return "TensorFlow places its tensors itself"
    return f"the batches hold {', '.join(sorted({type(part).__name__ for part in parts}))} objects"


def _parts(batch: Any) -> Sequence[Any]:
    return batch if isinstance(batch, tuple | list) else [batch]


def _is_tensor(part: Any) -> bool:
    return hasattr(part, "pin_memory")  # torch is not imported for the question


def _length(batch: Any) -> int:
    return len(_parts(batch)[0])


def size_of(paths: Iterable[str]) -> int:
    """The sizes of files together, in bytes."""
    return sum(Path(path).stat().st_size for path in paths)


def settle() -> None:
    """Give back what the last trial left, as far as a process can."""
    gc.collect()
    pa.default_memory_pool().release_unused()
