"""Several loaders at once, as the ranks of a job on one machine: each with its share."""

import os

import pytest
from feedrate.harness import tune
from feedrate.harness.in_process import in_process
from feedrate.harness.plan.spec import make_trial
from feedrate.harness.run.child_executor import ChildExecutor
from feedrate.harness.system.memory import memory_allowance
from feedrate.harness.system.ranks import local_ranks
from feedrate.loaders import Profile
from feedrate.loaders.base.errors import InputError
from feedrate.loaders.base.machine import effective_cpus, fingerprint
from feedrate.loaders.base.settings import LoaderSettings
from feedrate.loaders.choosing.trust import mismatches

from ...backends import unregister

ORIGINAL = LoaderSettings(backend="original", num_workers=0, cache="none")
TRIAL = make_trial("frame", ORIGINAL, 3)


def test_a_share_of_the_machine_is_that_of_one_rank_and_ends():
    whole, variable = fingerprint(), os.environ.get("LOCAL_WORLD_SIZE")
    memory_bytes = memory_allowance()
    with local_ranks(2):
        assert memory_allowance() == pytest.approx(memory_bytes / 2, rel=0.2)
        assert effective_cpus() == max(1, whole.effective_cpus // 2)
        assert fingerprint().local_ranks == 2
    assert os.environ.get("LOCAL_WORLD_SIZE") == variable
    assert fingerprint() == whole


SLOW = """
import os, time
import pandas as pd

def load(settings, files, columns, target, job):
    if os.environ.get("LOCAL_RANK") == "1":
        time.sleep(0.4)
    return pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
"""


def test_ranks_run_at_once_and_the_slowest_counts(data, tmp_path, monkeypatch):
    (tmp_path / "slow_rank.py").write_text(SLOW)
    monkeypatch.chdir(tmp_path)
    trial = make_trial("frame", LoaderSettings(backend="slow_rank:load"), 3)
    with ChildExecutor(data, timeout_s=20, ranks=2) as executor:
        run = executor.run(trial, "confirming", passes=2, verify=True)
        reference = executor.reference("frame", 3, ordered=True)
    assert run.verdict is None, run.message
    assert [done.rows for done in run.passes] == [150, 150]
    assert all(done.metrics["wall_s"] >= 0.4 for done in run.passes)
    assert run.fingerprint == reference.fingerprint
    unregister("slow_rank:load")


@pytest.mark.parametrize(
    ("code", "verdict", "told"),
    [
        ("raise ValueError('no network')", "error", "no network"),
        ("os._exit(7)", "crash", "exit code 7"),
        ("import time; time.sleep(60)", "hang", "no answer within 1 s"),
    ],
)
def test_a_rank_that_fails_is_the_verdict_and_ends_the_others(data, misbehave, code, verdict, told):
    misbehave(f"""
        import os
        if os.environ["LOCAL_RANK"] == "1":
            {code}
    """)
    with ChildExecutor(data, timeout_s=1, ranks=2) as executor:
        run = executor.run(TRIAL, "confirming", passes=2, verify=False)
    assert (run.verdict, told in run.message) == (verdict, True), run.message


@pytest.mark.slow
def test_a_profile_says_for_how_many_ranks_it_holds(storage, tmp_path):
    outcome = tune(
        storage, backends=["original"], files=[3], repeats=1, passes=1, local_ranks=2,
        profile=tmp_path / "p.json", results=tmp_path / "r.jsonl", progress=False, budget=None,
    )  # fmt: skip
    assert outcome.results.header.environment.local_ranks == 2
    assert any("the slowest of 2 that ran at once" in note for note in outcome.notes)
    profile = Profile.load(tmp_path / "p.json")
    told = mismatches(profile, fingerprint(), [])
    assert "the number of ranks on this machine was 2, is 1" in told
    with local_ranks(2):
        assert mismatches(profile, fingerprint(), []) == []


def test_what_cannot_be_is_a_clear_error(storage, tmp_path):
    with pytest.raises(InputError, match="local_ranks is 0"):
        tune(storage, local_ranks=0)
    with pytest.raises(InputError, match="local_ranks needs child processes"):
        tune(storage, local_ranks=2, results=tmp_path / "r.jsonl", make_executor=in_process)
