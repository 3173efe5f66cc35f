"""The gate on this repository: HEAD against itself, one cell and its control."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytest.importorskip("torch")
data = pytest.importorskip("feedrate.harness.data")


def test_head_is_not_slower_than_itself(tmp_path):
    known = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    if known.returncode:
        pytest.skip("this is no git checkout, so there are no revisions to compare")
    data.write_box_scores(tmp_path / "data", days=60)
    done = subprocess.run(
        [
            sys.executable, "-m", "feedrate.harness", "gate", tmp_path / "data" / "box_scores",
            "--spec", "benchmarks/gate.toml", "--base", "HEAD", "--head", "HEAD", "--json",
        ],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 3), done.stderr  # what cannot be told is no failure
    told = json.loads(done.stdout)
    rows = {one["cell"]: one["verdict"] for one in told["findings"] if one["metric"] == "rows"}
    assert rows == {"frames": "pass", "original": "pass"}
