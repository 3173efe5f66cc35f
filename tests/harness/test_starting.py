"""Processes that are forked from one that has imported, in place of starting each anew."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest
from feedrate.harness import executor as module
from feedrate.harness.child_process import ChildFailure, ChildProcess
from feedrate.harness.executor import FORKED, ChildExecutor, imports_of
from feedrate.harness.protocol import Done, OpenData, Reference
from feedrate.harness.spec import make_trial
from feedrate.harness.starting import CannotStartError, Fresh, Parent, Starters
from feedrate.loaders.settings import LoaderSettings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="nothing is forked on this system"),
]

PATIENCE_S = 60.0
ORIGINAL = LoaderSettings(backend="original", num_workers=0, prefetch=0, cache="none")


@pytest.fixture
def parent():
    made = Parent()
    yield made
    made.close()


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
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_forks_and_processes_of_their_own_give_the_same_rows_one_after_the_other(parent, data):
    found = []
    for starter in (Fresh(), parent, parent):
        child = ChildProcess(1, starter)
        try:
            found.append(rows_of(child, data))
        finally:
            child.close()
    assert found == found[:1] * 3
    assert found[0].rows == 150


def test_each_fork_has_a_group_and_a_scratch_folder_of_its_own(parent):
    children = [ChildProcess(number, parent) for number in range(3)]
    try:
        groups = {os.getpgid(child.pid) for child in children}
        assert groups == {child.pid for child in children}
        folders = set()
        for child in children:
            folders.add(str(child._scratch))
        assert len(folders) == 3
    finally:
        for child in children:
            child.close()
    assert all(gone(child.pid) for child in children)
    assert not any(os.path.exists(folder) for folder in folders)  # noqa: PTH110 - they are texts


def test_how_a_fork_ended_is_told(parent, data):
    child = ChildProcess(1, parent)
    try:
        os.kill(child.pid, signal.SIGSEGV)
        with pytest.raises(ChildFailure, match="SIGSEGV") as failed:
            rows_of(child, data)
        assert failed.value.verdict == "crash"
    finally:
        child.close()
    child = ChildProcess(1, parent)
    child.close()
    assert child._process.has_ended()
    assert child._process.reap() == -signal.SIGKILL


def test_forks_end_with_their_parent_and_that_with_the_harness():
    code = """
        import sys, time
        from feedrate.harness.child_process import ChildProcess
        from feedrate.harness.starting import Parent
        parent = Parent()
        child = ChildProcess(1, parent)
        print(parent._process.pid, child.pid, flush=True)
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


def test_a_parent_that_is_gone_is_a_failure_of_the_start_and_its_forks_count_as_killed(parent):
    child = ChildProcess(1, parent)
    os.kill(parent._process.pid, signal.SIGKILL)
    until(lambda: gone(child.pid))
    child.close()
    assert child._process.reap() == -signal.SIGKILL
    with pytest.raises(CannotStartError):
        ChildProcess(2, parent)


UNFORKABLE = {
    "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()":
        "started 1 more thread",
    "raise ValueError": "has ended",
    "import sys; sys.exit(0)": "has ended",
    "import os; os._exit(3)": "has ended",
}  # fmt: skip


@pytest.mark.parametrize("code", UNFORKABLE)
def test_what_cannot_be_forked_after_importing_is_started_anew(tmp_path, monkeypatch, code):
    (tmp_path / "starts.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with pytest.raises(CannotStartError, match=UNFORKABLE[code]):
        Parent(["starts"])
    starters = Starters()
    assert starters.forked(("starts",), "a") is starters.fresh
    assert UNFORKABLE[code] in starters.why_not["starts",]
    assert starters.forked((), "a") is not starters.fresh
    starters.close()


def test_parents_are_changed_after_so_many_forks_of_a_trial_or_when_code_has_changed(
    tmp_path, monkeypatch
):
    code = tmp_path / "mine.py"
    code.write_text("VALUE = 1")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    starters = Starters(per_parent=1)
    first, second, third = (starters.forked(("mine",), name) for name in ("a", "b", "a"))
    assert first is second
    assert third is not first
    code.write_text("VALUE = 2")
    fourth = starters.forked(("mine",), "c")
    assert fourth is not third
    starters.close()
    assert all(one._process.returncode is not None for one in (first, third, fourth))


def test_parents_import_what_trials_need():
    of = {
        (job, backend): imports_of(make_trial(job, LoaderSettings(backend=backend), 1))
        for job in ("frame", "batches", "stream")
        for backend in ("original", "pytorch", "tensorflow")
    }
    assert of["frame", "pytorch"] == of["frame", "original"] == of["stream", "original"] == ()
    assert of["batches", "pytorch"] == of["stream", "pytorch"] == ("torch",)
    assert of["frame", "tensorflow"] == of["batches", "tensorflow"] == ("tensorflow",)


def test_the_first_launch_of_a_trial_measures_memory_and_later_ones_are_forked(data):
    trial = make_trial("frame", ORIGINAL, 3)
    with ChildExecutor(data, timeout_s=PATIENCE_S, forks=True) as executor:
        runs = [executor.run(trial, "confirming", passes=1, verify=True) for _ in range(3)]
        assert len(executor._starters._parents) == 1
    memory = [run.passes[0].metrics["peak_pss_bytes"] for run in runs]
    assert memory[0] > 1 << 20
    assert memory[1:] == [None, None]
    assert runs[1].passes[0].reasons["peak_pss_bytes"] == FORKED
    assert [run.verdict for run in runs] == [None] * 3
    assert len({run.fingerprint for run in runs}) == 1
    assert [run.launch for run in runs] == [1, 2, 3]


@pytest.mark.parametrize("how", ["crash", "hang"])
def test_a_fork_that_fails_before_its_first_pass_is_tried_once_in_a_process_of_its_own(
    data, monkeypatch, how
):
    trial = make_trial("frame", ORIGINAL, 3)
    code = "import time; time.sleep(600)" if how == "hang" else "raise SystemExit(3)"

    class Failing(Fresh):
        def start(self, streams, environment):  # noqa: ARG002 - it is as good as dead
            monkeypatch.setattr(module, "START_TIMEOUT_S", 2.0 if how == "hang" else PATIENCE_S)
            started = subprocess.Popen(
                [sys.executable, "-c", code], stdin=streams[0], stdout=streams[1],
                stderr=streams[2], start_new_session=True,
            )  # fmt: skip
            from feedrate.harness.starting import _Spawned

            return _Spawned(started)

    with ChildExecutor(data, timeout_s=PATIENCE_S, forks=True) as executor:
        assert executor.run(trial, "confirming", passes=1, verify=False).verdict is None
        monkeypatch.setattr(executor._starters, "forked", lambda *_: Failing())
        monkeypatch.setattr(
            executor._starters,
            "give_up",
            lambda _: monkeypatch.setattr(module, "START_TIMEOUT_S", PATIENCE_S),
        )
        run = executor.run(trial, "confirming", passes=1, verify=False)
    assert run.verdict is None, run.message
    assert run.passes[0].metrics["peak_pss_bytes"] is not None
    assert run.launch == 3
