"""The gate on this repository: HEAD is built and measured against itself, and delivers its rows."""

import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
pytest.importorskip("torch")
data = pytest.importorskip("feedrate.harness.datasets.data")


def test_head_is_built_and_delivers_the_rows_of_head(tmp_path, monkeypatch):
    from feedrate.harness.gate import gate as pairs
    from feedrate.harness.gate.verb import gate

    known = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    if known.returncode:
        pytest.skip("this is no git checkout, so there are no revisions to compare")
    for name in ("SCREEN_PAIRS", "CONFIRM_PAIRS", "LOOKS"):
        monkeypatch.setattr(pairs, name, 1)  # how sure a verdict on time is does not matter here
    monkeypatch.chdir(ROOT)
    data.write_box_scores(tmp_path / "data", days=6)
    spec = tmp_path / "gate.toml"
    spec.write_text((ROOT / "benchmarks" / "gate.toml").read_text().replace("files = 60", ""))
    outcome = gate(
        tmp_path / "data" / "box_scores", spec=spec, base="HEAD", head="HEAD", passes=1,
        results=tmp_path / "r.jsonl",
    )  # fmt: skip
    found = outcome.judgement.findings
    assert {one.cell: one.verdict for one in found if one.metric == "rows"} == {
        "frames": "pass",
        "original": "pass",
    }
    assert outcome.judgement.verdict in ("pass", "inconclusive")  # one pair can tell no more
    assert {one.cell for one in found if one.metric == "wall_s"} == {"frames", "original"}
