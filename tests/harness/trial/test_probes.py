import doctest
import mmap
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pyarrow as pa
import pytest
from feedrate.harness.system import memory, procfs
from feedrate.harness.system.memory import GUARD_INTERVAL_S, GroupPeak, MemoryGuard, MemorySampler
from feedrate.harness.system.procfs import (
    descendants,
    parse_proc_io,
    parse_smaps_rollup,
    parse_status_hwm,
)
from feedrate.harness.trial import probes
from feedrate.harness.trial.probes import ArrowProbe, CpuProbe, IoProbe, Stopwatch
from feedrate.loaders.base.errors import InputError

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

MIB = 1 << 20

# A child that does as it is told, line by line, and says when it is done.
OBEDIENT = """
import mmap, os, subprocess, sys, time
held = []
def spin(seconds):
    while time.process_time() < seconds: pass
def fork(action):
    if os.fork() == 0:
        action()
        time.sleep(60)
        os._exit(0)
for line in sys.stdin:
    exec(line)
    print('done', flush=True)
"""


class Child:
    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", OBEDIENT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self.process.pid
        self.do("pass")

    def do(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # its own session: the children go with it
        self.process.communicate()


@pytest.fixture
def child():
    with Child() as child:
        yield child


def wait_for(condition):
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def memory_of(pid):
    return MemorySampler(pid).reset_peak()


class Counted(MemorySampler):
    """A sampler, and how many samples it has taken."""

    def __init__(self, pid, **options):
        self.taken = 0
        super().__init__(pid, watch=self._count, **options)

    def _count(self, _):
        self.taken += 1

    def wait(self):
        """Until it has taken two samples more."""
        enough = self.taken + 2
        wait_for(lambda: self.taken >= enough)


def test_examples_in_docstrings_hold():
    assert doctest.testmod(procfs).failed == 0


@pytest.mark.parametrize("parse", [parse_smaps_rollup, parse_proc_io, parse_status_hwm])
@pytest.mark.parametrize("text", ["", "Name:\tpython\nState:\tZ (zombie)\n", "rchar: 12\n"])
def test_a_file_without_the_fields_gives_none(parse, text):
    assert parse(text) is None


def test_the_parsers_read_what_this_kernel_writes():
    memory = parse_smaps_rollup(procfs.read_proc("/proc/self/smaps_rollup"))
    assert 0 < memory.uss <= memory.pss <= memory.rss
    assert parse_proc_io(procfs.read_proc("/proc/self/io")).syscall > 0
    assert parse_status_hwm(procfs.read_proc("/proc/self/status")) >= memory.rss // 2


def test_a_stopwatch_measures_wall_time():
    with Stopwatch() as watch:
        time.sleep(0.02)
    assert 0.02 <= watch.seconds < 2
    assert watch.metrics == {"wall_s": watch.seconds}


def test_a_quota_of_a_group_around_this_one_counts_as_its_own(tmp_path, monkeypatch):
    inner, outer = tmp_path / "outer" / "inner", tmp_path / "outer"
    inner.mkdir(parents=True)
    (inner / "cpu.stat").write_text("usage_usec 5\nthrottled_usec 0\n")
    (outer / "cpu.stat").write_text("usage_usec 5\nthrottled_usec 1000000\n")
    monkeypatch.setattr(probes, "cgroup_folders", lambda _: [inner, outer, tmp_path])
    with probes.HostProbe() as probe:
        (outer / "cpu.stat").write_text("usage_usec 5\nthrottled_usec 1500000\n")
    assert probe.metrics["throttled_s"] == 0.5


def test_cpu_time_is_counted_and_sleep_is_not():
    with CpuProbe() as probe:
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass
    assert 0.05 <= probe.metrics["cpu_s"] < 0.2
    with CpuProbe() as probe:
        time.sleep(0.1)
    assert probe.metrics["cpu_s"] < 0.05


def test_cpu_time_of_a_living_child_counts_from_the_start_of_the_probe(child):
    child.do("spin(0.2)")
    with CpuProbe() as probe:
        child.do("spin(0.4)")
    assert 0.1 <= probe.seconds < 0.35


def test_cpu_time_of_a_child_stays_counted_once_it_has_been_waited_for():
    with Child() as child:
        child.do("spin(0.2)")
        with CpuProbe() as probe:
            child.do("spin(0.3)")
            os.kill(child.pid, signal.SIGKILL)
            child.process.wait()
        assert 0.05 <= probe.seconds < 0.25


def test_bytes_read_are_counted_exactly_and_alike_from_run_to_run(tmp_path):
    file = tmp_path / "data"
    file.write_bytes(os.urandom(3 * MIB))
    counts = []
    for _ in range(3):
        with IoProbe() as probe:
            descriptor = os.open(file, os.O_RDONLY)
            os.read(descriptor, 3 * MIB)
            os.close(descriptor)
        counts.append(probe.metrics["syscall_read_bytes"])
    assert counts == [3 * MIB] * 3
    assert probe.metrics["storage_read_bytes"] >= 0
    assert probe.reasons == {}


def test_bytes_that_a_child_reads_are_counted(child, tmp_path):
    file = tmp_path / "data"
    file.write_bytes(bytes(2 * MIB))
    with IoProbe() as probe:
        child.do(f"open({str(file)!r}, 'rb').read()")
    assert 2 * MIB <= probe.metrics["syscall_read_bytes"] < 3 * MIB


def test_without_an_account_of_reads_the_reason_is_given(monkeypatch):
    monkeypatch.setattr("feedrate.harness.trial.probes.read_proc", lambda _: "")
    with IoProbe() as probe:
        pass
    assert probe.metrics == {"syscall_read_bytes": None, "storage_read_bytes": None}
    assert probe.reasons.keys() == probe.metrics.keys()


def test_the_arrow_pool_s_peak_is_known_only_where_it_is_a_new_one():
    earlier = pa.default_memory_pool().max_memory()
    with ArrowProbe() as probe:
        held = pa.allocate_buffer(earlier + MIB)
    assert probe.metrics["arrow_peak_bytes"] >= earlier + MIB
    del held
    with ArrowProbe() as probe:
        pa.allocate_buffer(MIB)
    assert probe.metrics == {"arrow_peak_bytes": None}
    assert "earlier call" in probe.reasons["arrow_peak_bytes"]


def test_an_arrow_pool_that_stands_at_its_peak_has_that_peak():
    pool = pa.default_memory_pool()
    held = pa.allocate_buffer(pool.max_memory() + MIB)
    with ArrowProbe() as probe:
        pass
    assert probe.metrics["arrow_peak_bytes"] == pool.max_memory() >= held.size


def test_descendants_are_found_at_any_depth_and_zombies_are_not_reaped(child):
    child.do("fork(lambda: fork(lambda: None))")
    wait_for(lambda: len(descendants(child.pid)) == 2)
    assert {child.pid, *descendants(child.pid)} <= set(descendants())
    with Child() as other:
        os.kill(other.pid, signal.SIGKILL)
        descendants()
        assert other.process.wait() == -signal.SIGKILL


def test_a_process_that_has_gone_has_no_descendants_and_no_memory():
    with Child() as child:
        pass
    assert descendants(child.pid) == []
    assert memory_of(child.pid) is None
    with MemorySampler(child.pid) as sampler:
        assert sampler.reset_peak() is None
        assert sampler.peak() is None


def test_the_sampler_sees_memory_that_a_child_held_for_a_while(child):
    with Counted(child.pid) as sampler:
        before = sampler.reset_peak()
        child.do(f"held.append(bytearray(b'x') * {64 * MIB})")
        sampler.wait()
        child.do("held.clear()")
        after = sampler.reset_peak()
        sampler.wait()
        second = sampler.peak()
    assert after.pss < before.pss + 32 * MIB
    assert second.samples >= 2
    assert second.pss < before.pss + 32 * MIB
    assert second.rss < before.rss + 32 * MIB


def test_the_peak_is_kept_after_the_memory_was_given_back(child):
    with Counted(child.pid) as sampler:
        before = sampler.reset_peak()
        child.do(f"held.append(bytearray(b'x') * {64 * MIB})")
        sampler.wait()
        child.do("held.clear()")
        peak = sampler.peak()
    for kind in ("pss", "rss", "uss"):
        assert getattr(peak, kind) - getattr(before, kind) == pytest.approx(64 * MIB, rel=0.05)
    assert peak.shm - before.shm < MIB


def test_the_kernel_s_mark_catches_resident_memory_that_sampling_missed(child):
    with MemorySampler(child.pid, interval_s=60) as sampler:
        before = sampler.reset_peak()
        child.do(f"held.append(bytearray(b'x') * {64 * MIB}); held.clear()")
        peak = sampler.peak()
    assert peak.samples == 2
    assert peak.pss < before.pss + 32 * MIB
    assert peak.rss >= before.rss + 60 * MIB


def test_memory_of_grandchildren_is_summed_and_shared_memory_counts_once(child):
    share = f"shared = mmap.mmap(-1, {32 * MIB}); shared.write(b'x' * {32 * MIB})"
    child.do(share)
    with MemorySampler(child.pid) as sampler:
        before = sampler.reset_peak()
        for _ in range(2):
            child.do("fork(lambda: [shared[i] for i in range(0, len(shared), 4096)])")
        wait_for(lambda: memory_of(child.pid).rss > before.rss + 64 * MIB)
        peak = sampler.peak()
    assert before.shm == pytest.approx(32 * MIB, rel=0.1)
    assert peak.shm == pytest.approx(32 * MIB, rel=0.1)
    assert peak.pss < before.pss + 32 * MIB
    assert peak.rss > before.rss + 64 * MIB


@pytest.mark.parametrize(
    "shares",
    [  # in MiB of 200, of two processes in two rounds of readings
        # The second maps what the first has, before it is read itself.
        [(200, 100), (100, 100), (100, 100)],
        # The first ends: it was read with its half, the other with all.
        [(100, 200), (0, 200), (0, 200)],
        # Mapping goes on, round after round.
        [(190, 100), (110, 100), (90, 110), (80, 120)],
    ],
)
def test_what_moves_from_one_process_to_another_while_they_are_read_counts_once(
    shares, monkeypatch
):
    readings = iter([share for each_round in shares for share in each_round])
    rollup = "Rss: 204800 kB\nPss: {0} kB\nPss_Shmem: {0} kB\n"

    def read(path):
        return rollup.format(next(readings) * 1024) if "smaps" in path else ""

    monkeypatch.setattr(memory, "descendants", lambda _: [2])
    monkeypatch.setattr(memory, "read_proc", read)
    monkeypatch.setattr(memory, "_reset_high_water_mark", lambda _: True)
    sampled = MemorySampler(1).reset_peak()
    assert sampled.pss == sampled.shm <= 200 * MIB
    assert sampled.pss >= 150 * MIB


def test_the_sampler_outlives_the_process_it_watches(child):
    with Counted(child.pid, interval_s=0.002) as sampler:
        child.do("fork(lambda: None)")
        sampler.wait()
        os.killpg(child.pid, signal.SIGKILL)
        child.process.wait()
        time.sleep(0.02)
        peak = sampler.peak()
    assert peak.pss > 0


def test_an_interval_must_be_above_zero():
    with pytest.raises(InputError, match="interval_s is 0"):
        MemorySampler(os.getpid(), interval_s=0)


PARENT = """
import os, subprocess, sys, time
code = '''
import os, sys, time
from feedrate.harness.system.procfs import set_parent_death_signal
print(os.getpid(), set_parent_death_signal(int(sys.argv[1])), flush=True)
time.sleep(60)
'''
subprocess.Popen([sys.executable, '-c', code, str(os.getpid())])
time.sleep(60)
"""


def is_gone(pid):
    """Gone, or dead and not yet reaped by whoever inherited it."""
    state = procfs.read_proc(f"/proc/{pid}/stat").rpartition(")")[2].split()[:1]
    return state in ([], ["Z"], ["X"])


def test_a_child_dies_with_its_parent():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    pid, is_set = parent.stdout.readline().split()
    assert is_set == "True"
    assert not is_gone(pid)
    parent.kill()
    parent.wait()
    wait_for(lambda: is_gone(pid))
    parent.stdout.close()


def test_a_child_whose_parent_had_died_before_exits_at_once():
    code = "from feedrate.harness.system.procfs import set_parent_death_signal as s; s(1 << 30)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL


def test_shared_anonymous_memory_of_this_process_is_shm():
    before = memory_of(os.getpid()).shm
    with mmap.mmap(-1, 8 * MIB) as shared:
        shared.write(b"x" * 8 * MIB)
        assert memory_of(os.getpid()).shm - before == pytest.approx(8 * MIB, rel=0.1)


class TestGroupPeak:
    """The kernel's own mark of a control group, where it tells anything of a pass."""

    @pytest.fixture
    def group(self, tmp_path, monkeypatch):
        path = tmp_path / "memory.peak"
        path.write_text("1000\n")
        monkeypatch.setattr(memory, "_peak_file", lambda: path)
        return path

    def test_a_mark_that_cannot_be_reset_tells_only_of_what_raised_it(self, group, monkeypatch):
        real = type(group).open

        def refuse(self, mode="r", *more, **options):
            if "+" in mode:
                raise PermissionError
            return real(self, mode, *more, **options)

        monkeypatch.setattr(type(group), "open", refuse)
        mark = GroupPeak()
        mark.start()
        found, why = mark.peak()
        assert found is None
        assert "higher peak before" in why
        monkeypatch.undo()
        group.write_text("3000\n")
        monkeypatch.setattr(memory, "_peak_file", lambda: group)
        assert mark.peak() == (3000.0, "")

    def test_a_mark_that_can_be_reset_is_read_through_the_same_file(self, group):
        mark = GroupPeak()
        mark.start()
        assert group.read_text() == "reset"
        group.write_text("2048\n")
        assert mark.peak() == (2048.0, "")
        mark.close()

    def test_without_a_group_there_is_a_reason(self, monkeypatch):
        monkeypatch.setattr(memory, "_peak_file", lambda: None)
        mark = GroupPeak()
        mark.start()
        assert mark.peak() == (None, "no control group counts this process's memory")

    def test_what_is_free_is_bounded_by_the_group(self, tmp_path, monkeypatch):
        (tmp_path / "memory.current").write_text("700\n")
        (tmp_path / "memory.max").write_text("1000\n")
        (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 200\n")
        monkeypatch.setattr(memory, "cgroup_folders", lambda _: [tmp_path])
        assert memory.free_memory() == 500
        (tmp_path / "memory.max").write_text("max\n")
        assert memory.free_memory() > 1000


def test_the_guard_is_called_with_what_is_beyond_the_limit_and_only_then(child):
    seen, baseline = [], memory_of(child.pid)
    with MemoryGuard(child.pid, baseline.rss + (64 << 20), seen.append):
        time.sleep(3 * GUARD_INTERVAL_S)
        assert seen == []
        child.do(f"held.append(bytearray(b'x') * {200 * MIB})")
        wait_for(lambda: seen)
    assert seen[0].pss > 64 << 20
