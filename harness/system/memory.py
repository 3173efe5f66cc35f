"""The memory of a process tree, now and at its sampled peak, read from outside (Linux)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

import psutil

from ...loaders.base.errors import InputError
from ...loaders.base.machine import cgroup_folders, local_ranks
from .procfs import (
    MemoryNow,
    descendants,
    parse_smaps_rollup,
    parse_status_hwm,
    read_proc,
    resident,
)

INTERVAL_S = 0.01
# Reading smaps_rollup walks the page tables: 0.06 ms for 10 MiB, 1.4 ms for 500 MiB and 13 ms for
# 2 GiB on one EPYC VM. Resting nine times as long keeps the sampler below a tenth of one CPU.
REST_PER_READ = 9
MOST_ROUNDS = 4  # of readings, while the memory of a tree's processes changes
STILL = 0.01  # relative difference of two readings that counts as no change
GUARD_INTERVAL_S = 0.1  # between checks of memory that is limited but not sampled
REFRESH_EVERY = 10  # samples between searches for new descendants, 1 ms each on that VM


@dataclass(frozen=True)
class MemoryPeak:
    """The highest sampled sum of each kind, in bytes: lower bounds."""

    pss: int
    rss: int
    """At least the kernel's high-water mark of each process alive at the end."""
    uss: int
    shm: int
    samples: int


class MemorySampler:
    """Samples the memory of a process and its descendants in a thread, from outside.

    The peak is a sampled lower bound: memory held for less than the interval may be missed, and
    the processes of a tree are read one after the other. Samples are `interval_s` apart, or
    further if reading takes long (`REST_PER_READ`). Processes that vanish are skipped.

    Args:
        pid: the root of the tree.
        interval_s: seconds between samples.
        watch: receives each sample.
    """

    def __init__(
        self,
        pid: int,
        interval_s: float = INTERVAL_S,
        watch: Callable[[MemoryNow], None] | None = None,
    ) -> None:
        if interval_s <= 0:
            raise InputError(f"interval_s is {interval_s!r}; it must be above 0")
        self._pid = pid
        self._interval_s = interval_s
        self._watch = watch
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory-sampler", daemon=True)
        self._tree = [pid]
        self._stale_marks: set[int] = set()
        self._highest: MemoryNow | None = None
        self._samples = 0
        self.group = GroupPeak()
        """Of the control group that contains the processes and this one."""

    def __enter__(self) -> Self:
        self.reset_peak()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.group.close()

    def reset_peak(self) -> MemoryNow | None:
        """Start a new window, and return the current sums as its baseline.

        None if no process of the tree can be read.
        """
        with self._lock:
            self._highest, self._samples = None, 0
            self._tree = [self._pid, *descendants(self._pid)]
            self._stale_marks = {pid for pid in self._tree if not _reset_high_water_mark(pid)}
            self.group.start()
            return self._sample()

    def peak(self) -> MemoryPeak | None:
        """The peaks since `reset_peak`, after one more sample; None if nothing was readable.

        Call it while the process is alive, so that its own high-water mark can be read.
        """
        with self._lock:
            self._tree = [self._pid, *descendants(self._pid)]
            self._sample()
            if self._highest is None:
                return None
            pss, rss, uss, shm = self._highest
            marks = [
                parse_status_hwm(read_proc(f"/proc/{pid}/status")) or 0
                for pid in self._tree
                if pid not in self._stale_marks
            ]
            return MemoryPeak(pss, max(rss, *marks, 0), uss, shm, self._samples)

    def _run(self) -> None:
        pause = self._interval_s
        while not self._done.wait(pause):
            with self._lock:
                start = time.thread_time()
                if self._samples % REFRESH_EVERY == 0:
                    self._tree = [self._pid, *descendants(self._pid)]
                self._sample()
                pause = max(self._interval_s, REST_PER_READ * (time.thread_time() - start))

    def _sample(self) -> MemoryNow | None:
        readings = _memory_of(self._tree)
        if readings.count(_NOTHING) == len(readings):
            return None
        now = _sum(readings)
        if len(readings) > 1 and (self._highest is None or now != _lower(now, self._highest)):
            now = _sum(_settled(self._tree, readings))
        if self._watch is not None:
            self._watch(now)
        self._highest = now if self._highest is None else _higher(now, self._highest)
        self._samples += 1
        return now


class MemoryGuard:
    """Checks in a thread, at little cost, whether processes stay below a limit of PSS.

    RSS is at least PSS and is read without walking page tables; PSS is read only if RSS is above
    the limit.

    Args:
        pid: the root of the process tree.
        limit: bytes.
        exceeded: receives each reading of PSS.
    """

    def __init__(self, pid: int, limit: int, exceeded: Callable[[MemoryNow], None]) -> None:
        self._pid, self._limit, self._exceeded = pid, limit, exceeded
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory-guard", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        pause = GUARD_INTERVAL_S
        while not self._done.wait(pause):
            tree = [self._pid, *descendants(self._pid)]
            pause = GUARD_INTERVAL_S
            if sum(map(resident, tree)) > self._limit:
                start = time.thread_time()
                self._exceeded(_sum(_memory_of(tree)))
                pause = max(pause, REST_PER_READ * (time.thread_time() - start))


GUARD_SHARE = 0.9
"""Share of the memory that is free at the start: a trial that takes more is ended, before the
kernel kills an arbitrary process."""


def memory_allowance() -> int:
    """Bytes that the processes of a trial may take: an equal share for each local rank."""
    return int(GUARD_SHARE * free_memory()) // local_ranks()


def free_memory() -> int:
    """Bytes that may still be taken: the least that the machine or a control group has left."""
    free = [int(psutil.virtual_memory().available)]
    for folder in cgroup_folders("memory"):
        for used, limit in _GROUP_FILES:
            amounts = read_proc(str(folder / used)), read_proc(str(folder / limit))
            if all(text.strip().isdigit() for text in amounts):  # "max" is no limit
                free.append(max(0, int(amounts[1]) - _without_cache(folder, int(amounts[0]))))
    return min(free)


_GROUP_FILES = (
    ("memory.current", "memory.max"),
    ("memory.usage_in_bytes", "memory.limit_in_bytes"),
)


def _without_cache(folder: Path, used: int) -> int:
    """A group's memory use without the file pages that it can drop (memory.stat)."""
    lines = read_proc(str(folder / "memory.stat")).splitlines()
    fields = dict(line.split(" ", 1) for line in lines if " " in line)
    inactive = fields.get("total_inactive_file", fields.get("inactive_file", "0"))
    return max(0, used - int(inactive))


class GroupPeak:
    """The peak memory of this process's control group since `start`, as the kernel records it.

    The kernel records the peak of the group's whole life. From Linux 6.12 on, each opener of
    `memory.peak` can reset it for itself. Elsewhere, the peak of a pass is known only if it raised
    the group's. It counts the page cache and all processes of the group.
    """

    def __init__(self) -> None:
        self._path = _peak_file()
        self._file: IO[bytes] | None = None
        self._before: int | None = None

    def start(self) -> None:
        """Start a new window."""
        self.close()
        if self._path is None:
            return
        if self._path.name == "memory.peak":  # version 1 would reset it for all readers
            try:
                self._file = self._path.open("r+b", buffering=0)
                self._file.write(b"reset")
            except OSError:  # an older kernel, or no permission to write
                self.close()
        self._before = self._now()

    def peak(self) -> tuple[float | None, str]:
        """The peak in bytes, or None and the reason."""
        if self._path is None:
            return None, "no control group counts this process's memory"
        now = self._now()
        if now is None:
            return None, f"{self._path} cannot be read"
        if self._file is not None or (self._before is not None and now > self._before):
            return float(now), ""
        return None, f"the group had a higher peak before, and {self._path.name} cannot be reset"

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _now(self) -> int | None:
        if self._file is not None:
            self._file.seek(0)
            text = self._file.read().decode(errors="replace")
        else:
            text = read_proc(str(self._path))
        return int(text) if text.strip().isdigit() else None


def _peak_file() -> Path | None:
    """The kernel's file with the peak of this process's group: version 2, or 1."""
    for folder in cgroup_folders("memory"):
        for name in ("memory.peak", "memory.max_usage_in_bytes"):
            if (folder / name).is_file():
                return folder / name
    return None


_NOTHING = MemoryNow(0, 0, 0, 0)


def _memory_of(pids: list[int]) -> list[MemoryNow]:
    """The memory of each process; zeros if it is gone or has freed its memory."""
    texts = (read_proc(f"/proc/{pid}/smaps_rollup") for pid in pids)
    return [parse_smaps_rollup(text) or _NOTHING for text in texts]


def _settled(pids: list[int], readings: list[MemoryNow]) -> list[MemoryNow]:
    """Read processes again until they hardly change; return the lower of the last two readings.

    Processes are read one after the other. If one of them maps shared memory or ends meanwhile, its
    share is counted twice: in earlier and in later readings. The lower of two readings of a process
    is at most its memory between the two rounds, unless that fell and rose within them; so the sum
    of the lower ones is at most the tree's memory at that moment.
    """
    before = lowest = readings
    for _round in range(MOST_ROUNDS - 1):
        now = _memory_of(pids)
        lowest = list(map(_lower, before, now))
        if all(abs(a.pss - b.pss) <= STILL * a.pss for a, b in zip(before, now, strict=True)):
            break
        before = now
    return lowest


def _sum(readings: list[MemoryNow]) -> MemoryNow:
    return MemoryNow(*map(sum, zip(*readings, strict=True)))


def _lower(first: MemoryNow, second: MemoryNow) -> MemoryNow:
    return MemoryNow(*map(min, first, second))


def _higher(first: MemoryNow, second: MemoryNow) -> MemoryNow:
    return MemoryNow(*map(max, first, second))


def _reset_high_water_mark(pid: int) -> bool:
    """Reset a process's VmHWM to its current RSS (proc_pid_clear_refs(5)); False if it failed."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True
