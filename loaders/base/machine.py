"""The CPUs and memory that this process may use, and a fingerprint of the machine."""

from __future__ import annotations

import itertools
import math
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import msgspec

# Packages whose version affects measurements. The versions are read from the packages' metadata,
# so that a fingerprint imports none of them. tensorflow-cpu provides tensorflow.
FRAMEWORKS = {
    "pytorch": ("torch",),
    "tensorflow": ("tensorflow", "tensorflow-cpu"),
    "ray": ("ray",),
}
PACKAGES = (
    "feedrate",
    "numpy",
    "pandas",
    "polars",
    "pyarrow",
    *itertools.chain(*FRAMEWORKS.values()),
)


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The machine and software that a measurement applies to."""

    cpu_model: str
    effective_cpus: int
    memory_bytes: int
    gpu: str | None
    system: str
    python: str
    versions: dict[str, str]
    """Package name to version, for the packages that are installed."""
    local_ranks: int = 1
    """Processes of one job that share the machine; `effective_cpus` is the share of one."""


def fingerprint() -> Machine:
    """Describe this machine in a few milliseconds, without importing any framework."""
    return Machine(
        cpu_model=cpu_model(),
        effective_cpus=effective_cpus(),
        memory_bytes=memory_limit(),
        gpu=gpu_name(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        versions={name: found for name in PACKAGES if (found := installed_version(name))},
        local_ranks=local_ranks(),
    )


def installed_version(package: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def is_installed(module: str) -> bool:
    """Whether a module could be imported, without importing it."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def cpu_model() -> str:
    """The processor's name as the kernel gives it."""
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def gpu_name() -> str | None:
    """The first NVIDIA GPU's name from the driver's /proc entry; None where there is none."""
    for info in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in _read(info).splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return None


def effective_cpus() -> int:
    """CPUs that this process can use: min(affinity, cgroup quota) / ranks, at least 1.

    `os.cpu_count` ignores both limits, and `os.process_cpu_count` ignores quotas. Ranks on this
    machine share its CPUs (`local_ranks`).
    """
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # missing on macOS and Windows
        allowed = os.cpu_count() or 1
    quota = cpu_quota()
    usable = allowed if quota is None else min(allowed, math.ceil(quota))
    return max(1, usable // local_ranks())


def local_ranks() -> int:
    """Processes of one distributed job on this machine: LOCAL_WORLD_SIZE, which torchrun sets.

    Launchers that bind each process to its own CPUs (mpirun, srun) need no such variable: the
    affinity shows the limit.
    """
    value = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, int(value)) if value.isdigit() else 1


def cpu_quota() -> float | None:
    """The tightest CPU quota of this process's cgroup and those above it, in CPUs, or None."""
    quotas = [
        quota
        for folder in cgroup_folders("cpu")
        if (
            quota := parse_cpu_max(_read(folder / "cpu.max"))
            or parse_cfs_quota(
                _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
            )
        )
        is not None
    ]
    return min(quotas, default=None)


def memory_limit() -> int:
    """Bytes of memory that this process may use: min(RAM, cgroup limit)."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [total]
    for folder in cgroup_folders("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(folder / name).strip()
            if text.isdigit():
                limits.append(int(text))
    return min(limits)


def parse_cpu_max(text: str) -> float | None:
    """CPUs allowed by cgroup v2's `cpu.max`.

    >>> parse_cpu_max("150000 100000"), parse_cpu_max("max 100000"), parse_cpu_max("")
    (1.5, None, None)
    """
    parts = text.split()
    if len(parts) != 2 or parts[0] == "max" or int(parts[1]) == 0:  # noqa: PLR2004 - two fields
        return None
    return int(parts[0]) / int(parts[1])


def parse_cfs_quota(quota: str, period: str) -> float | None:
    """CPUs allowed by cgroup v1's `cpu.cfs_quota_us` and `cpu.cfs_period_us`.

    >>> parse_cfs_quota("200000", "100000"), parse_cfs_quota("-1", "100000")
    (2.0, None)
    """
    if not quota.strip() or not period.strip() or int(quota) <= 0 or int(period) <= 0:
        return None
    return int(quota) / int(period)


def parse_cgroup_path(text: str, controller: str) -> tuple[str, str] | None:
    r"""The (mount folder, path) of this process's cgroup for a controller, from /proc/self/cgroup.

    >>> parse_cgroup_path("4:cpu,cpuacct:/docker/7\n0::/init.scope", "cpu")
    ('cpu,cpuacct', '/docker/7')
    >>> parse_cgroup_path("0::/user.slice", "cpu")
    ('', '/user.slice')
    """
    unified = None
    for line in text.splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            return names, path
        if not names:
            unified = ("", path)
    return unified


def cgroup_folders(controller: str) -> list[Path]:
    """The folders of this process's cgroup and of all cgroups above it, innermost first."""
    group = parse_cgroup_path(_read("/proc/self/cgroup"), controller)
    if group is None:
        return []
    mount, path = group
    roots = [Path("/sys/fs/cgroup", mount)] if mount else [Path("/sys/fs/cgroup")]
    if mount:
        roots.append(Path("/sys/fs/cgroup", controller))
    for root in roots:
        if root.is_dir():
            # In a container the path may be the host's; the mount's root is then our cgroup.
            inner = root.joinpath(*Path(path).parts[1:])
            folders = [inner, *inner.parents] if inner.is_dir() else [root]
            return [folder for folder in folders if folder.is_relative_to(root)]
    return []


def _read(path: str | Path) -> str:
    """A small file's text, or '' if it is missing or not readable."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
