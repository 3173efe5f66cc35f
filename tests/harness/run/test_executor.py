"""The real thing: child processes, with loaders that misbehave on purpose."""

import doctest
import os
import signal
import subprocess
import sys
import time

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feedrate.harness.in_process import InProcessExecutor
from feedrate.harness.plan.spec import make_trial
from feedrate.harness.record.metrics import STAGES
from feedrate.harness.run import child_executor as executing
from feedrate.harness.run import child_process, forks, process_start
from feedrate.harness.run.child_executor import TIMED, ChildExecutor
from feedrate.harness.run.null_reasons import complete
from feedrate.harness.trial import what_if
from feedrate.harness.trial.work import Data
from feedrate.loaders.base.settings import LoaderSettings
from feedrate.loaders.choosing.registry import find_backend
from msgspec import structs

pytestmark = pytest.mark.slow

PHASES = ("confirming", "explaining")
ORIGINAL = LoaderSettings(backend="original", num_workers=0, prefetch=0, cache="none")


@pytest.fixture
def executor(data):
    with ChildExecutor(data, timeout_s=30) as made:
        yield made


def processes():
    return {child.pid for child in psutil.Process().children(recursive=True)}


@pytest.fixture
def no_child_left():
    """A function that says whether all processes that the test started have gone.

    Other tests of the same process may have left a fork server of multiprocessing.
    """
    before = processes()
    return lambda: processes() <= before


def test_a_trial_gives_its_passes_and_a_fingerprint_equal_to_the_reference(executor):
    trial = make_trial("frame", ORIGINAL, 12)
    run = executor.run(trial, "confirming", passes=2, verify=True)
    assert run.verdict is None, run.message
    assert [done.rows for done in run.passes] == [600, 600]
    assert all(done.metrics["wall_s"] > 0 for done in run.passes)
    assert run.fingerprint == executor.reference("frame", 12, ordered=False).fingerprint


@pytest.mark.parametrize("phase", ["confirming", "memory"])
def test_a_sample_of_the_files_is_verified_in_a_visit_of_its_own(executor, phase):
    trial = make_trial("frame", ORIGINAL, 12)
    run = executor.run(trial, phase, passes=1, verify=True, every=5)
    assert [done.rows for done in run.passes] == [600]
    assert run.fingerprint.rows == 200  # of files 0, 5, 10 and 11
    assert run.fingerprint == executor.reference("frame", 12, ordered=False, every=5).fingerprint


@pytest.mark.parametrize("job", ["frame", "batches", "stream"])
def test_a_sample_of_each_job_has_the_original_s_rows_of_the_same_files(data, job):
    executor = InProcessExecutor(data)
    trial = make_trial(job, LoaderSettings(backend="original", num_workers=0, cache="none"), 12)
    run = executor.run(trial, "confirming", passes=1, verify=True, every=4)
    expected = executor.reference(job, 12, ordered=False, every=4).fingerprint
    assert (run.fingerprint, expected.rows) == (expected, 200)
    assert run.fingerprint != executor.reference(job, 12, ordered=False).fingerprint


def test_a_run_that_takes_longer_than_it_may_is_ended_and_is_no_hang(
    data, misbehave, no_child_left
):
    misbehave("import time; time.sleep(600)")
    trial = make_trial("frame", ORIGINAL, 3)
    with ChildExecutor(data, timeout_s=60) as executor:
        run = executor.run(trial, "confirming", passes=1, verify=False, within_s=1.0)
    assert run.out_of_time
    assert no_child_left()


def test_a_hang_within_the_time_of_a_run_is_a_hang(data, misbehave):
    misbehave("import time; time.sleep(600)")
    trial = make_trial("frame", ORIGINAL, 3)
    with ChildExecutor(data, timeout_s=0.5) as executor:
        run = executor.run(trial, "confirming", passes=1, verify=False, within_s=600.0)
    assert (run.verdict, run.out_of_time) == ("hang", False)


def test_memory_is_measured_in_launches_of_its_own(executor):
    trial = make_trial("frame", ORIGINAL, 12)
    timed = executor.run(trial, "confirming", passes=1, verify=False).passes[0]
    fresh = executor.run(trial, "memory", passes=1, verify=False).passes[0]
    assert timed.metrics["peak_pss_bytes"] is None
    assert timed.reasons["peak_pss_bytes"] == TIMED
    assert fresh.metrics["peak_pss_bytes"] >= fresh.metrics["peak_uss_bytes"] > 10e6
    assert fresh.metrics["peak_pss_bytes"] >= fresh.metrics["baseline_pss_bytes"] * 0.9


def test_each_run_is_a_launch_of_its_own(executor):
    trial = make_trial("frame", ORIGINAL, 3)
    phases = ("confirming", "confirming", "explaining", "memory")
    runs = [executor.run(trial, phase, passes=1, verify=False) for phase in phases]
    assert [run.launch for run in runs] == [1, 2, 3, 4]


@pytest.mark.parametrize("job", ["batches", "stream"])
@pytest.mark.parametrize("backend", ["original", "pytorch"])
def test_training_jobs_deliver_the_originals_rows(data, job, backend):
    pytest.importorskip("torch")
    executor = InProcessExecutor(data)
    trial = make_trial(job, LoaderSettings(backend=backend, num_workers=2, batch_size=32), 12)
    run = executor.run(trial, "confirming", passes=2, verify=True)
    assert run.verdict is None, run.message
    assert run.passes[0].rows == 600
    assert run.passes[0].metrics["first_batch_s"] > 0
    assert run.fingerprint == executor.reference(job, 12, ordered=False).fingerprint


@pytest.mark.parametrize("job", ["frame", "batches", "stream"])
@pytest.mark.parametrize("backend", ["original", "pytorch", "tensorflow"])
def test_the_stages_of_an_explained_pass_add_up_to_it(data, job, backend, monkeypatch):
    monkeypatch.setattr(what_if, "MOST_S", 0.2)
    if not find_backend(backend).installed:
        pytest.skip(f"{backend} is not installed")
    settings = LoaderSettings(backend=backend, num_workers=2, batch_size=32, cache="none")
    trial = make_trial(job, find_backend(backend).normalized_for(job, settings), 12)
    run = InProcessExecutor(data).run(trial, "explaining", passes=2, verify=False)
    assert run.verdict is None, run.message
    for done in run.passes:
        metrics, reasons = complete(trial, "confirming", done)
        stages = [metrics[f"stage_{name}_s"] for name in STAGES]
        assert None not in stages
        assert sum(stages) == pytest.approx(metrics["wall_s"], rel=1e-6)
        assert metrics["harness_s"] < metrics["wall_s"]
    assert any(metrics[name] for name in ("ceiling_decode_s", "ceiling_gather_s"))
    too_slow = "takes too long to load" in reasons.get("uncompressed_pct", "")
    assert (metrics["uncompressed_pct"] is None) == (job == "batches" or too_slow)


def test_an_explanation_that_fails_is_a_reason_and_not_the_trial_s_end(executor, misbehave):
    misbehave("raise RuntimeError('no room')", what="what_if")
    trial = make_trial("frame", ORIGINAL, 12)
    run = executor.run(trial, "explaining", passes=1, verify=False)
    assert run.verdict is None, run.message
    _, reasons = complete(trial, "confirming", run.passes[0])
    assert "no room" in reasons["merged_pct"]


def test_more_workers_than_files_are_idle(executor):
    pytest.importorskip("torch")
    settings = LoaderSettings(backend="pytorch", num_workers=4, prefetch=0, cache="none")
    run = executor.run(make_trial("frame", settings, 1), "confirming", passes=1, verify=False)
    assert run.passes[0].metrics["idle_workers"] == 3


def test_each_pass_counts_the_files_that_pandas_read_and_names_the_column(tmp_path):
    pytest.importorskip("torch")
    paths = [str(tmp_path / f"{number}.parquet") for number in range(6)]
    for number, path in enumerate(paths):
        deep = {"tags": [[["x"], ["y"]]] * 3} if number < 4 else {}
        pq.write_table(pa.table({"n": [1.5, 2.5, 3.5], **deep}), path)
    data = Data(paths=paths, columns=None, features=["n"], target=None)
    settings = LoaderSettings(backend="pytorch", num_workers=2, prefetch=0, cache="none")
    trial = make_trial("frame", settings, 6)
    with ChildExecutor(data, timeout_s=30) as executor:
        runs = [executor.run(trial, phase, passes=2, verify=False) for phase in PHASES]
        plain = executor.run(make_trial("frame", ORIGINAL, 6), "confirming", passes=1, verify=False)
    for run in runs:
        assert run.verdict is None, run.message
        for done in run.passes:
            metrics, reasons = complete(trial, "confirming", done)
            assert metrics["files_by_pandas"] == 4
            assert reasons["files_by_pandas"].startswith("column 'tags' holds lists of lists of te")
    metrics, reasons = complete(make_trial("frame", ORIGINAL, 6), "confirming", plain.passes[0])
    assert metrics["files_by_pandas"] is None
    assert reasons["files_by_pandas"] == "the original reads all files with pandas"


def test_without_cuda_the_transfer_is_null_with_the_reason(executor):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    trial = make_trial("batches", LoaderSettings(backend="pytorch", num_workers=0), 3)
    done = executor.run(trial, "confirming", passes=1, verify=False).passes[0]
    assert done.metrics["h2d_pinned_s"] is None
    assert done.reasons["h2d_pinned_s"] == "no CUDA device"


def test_a_loader_that_raises_is_an_error(executor, misbehave):
    misbehave("raise ValueError('bad luck')")
    trial = make_trial("frame", ORIGINAL, 3)
    run = executor.run(trial, "confirming", passes=2, verify=False)
    assert (run.verdict, run.message) == ("error", "ValueError: bad luck")
    assert "ValueError: bad luck" in run.traceback


@pytest.mark.parametrize(
    ("code", "verdict", "says"),
    [
        ("import os; os._exit(7)", "crash", "exit code 7"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crash", "SIGSEGV"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "out-of-memory", "killed"),
        ("raise MemoryError('no more')", "out-of-memory", "no more"),
    ],
)
def test_a_child_that_dies_is_a_verdict_and_the_next_trial_gets_a_new_one(
    executor, misbehave, monkeypatch, code, verdict, says
):
    misbehave(code)
    trial = make_trial("frame", ORIGINAL, 3)
    run = executor.run(trial, "confirming", passes=1, verify=False)
    assert (run.verdict, says in run.message) == (verdict, True)
    monkeypatch.delenv("PYTHONPATH")
    executor.close()
    assert executor.run(trial, "confirming", passes=1, verify=False).verdict is None


def test_a_hanging_trial_is_ended_at_the_timeout(data, misbehave, no_child_left):
    misbehave("import time; time.sleep(600)")
    with ChildExecutor(data, timeout_s=0.5) as executor:
        run = executor.run(make_trial("frame", ORIGINAL, 3), "confirming", passes=1, verify=False)
    assert run.verdict == "hang"
    assert no_child_left()


def test_what_a_loader_prints_does_not_get_between_the_answers(executor, misbehave):
    misbehave('print(\'{"type": "done"}\', flush=True)')
    trial = make_trial("frame", ORIGINAL, 3)
    assert executor.run(trial, "confirming", passes=1, verify=False).verdict is None


def test_warnings_of_a_trial_are_told_with_each_trial(executor, misbehave):
    misbehave("""
        import warnings
        from feedrate.loaders.base.errors import FeedrateWarning
        warnings.warn("from a library")
        warnings.warn("for developers", DeprecationWarning)
        for _ in range(3):
            warnings.warn("column 'x' has text", FeedrateWarning)
    """)
    trial = make_trial("frame", ORIGINAL, 3)
    for _ in range(2):
        run = executor.run(trial, "confirming", passes=2, verify=False)
        assert run.notes == ["column 'x' has text", "UserWarning: from a library"]
    quiet = executor.run(make_trial("frame", ORIGINAL, 2), "confirming", passes=1, verify=False)
    assert quiet.notes == []


def test_launches_go_on_counting_after_those_of_an_earlier_run(data):
    trial = make_trial("frame", ORIGINAL, 3)
    with ChildExecutor(data, timeout_s=30, first_launch=5) as executor:
        runs = [executor.run(trial, "confirming", passes=1, verify=False) for _ in range(2)]
    assert [run.launch for run in runs] == [6, 7]


@pytest.fixture
def many_paths(data):
    """More than a pipe holds, so that the first message waits for its reader."""
    return structs.replace(data, paths=data.paths * 20_000)


@pytest.fixture
def at_start(tmp_path, monkeypatch):
    """Let every child run some code before it imports anything."""

    def install(code):
        names = "{'feedrate.harness.child', 'feedrate.harness.fork_server'}"
        text = f"import sys\nif {names} & set(sys.orig_argv):\n    {code}\n"
        (tmp_path / "sitecustomize.py").write_text(text)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return install


def test_a_child_that_dies_while_it_starts_is_a_verdict(many_paths, at_start):
    at_start("import os; os._exit(3)")
    trial = make_trial("frame", ORIGINAL, 3)
    with ChildExecutor(many_paths, timeout_s=1) as executor:
        runs = [
            executor.run(trial, "confirming", passes=1, verify=False),
            executor.run(trial, "memory", passes=1, verify=False),
            executor.reference("frame", 3, ordered=False),
        ]
    assert [(run.verdict, run.message) for run in runs] == [("crash", "exit code 3")] * 3
    assert [run.launch for run in runs] == [1, 2, 3]


def test_a_child_that_hangs_while_it_starts_is_ended(
    many_paths, at_start, monkeypatch, no_child_left
):
    at_start("import time; time.sleep(600)")
    for module in (child_process, executing, forks):
        monkeypatch.setattr(module, "START_TIMEOUT_S", 0.5)
    with ChildExecutor(many_paths, timeout_s=1) as executor:
        run = executor.reference("frame", 3, ordered=False)
    assert (run.verdict, run.message) == ("hang", "no answer within 0.5 s; it was ended")
    assert no_child_left()


def test_long_lists_of_files_are_told_whole(many_paths):
    with ChildExecutor(many_paths, timeout_s=30) as executor:
        run = executor.run(make_trial("frame", ORIGINAL, 3), "confirming", passes=1, verify=False)
    assert (run.verdict, run.passes[0].rows) == (None, 150)


@pytest.mark.parametrize(
    "leave_behind",
    ["pid = subprocess.Popen(['sleep', '600']).pid", "pid = os.fork() or time.sleep(600)"],
    ids=["with its own pipes", "holding the pipes open"],
)
def test_what_a_dead_child_leaves_behind_is_ended_too(data, misbehave, tmp_path, leave_behind):
    misbehave(f"""
        import os, subprocess, time
        {leave_behind}
        open({str(tmp_path / "pid")!r}, "w").write(str(pid))
        os._exit(7)
    """)
    with ChildExecutor(data, timeout_s=2) as executor:
        run = executor.run(make_trial("frame", ORIGINAL, 3), "confirming", passes=1, verify=False)
    assert (run.verdict, run.message) == ("crash", "exit code 7")
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.05)
    pytest.fail(f"process {pid} lives on")


def test_what_a_child_starts_in_another_group_ends_with_it(data, misbehave, tmp_path):
    misbehave(f"""
        import subprocess
        process = subprocess.Popen(["sleep", "600"], start_new_session=True)
        open({str(tmp_path / "pid")!r}, "w").write(str(process.pid))
        raise ValueError("later")
    """)
    with ChildExecutor(data, timeout_s=20) as executor:
        run = executor.run(make_trial("frame", ORIGINAL, 3), "confirming", passes=1, verify=False)
    assert run.verdict == "error"
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"process {pid} lives on"
        time.sleep(0.05)


def test_a_conversation_that_is_interrupted_leaves_no_child_that_answers_late(
    executor, monkeypatch, no_child_left
):
    trial = make_trial("frame", ORIGINAL, 3)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(child_process.ChildProcess, "hear", interrupt)
        with pytest.raises(KeyboardInterrupt):
            executor.run(trial, "confirming", passes=1, verify=False)
    executor.close()
    assert no_child_left()
    assert executor.run(trial, "confirming", passes=1, verify=False).verdict is None


def test_closing_a_child_twice_kills_once(monkeypatch, no_child_left):
    killed = []
    real = os.killpg
    monkeypatch.setattr(os, "killpg", lambda *args: killed.append(args) or real(*args))
    child = child_process.ChildProcess(launch=1)
    child.close()
    child.close()
    assert killed == [(child.pid, signal.SIGKILL)]
    assert no_child_left()


def test_a_child_that_cannot_be_ended_is_not_passed_over(monkeypatch):
    child = child_process.ChildProcess(launch=1)

    def refuse(*_):
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(os, "killpg", refuse)
        with pytest.raises(PermissionError):
            child.close()
    os.kill(child.pid, signal.SIGKILL)
    os.waitpid(child.pid, 0)


def test_a_child_whose_harness_is_gone_does_not_start():
    command = [sys.executable, "-m", process_start.CHILD_MODULE, str(1 << 30)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("code", "last_words", "verdict", "message"),
    [
        (0, "", "crash", "it ended by itself, exit code 0"),
        (1, "KeyError: 'x'", "crash", "exit code 1: KeyError: 'x'"),
        (-signal.SIGABRT, "terminate called", "crash", "SIGABRT: terminate called"),
        (-signal.SIGBUS, "", "shm-full", "bus error, most likely a full /dev/shm"),
        (-40, "", "crash", "exit code -40"),
    ],
)
def test_an_exit_code_becomes_a_verdict(code, last_words, verdict, message):
    assert child_process.classify_exit(code, last_words) == (verdict, message)


def test_examples_in_docstrings_hold():
    assert doctest.testmod(child_process).failed == 0
