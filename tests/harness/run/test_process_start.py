"""Processes that are forked from one that has imported, in place of starting each anew."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import psutil
import pytest
from feedrate.harness.plan.spec import make_trial
from feedrate.harness.run import child_executor as module
from feedrate.harness.run import child_process, forks, process_start
from feedrate.harness.run.child_executor import ChildExecutor, imports_of
from feedrate.harness.run.child_process import ChildFailure, ChildProcess, LostError
from feedrate.harness.run.forks import ForkServer, Launcher
from feedrate.harness.run.process_start import CannotStartError, Fresh
from feedrate.harness.trial import fork_server
from feedrate.harness.trial.protocol import Done, Imports, OpenData, Reference
from feedrate.loaders.base.settings import LoaderSettings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="nothing is forked on this system"),
]

PATIENCE_S = 60.0
ORIGINAL = LoaderSettings(backend="original", num_workers=0, prefetch=0, cache="none")
NOTHING = Imports()


@pytest.fixture
def server():
    made = ForkServer()
    yield made
    made.close()


@pytest.fixture
def launcher():
    made = Launcher()
    yield made
    made.close()


@pytest.fixture
def module_of(tmp_path, monkeypatch):
    """Write a module that child processes can import."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")

    def write(name, code):
        path = tmp_path / f"{name}.py"
        path.write_text(textwrap.dedent(code))
        return path

    return write


def rows_of(child, data):
    child.say(OpenData(data))
    child.say(Reference(job="frame", files=3, ordered=True))
    return child.hear(Done, PATIENCE_S).fingerprint


def until(condition):
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def gone(pid):
    """Whether a process has ended; one that nobody has reaped yet has ended, too."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_forks_and_new_processes_give_the_same_rows_one_after_the_other(server, data):
    found = []
    for starter, is_forked in ((Fresh(), False), (server, True), (server, True)):
        child = ChildProcess(1, starter)
        try:
            assert child.is_forked is is_forked
            found.append(rows_of(child, data))
        finally:
            child.close()
    assert found == found[:1] * 3
    assert found[0].rows == 150


def test_each_fork_has_a_group_and_a_scratch_folder_of_its_own_and_is_reaped(server):
    children = [ChildProcess(number, server) for number in range(3)]
    folders = {str(child._scratch) for child in children}
    try:
        assert {os.getpgid(child.pid) for child in children} == {child.pid for child in children}
        assert len(folders) == 3
    finally:
        for child in children:
            child.close()
    assert not any(psutil.pid_exists(child.pid) for child in children)
    assert not any(os.path.exists(folder) for folder in folders)  # noqa: PTH110 - they are texts


def test_how_a_fork_ended_is_known(server, data):
    child = ChildProcess(1, server)
    try:
        os.kill(child.pid, signal.SIGSEGV)
        with pytest.raises(ChildFailure, match="SIGSEGV") as failed:
            rows_of(child, data)
        assert failed.value.verdict == "crash"
    finally:
        child.close()
    child = ChildProcess(1, server)
    os.kill(child.pid, signal.SIGKILL)  # else it may end by itself, since it gets no request
    child.close()
    assert child._process.has_ended()
    assert child._process.reap() == -signal.SIGKILL


def test_forks_end_with_their_server_and_that_with_the_harness():
    code = """
        import time
        from feedrate.harness.run.child_process import ChildProcess
        from feedrate.harness.run.forks import ForkServer
        server = ForkServer()
        child = ChildProcess(1, server)
        print(server._process.pid, child.pid, flush=True)
        time.sleep(600)
    """
    harness = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    pids = list(map(int, harness.stdout.readline().split()))
    assert len(pids) == 2
    assert not any(map(gone, pids))
    harness.kill()
    harness.wait()
    until(lambda: all(map(gone, pids)))


def test_a_server_that_is_gone_is_no_fault_of_what_it_had_forked(server, data):
    child = ChildProcess(1, server)
    os.kill(server._process.pid, signal.SIGKILL)
    until(lambda: gone(child.pid))
    with pytest.raises(LostError):
        rows_of(child, data)
    with pytest.raises(CannotStartError):
        ChildProcess(2, server)


def test_what_cannot_be_forked_is_started_anew(launcher, monkeypatch):
    monkeypatch.setattr(ForkServer, "start", lambda *_: failing("no more processes"))
    for failures in (1, 2):
        child = ChildProcess(failures, launcher.of(NOTHING, "a"))
        child.close()
        assert not child.is_forked
        assert (launcher.why_not == {NOTHING: "no more processes"}) is (failures == 2)
    assert launcher.of(NOTHING, "a") is launcher.fresh


def failing(why):
    raise CannotStartError(why)


@pytest.mark.parametrize("error", [OSError(38, "not implemented"), OSError(1, "not permitted")])
def test_where_the_kernel_cannot_tell_when_a_process_ends_nothing_is_forked(
    launcher, monkeypatch, error
):
    def refuse(_):
        raise error

    monkeypatch.setattr(os, "pidfd_open", refuse)
    child = ChildProcess(1, launcher.of(NOTHING, "a"))
    child.close()
    assert not child.is_forked
    assert launcher.why_not == {NOTHING: f"pidfd_open: {error.strerror}"}


def test_no_late_answer_is_taken_for_that_to_another_request(server, monkeypatch):
    child = ChildProcess(1, server)
    child.close()
    os.kill(server._process.pid, signal.SIGSTOP)
    monkeypatch.setattr(forks, "FORK_TIMEOUT_S", 0.2)
    with pytest.raises(CannotStartError, match=r"no answer within 0\.2 s"):
        ChildProcess(2, server)
    assert gone(server._process.pid)
    with pytest.raises(CannotStartError):
        ChildProcess(3, server)


UNFORKABLE = {
    "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()":
        "started 1 thread",
    "import socket\nends = socket.socketpair()": "left 2 descriptors open",
    "code = open('/etc/hostname')": "left 1 descriptor open",
    "raise ValueError('bad luck')": "ended the process: ValueError: bad luck",
    "import sys; sys.exit(0)": "ended the process",
    "import os; os._exit(3)": "ended the process",
}  # fmt: skip


@pytest.mark.parametrize("code", UNFORKABLE)
def test_what_cannot_be_forked_after_importing_is_started_anew(launcher, module_of, code):
    module_of("starts", code)
    imports = Imports(modules=("starts",))
    child = ChildProcess(1, launcher.of(imports, "a"))
    child.close()
    assert not child.is_forked
    assert UNFORKABLE[code] in launcher.why_not[imports]
    assert launcher.of(imports, "a") is launcher.fresh
    assert launcher.of(NOTHING, "a") is not launcher.fresh


@pytest.mark.parametrize(
    ("maps", "code", "is_initialised"),
    [
        ("7f0 r-xp /usr/lib/libc.so.6", 0, False),
        ("7f0 r-xp /usr/lib/libcuda.so.550", 3, False),
        ("7f0 r-xp /usr/lib/libcuda.so.550", 0, True),
        ("7f0 r-xp /usr/lib/libcuda.so.550", None, True),  # it cannot be asked
    ],
)
def test_cuda_counts_as_initialised_where_its_driver_says_so(
    monkeypatch, maps, code, is_initialised
):
    class Driver:
        def __init__(self, _):
            if code is None:
                raise OSError

        def cuDeviceGetCount(self, _):  # noqa: N802 - the driver's name
            return code

    monkeypatch.setattr(fork_server.ctypes, "CDLL", Driver)
    assert fork_server._cuda_is_initialised(maps) is is_initialised


def pid_of_server(launcher, imports, trial):
    child = ChildProcess(1, launcher.of(imports, trial))
    child.close()
    assert child.is_forked
    return launcher._servers[imports]._process.pid


def test_a_server_is_changed_after_so_many_forks_of_a_trial_or_when_code_has_changed(module_of):
    code = module_of("mine", "VALUE = 1")
    imports = Imports(modules=("mine",))
    launcher = Launcher(per_server=1)
    first, second, third = (pid_of_server(launcher, imports, name) for name in ("a", "b", "a"))
    assert first == second != third
    code.write_text("VALUE = 2")
    fourth = pid_of_server(launcher, imports, "c")
    assert fourth != third
    launcher.close()
    assert all(map(gone, (first, third, fourth)))


DRAWS = """
    import numpy as np
    {seed}
    def load(settings, files, columns, target, job):
        import pandas as pd
        return pd.DataFrame({{"draw": np.random.random(3)}})
"""


@pytest.mark.parametrize(("seed", "same"), [("", False), ("np.random.seed(7)", True)])
def test_forks_draw_other_numbers_unless_their_code_has_seeded(
    data, module_of, monkeypatch, tmp_path, seed, same
):
    module_of("draws", DRAWS.format(seed=seed))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "draws", raising=False)
    state = np.random.get_state()  # noqa: NPY002 - that of this process is put back
    trial = make_trial("frame", LoaderSettings(backend="draws:load", num_workers=0), 3)
    with ChildExecutor(data, timeout_s=PATIENCE_S) as executor:
        runs = [executor.run(trial, "confirming", passes=1, verify=True) for _ in range(2)]
        assert list(executor._launcher._servers) == [Imports(loaders=("draws:load",))]
    np.random.set_state(state)  # noqa: NPY002
    assert [run.verdict for run in runs] == [None, None], runs[0].message
    assert (runs[0].fingerprint == runs[1].fingerprint) is same


def test_servers_import_what_trials_need():
    of = {
        (job, backend): imports_of(make_trial(job, LoaderSettings(backend=backend), 1)).modules
        for job in ("frame", "batches", "stream")
        for backend in ("original", "pytorch", "tensorflow")
    }
    assert of["frame", "pytorch"] == of["frame", "original"] == of["stream", "original"] == ()
    assert of["batches", "pytorch"] == of["stream", "pytorch"] == ("torch",)
    assert of["batches", "original"] == ("torch",)
    assert of["frame", "tensorflow"] == of["batches", "tensorflow"] == ("tensorflow",)


def test_timed_launches_are_forked_and_those_that_measure_memory_are_not(data):
    trial = make_trial("frame", ORIGINAL, 3)
    with ChildExecutor(data, timeout_s=PATIENCE_S) as executor:
        forked = []
        real = executor._converse
        executor._converse = lambda *args: forked.append(real(*args)) or forked[-1]
        for phase in ("confirming", "explaining", "memory", "confirming"):
            executor.run(trial, phase, passes=1, verify=False)
    assert [one.is_forked for one in forked] == [True, True, False, True]
    assert [one.run.verdict for one in forked] == [None] * 4


@pytest.mark.parametrize("how", ["crash", "hang"])
def test_a_fork_that_fails_before_its_first_pass_is_tried_once_in_a_new_process(
    data, monkeypatch, how
):
    trial = make_trial("frame", ORIGINAL, 3)
    code = "import time; time.sleep(600)" if how == "hang" else "raise SystemExit(3)"
    patience = {"hang": 2.0, "crash": PATIENCE_S}[how]

    class Failing(process_start._NewProcess):
        is_forked = True

        def reap(self):  # the new process that follows has the usual time
            monkeypatch.setattr(module, "START_TIMEOUT_S", PATIENCE_S)
            return super().reap()

    def fork(launcher, imports, name, streams, environment, within_s):  # noqa: ARG001
        monkeypatch.setattr(module, "START_TIMEOUT_S", patience)
        started = subprocess.Popen(
            [sys.executable, "-c", code], stdin=streams[0], stdout=streams[1], stderr=streams[2],
            start_new_session=True,
        )  # fmt: skip
        return Failing(started)

    monkeypatch.setattr(Launcher, "fork", fork)
    with ChildExecutor(data, timeout_s=PATIENCE_S) as executor:
        first, second = (executor.run(trial, "confirming", passes=1, verify=False) for _ in "ab")
    assert (first.verdict, first.launch) == (None, 2), first.message
    assert "original failed in forked processes" in first.notes[-1]
    assert (second.verdict, second.launch) == (None, 3)  # it is not forked again


def test_a_trial_whose_server_ended_runs_again_in_a_new_process(data, monkeypatch):
    trial = make_trial("frame", ORIGINAL, 3)
    real = child_process.ChildProcess.hear

    def hear(child, kind, timeout_s):
        answer = real(child, kind, timeout_s)
        if child.is_forked and kind is child_process.PassDone:
            os.kill(child._process._server._process.pid, signal.SIGKILL)
            until(lambda: gone(child.pid))
        return answer

    monkeypatch.setattr(child_process.ChildProcess, "hear", hear)
    with ChildExecutor(data, timeout_s=PATIENCE_S) as executor:
        run = executor.run(trial, "confirming", passes=2, verify=False)
    assert (run.verdict, len(run.passes), run.launch) == (None, 2, 2), run.message
    assert run.notes == []


def test_why_processes_are_not_forked_is_a_note(data, module_of, monkeypatch, tmp_path):
    module_of(
        "threads",
        """
        import threading, time
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        def load(settings, files, columns, target, job):
            import pandas as pd
            return pd.concat(map(pd.read_parquet, files), ignore_index=True)
        """,
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "threads", raising=False)
    trial = make_trial("frame", LoaderSettings(backend="threads:load", num_workers=0), 3)
    with ChildExecutor(data, timeout_s=PATIENCE_S) as executor:
        run = executor.run(trial, "confirming", passes=1, verify=False)
    assert run.verdict is None, run.message
    (note,) = run.notes
    assert note.startswith("processes with threads:load are not forked")
    assert note.endswith("the imports started 1 thread")
