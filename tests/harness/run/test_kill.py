"""A run that is killed at any moment loses at most what was in flight, and can be completed."""

import signal
import subprocess
import sys
import time

import psutil
import pytest
from feedrate.harness.record.results import read_results

pytestmark = pytest.mark.slow

COMMAND = (sys.executable, "-m", "feedrate.harness")
KILLS = 1
PATIENCE_S = 120


@pytest.fixture
def command(storage, tmp_path, monkeypatch):
    monkeypatch.setenv("FEEDRATE_HOME", str(tmp_path / "home"))

    def made(results, *more):
        return [
            *COMMAND, "sweep", str(storage), "--backends", "original", "--files", "3,12",
            "--repeats", "3", "--passes", "2", "--results", str(results), *more,
        ]  # fmt: skip

    return made


def keys(path):
    return {(s.trial, s.phase, s.round, s.pass_) for s in read_results(path).samples}


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_killed_sweep_is_resumed_to_the_same_set_of_samples(command, tmp_path):
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    subprocess.run(command(whole), check=True, capture_output=True, timeout=PATIENCE_S)
    for _ in range(KILLS):
        before = lines(killed)
        process = subprocess.Popen(
            command(killed, "--resume"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + PATIENCE_S
        while lines(killed) <= before + 1 and time.monotonic() < deadline:
            time.sleep(0.02)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.wait()
        psutil.wait_procs(children, timeout=10)
        assert not any(child.is_running() for child in children)  # nobody is left behind
        assert lines(killed) > before
        if lines(killed) >= lines(whole):
            break
    assert 0 < lines(killed) < lines(whole)
    subprocess.run(command(killed, "--resume"), check=True, capture_output=True, timeout=PATIENCE_S)
    assert keys(killed) == keys(whole)
