"""Trials in this process: the same answers as from a child process, and nothing left behind."""

import subprocess
import sys

import psutil
import pytest
from feedrate.harness import sweep, tune
from feedrate.harness.in_process import SAME_PROCESS, InProcessExecutor, in_process
from feedrate.harness.plan.spec import make_trial
from feedrate.harness.run.child_executor import ChildExecutor
from feedrate.harness.trial.work import Data
from feedrate.loaders.base.settings import LoaderSettings

from ...backends import unregister

ORIGINAL = LoaderSettings(backend="original", num_workers=0, prefetch=0, cache="none", seed=0)
LOADER = """
import os
import sys

def load(settings, files, columns, target, job):
    END
"""


@pytest.fixture
def data(storage):
    paths = sorted(str(path) for path in (storage / "logs").iterdir())
    return Data(paths=paths, columns=None, features=["points", "minutes"], target="started")


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A custom loader that ends with a statement."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(end):
        (tmp_path / "ends_loader.py").write_text(LOADER.replace("END", end))
        return make_trial("frame", LoaderSettings(backend="ends_loader:load", cache="none"), 3)

    yield write
    unregister("ends_loader:load")


@pytest.mark.parametrize("job", ["frame", "batches", "stream"])
@pytest.mark.slow
def test_a_trial_gives_the_same_passes_and_rows_as_in_a_child(data, job):
    trial = make_trial(job, ORIGINAL, 12)
    before = set(psutil.Process().children())
    with ChildExecutor(data, timeout_s=60) as other:
        there = other.run(trial, "confirming", passes=2, verify=True)
    here = InProcessExecutor(data).run(trial, "confirming", passes=2, verify=True)
    assert there.verdict is here.verdict is None, (there.message, here.message)
    assert there.fingerprint == here.fingerprint
    for one, other in zip(here.passes, there.passes, strict=True):
        assert one.rows == other.rows
        assert one.metrics.keys() == other.metrics.keys()
        assert one.metrics["wall_s"] > 0
        assert one.reasons["peak_pss_bytes"] == SAME_PROCESS
    reference = InProcessExecutor(data).reference(job, 12, ordered=False)
    assert reference.fingerprint == here.fingerprint
    assert set(psutil.Process().children()) <= before


@pytest.mark.parametrize(
    ("end", "verdict", "told"),
    [
        ("raise RuntimeError('no network today')", "error", "RuntimeError: no network today"),
        ("raise MemoryError('no more')", "out-of-memory", "no more"),
        ("raise OSError(28, 'No space left on device', '/dev/shm/x')", "shm-full", "No space left"),
        ("sys.exit('done')", "error", "it called sys.exit('done')"),
    ],
)
def test_a_loader_that_raises_is_a_verdict(data, own, end, verdict, told):
    executor = InProcessExecutor(data)
    run = executor.run(own(end), "confirming", passes=2, verify=True)
    assert (run.verdict, run.passes) == (verdict, [])
    assert told in run.message
    assert "in load" in run.traceback
    assert executor.run(
        make_trial("frame", ORIGINAL, 3), "confirming", passes=1, verify=True
    ).passes


def test_a_process_that_a_loader_forks_ends_as_it_likes(data, own, tmp_path):
    trial = own("sys.exit(os.waitstatus_to_exitcode(os.waitpid(os.fork() or sys.exit(3), 0)[1]))")
    code = (
        "from feedrate.harness.in_process import InProcessExecutor; "
        "from feedrate.harness.trial.work import Data; "
        "from feedrate.harness.plan.spec import make_trial; "
        "from feedrate.loaders.base.settings import LoaderSettings; run = InProcessExecutor("
        f"Data(paths={data.paths!r}, columns=None, features=['points'], target=None)).run("
        f"make_trial('frame', LoaderSettings(backend={trial.backend!r}), 3), 'confirming', "
        "passes=1, verify=False); print(run.message)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.count("it called sys.exit(") == 1  # the fork came to no answer of its own
    assert "it called sys.exit(3)" in done.stdout


def test_a_warning_of_a_loader_is_a_note_and_never_an_error(data, own):
    warn = (
        "import warnings; import pandas as pd; warnings.warn('odd', UserWarning); "
        "return pd.concat([pd.read_parquet(f) for f in files], ignore_index=True)"
    )
    run = InProcessExecutor(data).run(own(warn), "confirming", passes=1, verify=True)
    assert (run.verdict, run.notes) == (None, ["UserWarning: odd"])


def test_a_file_that_is_gone_before_a_cold_pass_is_an_error():
    gone = Data(paths=["gone.parquet"], columns=None, features=["x"], target=None)
    executor = InProcessExecutor(gone, page_cache="cold")
    run = executor.run(make_trial("frame", ORIGINAL, 1), "confirming", passes=1, verify=False)
    assert (run.verdict, run.passes) == ("error", [])
    assert "gone.parquet" in run.message


def test_tune_and_sweep_run_in_this_process_if_asked(storage, tmp_path, monkeypatch):
    monkeypatch.setattr("feedrate.harness.run.child_executor.ChildProcess", None)
    fields = {"backends": ["original"], "repeats": 1, "make_executor": in_process}
    swept = sweep(storage, results=tmp_path / "s.jsonl", page_cache="warm", **fields)
    assert {one.verdict for one in swept.results.samples} == {"ok"}
    tuned = tune(storage, results=tmp_path / "t.jsonl", profile=False, files=[12], **fields)
    assert "frame: use original" in str(tuned)
    launches = {one.launch for one in tuned.results.samples}
    assert len(launches) > 3
