"""Check a machine: its properties, and its problems for loading data and for measuring."""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Iterator, Mapping

from ...loaders.base.machine import cpu_quota, fingerprint
from ..system.formats import format_bytes
from ..system.memory import free_memory
from ..system.pagecache import residency
from ..system.procfs import parse_pressure, parse_smaps_rollup, read_proc
from ..system.threads import POOL_VARIABLES, observed, requested
from ..system.units import counted
from .files import Finding

SHARED_MEMORY = "/dev/shm"  # noqa: S108 - the shared memory of worker processes on Linux
SMALL_SHM_BYTES = 1 << 30
FEW_DESCRIPTORS = 4096


def examine_machine() -> Iterator[Finding]:
    """Check CPUs, memory, limits and software, and which figures the kernel provides."""
    machine = fingerprint()
    yield _cpus(machine.cpu_model, machine.effective_cpus)
    free = free_memory()
    yield Finding(
        "memory", f"{format_bytes(machine.memory_bytes)} may be used, {format_bytes(free)} is free"
    )
    yield Finding("GPU", machine.gpu or "no NVIDIA GPU")
    versions = ", ".join(f"{name} {number}" for name, number in machine.versions.items())
    yield Finding("software", f"Python {machine.python}, {versions}")
    yield _pools()
    yield from _thread_variables(os.environ, machine.effective_cpus)
    yield from _limits()
    yield from _accounts()


def _cpus(model: str, effective: int) -> Finding:
    quota = cpu_quota()
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    text = f"{model}: {effective} of {counted(os.cpu_count() or 1, 'CPU')} may be used"
    if quota is None or affinity is None or quota >= affinity:
        return Finding("CPUs", f"{text} (affinity {affinity}, no quota below it)")
    return Finding(
        "CPUs",
        f"{text} (affinity {affinity}, quota {quota:g})",
        "warning",
        f"libraries count {affinity} CPUs, but the quota allows {quota:g}: keep num_workers at "
        f"{effective} or below, or raise the container's CPU limit",
    )


def _pools() -> Finding:
    variables = ", ".join(f"{name}={count}" for name, count in requested(os.environ).items())
    pools = observed()
    return Finding(
        "pools",
        f"Arrow has {pools['arrow_cpu']} CPU and {pools['arrow_io']} I/O threads; set in the "
        f"environment: {variables or 'nothing'}",
    )


def _thread_variables(environment: Mapping[str, str], cpus: int) -> Iterator[Finding]:
    for name in POOL_VARIABLES:
        value = environment.get(name, "")
        if value.isdigit() and int(value) > cpus:
            yield Finding(
                "threads",
                f"{name} is {value}, more than the {cpus} CPUs that may be used",
                "warning",
                f"unset {name}, or set it to {cpus}",
            )


def _limits() -> Iterator[Finding]:
    try:
        shm = os.statvfs(SHARED_MEMORY)
    except OSError:
        yield Finding(
            "limits",
            f"there is no {SHARED_MEMORY}",
            "warning",
            "worker processes cannot share memory: use worker_kind='thread'",
        )
    else:
        size = shm.f_blocks * shm.f_frsize
        low = size < SMALL_SHM_BYTES
        yield Finding(
            "limits",
            f"{SHARED_MEMORY} has {format_bytes(size)}",
            "warning" if low else "ok",
            "a bus error may kill worker processes: docker run --shm-size=2g" if low else "",
        )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = soft < FEW_DESCRIPTORS
    yield Finding(
        "limits",
        f"{soft} files may be open at once",
        "note" if low else "ok",
        f"ulimit -n {min(hard, FEW_DESCRIPTORS)}" if low else "",
    )


def _accounts() -> Iterator[Finding]:
    """Check which figures the kernel provides."""
    with tempfile.NamedTemporaryFile() as file:
        cached = residency([file.name]) is not None
    accounts = {
        "the page cache (cachestat)": cached,
        "memory (smaps_rollup)": parse_smaps_rollup(read_proc("/proc/self/smaps_rollup"))
        is not None,
        "pressure (PSI)": parse_pressure(read_proc("/proc/pressure/cpu")) is not None,
        "reads (/proc/PID/io)": bool(read_proc("/proc/self/io")),
    }
    if reported := [name for name, is_reported in accounts.items() if is_reported]:
        yield Finding("measuring", f"the kernel reports {', '.join(reported)}")
    if missing := [name for name, is_reported in accounts.items() if not is_reported]:
        yield Finding(
            "measuring",
            f"the kernel does not report {', '.join(missing)}",
            "note",
            "metrics that need these are null in the results, with that reason",
        )
