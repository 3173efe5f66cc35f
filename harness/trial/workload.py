"""Prepare the work of a trial: build its loader, and do its imports and start-up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...loaders.base.schedule import ThreadScheduler
from ...loaders.base.settings import LoaderSettings, default_workers
from ...loaders.choosing.profile import Job
from ...loaders.choosing.registry import get_backend
from ...loaders.frames.engine import POLARS_FROM_WORKERS, import_polars
from ...loaders.frames.reader import FrameReader
from ...loaders.remote.plain import plain_file
from ...loaders.remote.requests import get
from ...loaders.remote.store import Span
from ...loaders.training.matrix import Columns
from ..system.scratch import scratch
from .batch_work import BatchWork, StreamWork
from .consumer import make_step
from .consumption import Step
from .frame_work import FrameWork
from .work import Data, Work

WARM_UP_ROWS = 64  # of a batch
WARM_UP_OWN_FILES = 8  # several: for one file, a loader may not import or start all that it needs
# Two files of 9 MB are more than one part for polars. A few batches suffice for rows in memory, and
# for the original, which treats all sizes alike and takes 2 s for that many rows in a training job.
WARM_UP_FILES, WARM_UP_FILE_ROWS, FEW_ROWS = 2, 140_000, 2048


def prepare(
    job: Job, settings: LoaderSettings, files: int, data: Data, consumer: str | None = None
) -> Work:
    """Build the loader of a trial; imports and one-off start-up are done when this returns.

    Args:
        job: `frame`, `batches` or `stream`.
        settings: of the loader.
        files: number of the data's files to load.
        data: files and columns.
        consumer: the stand-in for a training step, as in `make_step`.
    """
    backend = get_backend(settings.backend)
    paths = data.first(files)
    if job == "frame":
        return FrameWork(backend, settings, paths, data.columns)
    columns = data.training
    step = None if consumer is None else _warmed_step(consumer, columns)
    if job == "batches" and (build := backend.batches_of_files) is not None:
        return BatchWork(lambda: build(settings, paths, columns), settings, step=step)
    if job == "batches":
        # Not timed; if it were wrong, the fingerprint would differ.
        frame = FrameReader(ThreadScheduler(default_workers())).load(paths, columns.names)
        return BatchWork(lambda: backend.batches(settings, frame, columns), settings, step=step)

    def stream(files: Sequence[str]) -> Iterable[Any]:
        return backend.stream(settings, files, columns)

    return StreamWork(stream, settings, paths, columns.names, step)


def _warmed_step(consumer: str, columns: Columns) -> Step:
    """A consumer's step that has run once, so that its start-up is not in the first pass."""
    step = make_step(consumer)
    arrays = columns.empty(WARM_UP_ROWS, np.zeros)
    step(tuple(arrays) if len(arrays) > 1 else arrays[0])
    return step


def pipeline(settings: LoaderSettings) -> LoaderSettings:
    """Reset the settings that do not shape a pipeline: equal results share one warm-up."""
    plain = LoaderSettings()
    return msgspec.structs.replace(
        settings, cache="none", seed=plain.seed, batch_size=plain.batch_size
    )


def warm_up(job: Job, settings: LoaderSettings, data: Data | None = None) -> None:
    """Run the job once, untimed, so that imports, thread pools and runtimes start here.

    Otherwise, costs that a user pays once per process would count in the first pass. Our loaders
    load files made for the warm-up. Others may support only the columns of the data, so they load
    the first few files of the data.
    """
    backend = get_backend(settings.backend)
    if data is not None and data.of_objects and not backend.is_foreign:
        _warm_up_store(data.paths[0], plain=backend.name == "original")
    if data is not None and backend.is_foreign:
        _warm_up_custom(prepare(job, settings, WARM_UP_OWN_FILES, data))
    else:
        _warm_up_builtin(job, settings)


def _warm_up_store(path: str, *, plain: bool) -> None:
    """Connect to an object's store by one request, as loaders do, or as plain pandas does."""
    if plain:
        files, key = plain_file(path)
        files.get_file_info(key)
    else:
        get(path, Span(0, 1))


def _warm_up_builtin(job: Job, settings: LoaderSettings) -> None:
    # Several files, not too small: if there is little to do, a loader may not use its workers or
    # their shared decoder.
    with scratch() as folder:
        small = job == "batches" or settings.backend == "original"
        rows = FEW_ROWS if small else WARM_UP_FILE_ROWS
        numbers = np.random.default_rng(0).random((2, rows))  # they hardly compress
        text = pa.array(np.arange(rows)).cast(pa.string())
        table = pa.table({"x": numbers[0], "y": numbers[1], "text": text})
        paths = [str(Path(folder, f"{number}.parquet")) for number in range(WARM_UP_FILES)]
        for path in paths:
            pq.write_table(table, path, use_dictionary=False)
        data = Data(paths=paths, columns=None, features=["x"], target="y")
        if job != "stream" and settings.num_workers >= POLARS_FROM_WORKERS:
            import_polars()  # repeated loads would import it
        work = prepare(job, msgspec.structs.replace(settings, cache="none"), len(paths), data)
        work.visit()
        work.close()


def _warm_up_custom(work: Work) -> None:
    try:
        if isinstance(work, BatchWork):
            work.take_one_batch()  # its epochs may never end
        else:
            work.visit()
    finally:
        work.close()
