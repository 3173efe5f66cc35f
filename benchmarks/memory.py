"""Memory of fresh processes, as the kernel reports it."""

from __future__ import annotations

import functools
import gc
import itertools
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
from feedrate.harness.system.memory import MemorySampler
from feedrate.loaders.frames.engine import import_polars

from . import requirements as names
from .data import FEATURES, INTEGER_COLUMNS, TARGET, Setup, expect_frame, matrix_frame
from .fresh import Fresh, Ready, Task
from .interleave import MIB, Comparison, Prepared, Side

BYTES_PER_MIB = 1 << 20
WARM_UP_FILES = 20  # a single small file would be decoded without polars
INTERVAL_S = 0.001
TIMES = 10
WORKERS = 2
WORKER_BATCH = 1024
WORKER_BATCHES = 1000  # the rows of a batch are spread over the data
WORKER_INTERVAL_S = 0.02


def peak_above_start(task: Task, options: object) -> tuple[float, Any]:
    """Run a task in a fresh process, and measure its peak memory above that at `go`, in bytes.

    The larger of two rises: of the sampled PSS, which may miss a short peak, and of RSS, whose peak
    the kernel keeps.

    Returns:
        The rise, and the task's result.
    """
    with Fresh(task, options) as child:
        child.wait_until_ready()
        with MemorySampler(child.pid, INTERVAL_S) as sampler:
            before = sampler.reset_peak()
            result = child.go()
            peak = sampler.peak()
        if before is None or peak is None:
            raise AssertionError("the kernel tells no memory of the process")
        return max(peak.pss - before.pss, peak.rss - before.rss), result


# --- a frame -----------------------------------------------------------------------------------


DATA: dict[str, tuple[str, list[str] | None]] = {
    "flights": ("flights", None),
    "integers": ("lineitem", INTEGER_COLUMNS),
}


def load_frame(options: dict[str, Any], ready: Ready) -> tuple[int, Any]:
    """Load data once, after another loader has loaded some of it, so that all is imported."""
    setup = Setup(**options["setup"])
    data_type, columns = DATA[options["data"]]
    settings = {"backend": "pytorch", "cache": options["cache"]}
    paths = setup.files(data_type)
    import_polars()  # else its 50 MB would count as the rise if only the measured load needs it
    setup.loader(**settings).load_files(paths[:WARM_UP_FILES], columns)
    loader = setup.loader(**settings)
    gc.collect()
    ready()
    frame = loader.load_files(paths, columns)
    return int(frame.memory_usage(deep=True).sum()), (frame, loader)


def check_frame(options: dict[str, Any], ready: Ready) -> tuple[None, None]:
    """Fail if the frame of `load_frame` differs from the original's."""
    _, (frame, _loader) = load_frame(options, ready)
    setup = Setup(**options["setup"])
    data_type, columns = DATA[options["data"]]
    expect_frame(setup.original.load_files(setup.files(data_type), columns))(frame)
    return None, None


def _frame(cache: str, data: str, setup: Setup) -> Prepared:
    options = {"setup": vars(setup), "cache": cache, "data": data}

    def times() -> float:
        peak, result = peak_above_start(load_frame, options)
        return peak / result

    def check(_: float) -> None:
        peak_above_start(check_frame, options)

    return Prepared({names.PYTORCH: Side(times, check, measures_itself=True)})


# --- a stream ----------------------------------------------------------------------------------


def stream_epoch(options: dict[str, Any], ready: Ready) -> tuple[int, Any]:
    """Count the rows of an epoch, after an epoch of a single file, so that all is imported."""
    setup = Setup(**options["setup"])
    paths = setup.many_times("lineitem", options["times"])
    _epoch(options["backend"], paths[:1])
    gc.collect()
    ready()
    return _epoch(options["backend"], paths), None


def _epoch(backend: str, paths: list[str]) -> int:
    """Make a dataset, and count the rows of an epoch of shuffled batches of 1024."""
    if backend == "tensorflow":
        from feedrate.loaders import TensorFlowDataLoader

        batches = TensorFlowDataLoader().create_streaming_dataset(paths, INTEGER_COLUMNS)
    else:
        from .streams import ours

        batches = ours(paths)()
    return sum(int(batch.shape[0]) for batch in batches)


def _stream(backend: str, setup: Setup) -> Prepared:
    rows: dict[int, int] = {}

    def rise(times: int) -> float:
        options = {"setup": vars(setup), "backend": backend, "times": times}
        peak, rows[times] = peak_above_start(stream_epoch, options)
        return peak / BYTES_PER_MIB

    def check(_: float) -> None:
        if rows[TIMES] != TIMES * rows[1]:
            raise AssertionError(f"rows: {rows}")

    few = Side(functools.partial(rise, 1), measures_itself=True)
    many = Side(functools.partial(rise, TIMES), check, measures_itself=True)
    return Prepared({"60 files": few, "600 files": many})


# --- worker processes --------------------------------------------------------------------------


def worker_epochs(options: Mapping[str, Any], ready: Ready) -> tuple[int, Any]:
    """Start worker processes on rows in memory, and take batches of an epoch.

    The first batch comes before `ready`, so that the workers have started.
    """
    from feedrate.loaders import PyTorchDataLoader

    loader = PyTorchDataLoader(num_workers=WORKERS, worker_kind="process")
    dataset = loader.create_dataset_from_dataframe(
        matrix_frame(options["rows"]), list(FEATURES), TARGET
    )
    matrix_frame.cache_clear()
    batches = loader.create_dataloader(dataset, batch_size=WORKER_BATCH)
    found = iter(batches)
    rows = len(next(found)[0])
    left = min(WORKER_BATCHES, len(batches) - 1)  # workers end with the epoch
    gc.collect()
    ready()
    rows += sum(len(x) for x, _y in itertools.islice(found, left))
    return rows, found  # holding the iterator keeps the workers alive


def held_below(pid: int) -> int:
    """The PSS of all child processes of `pid`, in bytes.

    Not its own: a loader moves its rows to memory that workers share.
    """
    below = psutil.Process(pid).children(recursive=True)
    if len(below) < WORKERS:
        raise AssertionError(f"{len(below)} worker processes")
    return sum(process.memory_full_info().pss for process in below)


def _workers(setup: Setup) -> Prepared:
    row_bytes = 4 * (len(FEATURES) + 1)
    everything = int(setup.gib * (1 << 30)) // row_bytes
    few = WORKERS * WORKER_BATCH  # a batch for each worker, so that each has worked

    def highest(rows: int) -> float:
        with Fresh(worker_epochs, {"rows": rows}) as child, ThreadPoolExecutor(1) as pool:
            child.wait_until_ready()
            going = pool.submit(child.go)
            held = [held_below(child.pid)]
            while not going.done():
                time.sleep(WORKER_INTERVAL_S)
                held.append(held_below(child.pid))
            found = going.result()
        if found != min(rows, (1 + WORKER_BATCHES) * WORKER_BATCH):
            raise AssertionError(f"{found} of {rows} rows")
        return max(held) / WORKERS / BYTES_PER_MIB

    sides = {
        "a few rows": Side(functools.partial(highest, few), measures_itself=True),
        "all rows": Side(functools.partial(highest, everything), measures_itself=True),
    }
    return Prepared(sides, lambda: {"on 1 GiB": setup.gib >= 1})


COMPARISONS = (
    *(
        Comparison(
            f"memory-frame-{name}-{data}",
            f"memory, frame of {data}, {name} cache",
            (names.PYTORCH,),
            rounds=7,
            prepare=functools.partial(_frame, cache, data),
            unit="x",
        )
        for name, cache in (("no", "none"), ("memory", "memory"))
        for data in DATA
    ),
    *(
        Comparison(
            f"memory-stream-{backend}",
            f"memory, stream, {backend}",
            ("60 files", "600 files"),
            rounds=5,
            prepare=functools.partial(_stream, backend),
            unit=MIB,
        )
        for backend in ("pytorch", "tensorflow")
    ),
    Comparison(
        "memory-workers",
        "memory, worker processes",
        ("a few rows", "all rows"),
        rounds=3,
        prepare=_workers,
        unit=MIB,
    ),
)
