"""The machine is what this process may use of it, whichever kind of cgroup says so."""

import doctest
import importlib
import importlib.util
import math
import os
from pathlib import Path

import pytest
from feedrate.loaders.base import machine
from feedrate.loaders.base.machine import (
    cpu_quota,
    effective_cpus,
    fingerprint,
    gpu_name,
    installed_version,
    is_installed,
    memory_limit,
    parse_cpu_max,
)

GIB = 1 << 30
RAM = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Writes files of a made-up /proc and /sys, which `machine` reads in place of the real ones."""

    def elsewhere(*parts):
        path = Path(*parts)
        inside = path.parts[:2] in (("/", "proc"), ("/", "sys"))
        return tmp_path.joinpath(*path.parts[1:]) if inside else path

    def write(path, text):
        target = elsewhere(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    monkeypatch.setattr(machine, "Path", elsewhere)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return write


def test_the_examples_in_the_docstrings_are_true():
    (folder,) = importlib.util.find_spec("feedrate.loaders").submodule_search_locations
    tried = 0
    for path in sorted(Path(folder).rglob("*.py")):
        if ">>>" in path.read_text(encoding="utf-8"):
            name = ".".join(path.relative_to(folder).with_suffix("").parts)
            module = importlib.import_module(f"feedrate.loaders.{name}")
            results = doctest.testmod(module)
            assert results.failed == 0, path.name
            tried += results.attempted
    assert tried > 5


def test_nothing_known_means_no_quota_and_all_the_memory(kernel):
    assert cpu_quota() is None
    assert effective_cpus() == 8
    assert memory_limit() == RAM
    kernel("/proc/self/cgroup", "0::/user.slice\n")
    assert cpu_quota() is None
    assert memory_limit() == RAM


def test_cgroup_v2_limits_of_our_group_and_those_above_count(kernel):
    kernel("/proc/self/cgroup", "0::/kube/pod7\n")
    kernel("/sys/fs/cgroup/kube/pod7/cpu.max", "max 100000\n")
    kernel("/sys/fs/cgroup/kube/cpu.max", "150000 100000\n")
    kernel("/sys/fs/cgroup/kube/pod7/memory.max", "max\n")
    kernel("/sys/fs/cgroup/kube/memory.max", f"{GIB // 2}\n")
    kernel("/sys/fs/cgroup/other/cpu.max", "10000 100000\n")
    assert cpu_quota() == 1.5
    assert effective_cpus() == 2
    assert memory_limit() == GIB // 2
    kernel("/sys/fs/cgroup/kube/pod7/cpu.max", "50000 100000\n")
    assert cpu_quota() == 0.5
    assert effective_cpus() == 1


def test_in_a_container_the_mounts_root_is_our_group(kernel):
    kernel("/proc/self/cgroup", "0::/docker/0123456789ab\n")
    kernel("/sys/fs/cgroup/cpu.max", "200000 100000\n")
    kernel("/sys/fs/cgroup/memory.max", f"{GIB}\n")
    assert cpu_quota() == 2.0
    assert memory_limit() == GIB


def test_cgroup_v1_limits_of_our_group_and_those_above_count(kernel):
    kernel("/proc/self/cgroup", "5:memory:/jobs/7\n4:cpu,cpuacct:/jobs/7\n0::/init.scope\n")
    cpu = "/sys/fs/cgroup/cpu,cpuacct"
    for group, quota in (("", "-1"), ("/jobs", "300000"), ("/jobs/7", "250000")):
        kernel(f"{cpu}{group}/cpu.cfs_quota_us", f"{quota}\n")
        kernel(f"{cpu}{group}/cpu.cfs_period_us", "100000\n")
    kernel("/sys/fs/cgroup/memory/jobs/7/memory.limit_in_bytes", "9223372036854771712\n")
    kernel("/sys/fs/cgroup/memory/jobs/memory.limit_in_bytes", f"{GIB}\n")
    assert cpu_quota() == 2.5
    assert effective_cpus() == 3
    assert memory_limit() == GIB


def test_cgroup_v1_may_be_mounted_by_the_controllers_own_name(kernel):
    kernel("/proc/self/cgroup", "4:cpuacct,cpu:/docker/7\n")
    kernel("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "100000\n")
    kernel("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert cpu_quota() == 1.0


def test_a_hybrid_takes_each_controller_from_where_it_is(kernel):
    kernel("/proc/self/cgroup", "3:memory:/a\n0::/b\n")
    kernel("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", f"{GIB}\n")
    kernel("/sys/fs/cgroup/b/cpu.max", "400000 100000\n")
    assert memory_limit() == GIB
    assert cpu_quota() == 4.0


@pytest.mark.parametrize("text", ["", "max", "max 100000", "1 2 3", "100000 0"])
def test_what_is_no_quota_is_none(text):
    assert parse_cpu_max(text) is None


def test_the_quota_never_adds_cpus(kernel):
    kernel("/proc/self/cgroup", "0::/a\n")
    kernel("/sys/fs/cgroup/a/cpu.max", "6400000 100000\n")
    assert effective_cpus() == 8


def test_the_cpu_and_the_gpu_are_called_as_the_kernel_calls_them(kernel):
    assert gpu_name() is None
    kernel("/proc/cpuinfo", "processor\t: 0\nmodel name\t: Fast CPU @ 3 GHz\nmodel name\t: x\n")
    kernel("/proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t NVIDIA H200\nIRQ: 7\n")
    assert machine.cpu_model() == "Fast CPU @ 3 GHz"
    assert gpu_name() == "NVIDIA H200"


def test_an_arm_machine_without_a_model_name_still_has_a_name(kernel):
    kernel("/proc/cpuinfo", "processor\t: 0\nBogoMIPS\t: 50.00\n")
    assert machine.cpu_model()


def test_this_machine_has_a_plausible_fingerprint():
    here = fingerprint()
    assert here == fingerprint()
    assert here.cpu_model
    assert 1 <= here.effective_cpus <= (os.cpu_count() or 1)
    assert here.effective_cpus == math.ceil(here.effective_cpus)
    assert 0 < here.memory_bytes <= RAM
    assert {"numpy", "pandas", "pyarrow"} <= set(here.versions)


def test_what_is_installed_is_told_without_importing_it():
    assert is_installed("pandas")
    assert not is_installed("no_such_package")
    assert not is_installed("no_such_package.module")
    assert installed_version("no-such-package") is None
    assert installed_version("pandas")


@pytest.mark.parametrize(
    ("ranks", "cpus"), [("1", 8), ("2", 4), ("3", 2), ("16", 1), ("0", 8), ("", 8), ("many", 8)]
)
def test_ranks_of_one_job_share_the_cpus(monkeypatch, ranks, cpus):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr("feedrate.loaders.base.machine.cpu_quota", lambda: None)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert effective_cpus() == cpus
