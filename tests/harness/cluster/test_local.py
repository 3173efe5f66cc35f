"""Trials on a Ray cluster of this machine, which the command starts and ends."""

import json
import os
import subprocess
import sys

import psutil
import pytest
from feedrate.harness.record.results import read_results
from feedrate.loaders.base.machine import is_installed

pytestmark = pytest.mark.skipif(not is_installed("ray"), reason="ray is not installed")

TELLS = """
import os
import pandas as pd

def tells(settings, files, columns, target, job):
    names = [name for name in os.environ if name.startswith(("RAY_", "OMP_"))]
    if names:
        raise ValueError(f"Ray's variables are left: {names}")
    return pd.concat([pd.read_parquet(file, columns=columns) for file in files], ignore_index=True)

tells.uses = frozenset()
"""


@pytest.mark.alone
def test_a_sweep_on_ray_here_measures_what_the_local_one_does(storage, tmp_path, monkeypatch):
    (tmp_path / "tells_environment.py").write_text(TELLS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    command = [
        sys.executable, "-m", "feedrate.harness", "sweep", storage, "--backends", "pytorch",
        "--workers", "0", "--cache", "none", "--files", "3", "--repeats", "1", "--passes", "1",
        "--loader", "tells_environment:tells", "--json",
    ]  # fmt: skip
    # Importing Ray, as other tests do, sets some in this process.
    clean = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")}
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    subprocess.run([*command, "--results", here], check=True, capture_output=True, env=clean)
    done = subprocess.run(
        [*command, "--ray", "local", "--results", there],
        check=True, capture_output=True, text=True, env=clean,
    )  # fmt: skip
    (machine,) = json.loads(done.stdout)["machines"]
    assert machine["results"] == str(there)
    assert machine["error"] is None

    def kept(path):
        return sorted(
            (s.trial, s.verdict, s.rows, s.fingerprint) for s in read_results(path).samples
        )

    assert kept(there) == kept(here)
    assert {verdict for _, verdict, *_ in kept(there)} == {"ok"}
    assert read_results(there).header.environment == read_results(here).header.environment
    names = [process.info["name"] for process in psutil.process_iter(["name"])]
    assert not {"raylet", "gcs_server"} & set(names)
