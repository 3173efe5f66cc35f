"""Loaders of known behaviour, to check measurements.

They are backends, registered only in the child processes that trials run in. Each does one thing
whenever an epoch begins, and yields batches of zeros.
"""

from __future__ import annotations

import functools
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...loaders.base.settings import LoaderSettings
from ...loaders.choosing.backend import Backend
from ...loaders.choosing.registry import register
from ...loaders.training.matrix import Columns
from ..system.pagecache import read_through

MIB = 1 << 20
STEP_S = 0.005
STEPS = 100
WORKER_BYTES = 300 * MIB
SHARED_BYTES = 200 * MIB
SHARERS = 4
CPU_S = 1.0
NULL_BATCHES = 20_000
BATCH_ROWS = 1024
HOLD_S = 0.5  # memory is held long enough to be sampled
FOREVER_S = 3600.0
WORK_UNITS, UNIT_ROWS = 500, 20_000  # some tenths of a second in total, little to encode
MORE_WORK = 1.2

_BATCH = np.zeros((BATCH_ROWS, 4), np.float32)

# Without the site module and the environment an interpreter takes 7 MiB.
_BARE = (sys.executable, "-I", "-S", "-c")
_ALLOCATE = """
import mmap, time
memory = mmap.mmap(-1, {size}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for page in range(0, {size}, 4096):
    memory[page] = 1
time.sleep({hold})
"""
_SHARE = """
import mmap, os, sys, time
memory = mmap.mmap({descriptor}, {size})
for page in range(0, {size}, 4096):
    memory[page]
print(flush=True)
sys.stdin.read()
"""
_BURN = """
import time
while time.process_time() < {seconds}:
    pass
"""


def _slow_batches(_: Sequence[str]) -> Iterator[Any]:
    for _step in range(STEPS):
        time.sleep(STEP_S)
        yield _BATCH


def _ready_made(_: Sequence[str]) -> Iterator[Any]:
    for _step in range(NULL_BATCHES):
        yield _BATCH


def _worker_memory(_: Sequence[str]) -> Iterator[Any]:
    _run(_ALLOCATE.format(size=WORKER_BYTES, hold=HOLD_S))
    yield _BATCH


def _shared_memory(_: Sequence[str]) -> Iterator[Any]:
    descriptor = os.memfd_create("feedrate-known")
    try:
        os.ftruncate(descriptor, SHARED_BYTES)
        with mmap.mmap(descriptor, SHARED_BYTES) as memory:
            for page in range(0, SHARED_BYTES, mmap.PAGESIZE):
                memory[page] = 1
        code = _SHARE.format(descriptor=descriptor, size=SHARED_BYTES)
        workers = [
            subprocess.Popen(
                [*_BARE, code],
                pass_fds=(descriptor,),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for _worker in range(SHARERS)
        ]
    finally:
        os.close(descriptor)
    for worker in workers:
        if worker.stdout is not None:
            worker.stdout.readline()  # it has touched all pages
    time.sleep(HOLD_S)
    for worker in workers:
        worker.communicate()
    yield _BATCH


def _burnt_cpu(_: Sequence[str]) -> Iterator[Any]:
    _run(_BURN.format(seconds=CPU_S))
    yield _BATCH


def _read_files(paths: Sequence[str]) -> Iterator[Any]:
    read_through(paths)
    yield _BATCH


def _work(units: int) -> Callable[[Sequence[str]], Iterator[Any]]:
    """A loader that decodes one Parquet file in memory `units` times, as loaders mostly do."""

    def decode(paths: Sequence[str]) -> Iterator[Any]:
        del paths
        buffer = _encoded()
        for _ in range(units):
            pq.read_table(pa.BufferReader(buffer), use_threads=False)
        yield _BATCH

    return decode


@functools.cache
def _encoded() -> pa.Buffer:
    numbers = np.random.default_rng(0).random((4, UNIT_ROWS))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({f"c{n}": column for n, column in enumerate(numbers)}), sink)
    return sink.getvalue()


def _hang(_: Sequence[str]) -> Iterator[Any]:
    time.sleep(FOREVER_S)
    yield _BATCH


def _segfault(_: Sequence[str]) -> Iterator[Any]:
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGSEGV)
    yield _BATCH


def _exit(paths: Sequence[str]) -> Iterator[Any]:
    if paths:
        os._exit(7)
    yield _BATCH


def _allocate_without_end(_: Sequence[str]) -> Iterator[Any]:
    blocks = []
    while True:
        blocks.append(np.ones(16 * MIB, np.uint8))
        time.sleep(0.01)  # the harness watches the limit; the kernel does not enforce it
        yield _BATCH


def _fill_shared_memory(_: Sequence[str]) -> Iterator[Any]:
    with tempfile.NamedTemporaryFile(dir="/dev/shm", prefix="feedrate-known-") as file:
        shm = os.statvfs("/dev/shm")  # noqa: S108
        try:
            # More than the file system holds: it fails at once and takes no memory.
            os.posix_fallocate(file.fileno(), 0, shm.f_blocks * shm.f_frsize + mmap.PAGESIZE)
        except OSError as error:
            raise OSError(error.errno, error.strerror, file.name) from error
    yield _BATCH


def _run(code: str) -> None:
    subprocess.run([*_BARE, code], check=True)


class _Known:
    """Runs its behaviour each time it is iterated."""

    def __init__(
        self, behaviour: Callable[[Sequence[str]], Iterator[Any]], paths: Sequence[str]
    ) -> None:
        self._behaviour, self._paths = behaviour, paths

    def __iter__(self) -> Iterator[Any]:
        return self._behaviour(self._paths)


KNOWN: dict[str, Callable[[Sequence[str]], Iterator[Any]]] = {
    "known-sleep": _slow_batches,
    "known-null": _ready_made,
    "known-worker-memory": _worker_memory,
    "known-shared-memory": _shared_memory,
    "known-cpu": _burnt_cpu,
    "known-read": _read_files,
    "known-hang": _hang,
    "known-segfault": _segfault,
    "known-exit": _exit,
    "known-allocate": _allocate_without_end,
    "known-shm": _fill_shared_memory,
    "known-work": _work(WORK_UNITS),
    "known-more-work": _work(round(MORE_WORK * WORK_UNITS)),
}


def register_known() -> None:
    """Register these loaders as backends of this process."""
    for name, behaviour in KNOWN.items():
        register(_backend(name, behaviour))


def _backend(name: str, behaviour: Callable[[Sequence[str]], Iterator[Any]]) -> Backend:
    def stream(
        settings: LoaderSettings,
        paths: Sequence[str | os.PathLike[str]],
        columns: Columns,
        filters: object = None,
    ) -> Iterable[Any]:
        del settings, columns, filters
        return _Known(behaviour, [os.fspath(path) for path in paths])

    def unsupported(*_: Any, **__: Any) -> Any:
        raise NotImplementedError(f"{name} only streams")

    return Backend(name, frame=unsupported, batches=unsupported, stream=stream)
