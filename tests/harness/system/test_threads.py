"""Pools get one budget where libraries would count too many CPUs, and what came of it is told."""

import os
import subprocess
import sys

import pytest
from feedrate.harness.plan.spec import make_trial
from feedrate.harness.run.child_executor import ChildExecutor
from feedrate.harness.system import threads
from feedrate.harness.system.threads import POOL_VARIABLES, budget, observed
from feedrate.harness.trial.work import Data
from feedrate.loaders.base.settings import LoaderSettings


def test_where_fewer_cpus_may_be_used_than_libraries_count_each_pool_is_bounded(monkeypatch):
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 64)
    assert budget(3, {}) == dict.fromkeys(POOL_VARIABLES, "3")
    assert "OMP_NUM_THREADS" not in budget(3, {"OMP_NUM_THREADS": "7"})
    assert budget(64, {}) == {}


def test_what_is_imported_is_told_and_nothing_is_imported_for_it():
    code = (
        "import sys; from feedrate.harness.system.threads import observed; found = observed();"
        "assert set(found) <= {'process', 'arrow_cpu', 'arrow_io'}, found;"
        "assert not {'torch', 'tensorflow', 'polars'} & set(sys.modules);"
        "print(found['process'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 1


@pytest.mark.parametrize(
    ("module", "key"),
    [("torch", "torch"), ("polars", "polars"), ("tensorflow", "tensorflow_intra_op")],
)
def test_pools_of_frameworks_are_told(module, key):
    pytest.importorskip(module)
    assert observed()[key] >= 0


def test_a_trial_s_threads_are_in_its_run_and_the_budget_reaches_its_process(storage, monkeypatch):
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 64)
    monkeypatch.setattr("feedrate.harness.run.process_start.effective_cpus", lambda: 1)
    for name in POOL_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    paths = sorted(str(path) for path in (storage / "logs").iterdir())
    data = Data(paths=paths, columns=None, features=["points"], target=None)
    settings = LoaderSettings(backend="original", num_workers=0, prefetch=0, cache="none")
    with ChildExecutor(data, timeout_s=60) as executor:
        run = executor.run(make_trial("frame", settings, 3), "confirming", passes=1, verify=False)
    assert run.verdict is None, run.message
    assert run.threads["arrow_cpu"] == 1
    assert run.threads["process"] >= 1
    assert "OMP_NUM_THREADS" not in os.environ
