"""Processes as the kernel reports them: parsers for /proc, the process tree, parent death."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import NamedTuple

import psutil

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_STEAL_FIELD = 8  # cpu, user, nice, system, idle, iowait, irq, softirq, steal


class IoCounts(NamedTuple):
    """Bytes that a process has read."""

    syscall: int
    """`rchar`: through read system calls, from the page cache or not; mmap bypasses it."""
    storage: int
    """`read_bytes`: fetched from storage."""


class MemoryNow(NamedTuple):
    """Memory in bytes, of a process or summed over a tree of them."""

    pss: int
    """Proportional: a page shared by n processes counts 1/n in each."""
    rss: int
    """Resident: a shared page counts in each."""
    uss: int
    """Unique: private pages alone."""
    shm: int
    """The part of PSS that is shared memory: /dev/shm, memfd, shared anonymous maps."""


def parse_smaps_rollup(text: str) -> MemoryNow | None:
    """The sums in /proc/PID/smaps_rollup in bytes; None for a process without memory.

    >>> parse_smaps_rollup('''00400000-7ffd ---p 00000000 00:00 0    [rollup]
    ... Rss:                1716 kB
    ... Pss:                 456 kB
    ... Pss_Shmem:            40 kB
    ... Shared_Clean:       1500 kB
    ... Private_Clean:        96 kB
    ... Private_Dirty:       120 kB
    ... ''')
    MemoryNow(pss=466944, rss=1757184, uss=221184, shm=40960)
    """
    sizes = _kib_fields(text)
    if "Pss" not in sizes:
        return None
    return MemoryNow(
        pss=sizes["Pss"],
        rss=sizes.get("Rss", 0),
        uss=sizes.get("Private_Clean", 0) + sizes.get("Private_Dirty", 0),
        shm=sizes.get("Pss_Shmem", 0),
    )


def parse_proc_io(text: str) -> IoCounts | None:
    """The bytes read, from /proc/PID/io; None if they are missing.

    >>> parse_proc_io('''rchar: 6976
    ... wchar: 0
    ... syscr: 10
    ... syscw: 0
    ... read_bytes: 24576
    ... write_bytes: 0
    ... cancelled_write_bytes: 0
    ... ''')
    IoCounts(syscall=6976, storage=24576)
    """
    fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    if not {"rchar", "read_bytes"} <= fields.keys():
        return None
    return IoCounts(int(fields["rchar"]), int(fields["read_bytes"]))


def parse_status_hwm(text: str) -> int | None:
    """The peak of a process's RSS (VmHWM) in /proc/PID/status, in bytes; None for a zombie.

    >>> parse_status_hwm('''Name:   python
    ... VmPeak:    91512 kB
    ... VmHWM:     21076 kB
    ... ''')
    21581824
    """
    return _kib_fields(text).get("VmHWM")


def parse_steal(text: str, ticks_per_s: int) -> float | None:
    r"""Seconds that the hypervisor gave our CPUs to others, from /proc/stat (proc_stat(5)).

    >>> parse_steal("cpu  4705 150 1120 16250 520 0 30 250 0 0\ncpu0 1 1", 100)
    2.5
    """
    fields = text.partition("\n")[0].split()
    if len(fields) <= _STEAL_FIELD or fields[0] != "cpu":
        return None
    return int(fields[_STEAL_FIELD]) / ticks_per_s


def parse_throttled(text: str) -> float | None:
    r"""Seconds that a quota stopped a cgroup, from its cpu.stat of v2 or v1.

    >>> parse_throttled("nr_throttled 2\nthrottled_usec 1500000")
    1.5
    >>> parse_throttled("nr_throttled 2\nthrottled_time 1500000000")
    1.5
    """
    units = {"throttled_usec": 1e6, "throttled_time": 1e9}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name in units and value.isdigit():
            return int(value) / units[name]
    return None


def parse_pressure(text: str) -> float | None:
    r"""Seconds in which some task waited, from a file of /proc/pressure or of a cgroup (PSI).

    >>> parse_pressure("some avg10=0.12 avg60=0.05 avg300=0.01 total=2500000\nfull total=9")
    2.5
    """
    first = text.partition("\n")[0].split()
    total = first[-1].removeprefix("total=") if first[:1] == ["some"] else ""
    return int(total) / 1e6 if total.isdigit() else None


def resident(pid: int) -> int:
    """The resident memory of a process in bytes (statm of proc(5)); 0 if it is gone."""
    fields = read_proc(f"/proc/{pid}/statm").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0


def _kib_fields(text: str) -> dict[str, int]:
    """The lines of the form `Name:  12 kB`, in bytes."""
    lines = (line.split() for line in text.splitlines())
    return {
        words[0].rstrip(":"): int(words[1]) * 1024
        for words in lines
        if len(words) == 3 and words[2] == "kB"  # noqa: PLR2004 - name, number, unit
    }


def read_proc(path: str) -> str:
    """The text of a file of /proc; empty if it is gone or not readable."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def descendants(pid: int | None = None) -> list[int]:
    """The living descendants of a process, by default of this one; none if it is gone.

    Scanning /proc takes about 1 ms; it is skipped if this process has no children.
    """
    return [process.pid for process in processes_below(pid)]


def processes_below(pid: int | None = None) -> list[psutil.Process]:
    """As `descendants`; a process that is killed as such an object is no other of the same id."""
    if pid in {None, os.getpid()} and not _has_children():
        return []
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def _has_children() -> bool:
    """Whether this process has children; it waits for none and reaps none."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def set_parent_death_signal(parent: int) -> bool:
    """Ask the kernel to kill this process when its parent dies; return whether it will (Linux).

    The kernel watches the parent's *thread*: start the child from a thread that outlives it
    (PR_SET_PDEATHSIG(2const)).

    Args:
        parent: the parent's pid. If it has changed, the parent died before the call, and this
            process exits.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    return bool(done)
