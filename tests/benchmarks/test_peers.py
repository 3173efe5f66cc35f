"""What is written of the peers: only what is right."""

import importlib.util

import pytest

if importlib.util.find_spec("altair") is None or importlib.util.find_spec("scipy") is None:
    pytest.skip("it draws charts, of what the harness measured", allow_module_level=True)

from feedrate.harness.run.executor import PassSample, TrialRun
from feedrate.harness.trial.fingerprint import Fingerprint

from benchmarks import peers
from benchmarks.peers import Contest, chart, measure, page, rows


@pytest.fixture
def found(storage, tmp_path, monkeypatch):
    """A contest whose loaders take known times, and of which polars delivers other rows."""
    seconds = {"original": 1.0, "pytorch": 0.1, "tensorflow": 0.2}

    class Known:
        def __init__(self, *_, **__):
            pass

        def run(self, trial, *_, **__):
            name = trial.backend.rpartition(":")[2]
            took = seconds.get(name, 0.5)
            digest = "v:other" if name == "polars" else "v:rows"
            passes = [PassSample(10, {"wall_s": took}, {}) for _ in range(2)]
            return TrialRun(passes, Fingerprint(digest), launch=1)

        def reference(self, *_, **__):
            return TrialRun([], Fingerprint("v:rows"))

        def close(self):
            pass

    monkeypatch.setattr(peers, "ChildExecutor", Known)

    def run(**changed):
        seconds.update(changed)
        contest = Contest("three days", "box_scores", "frame")
        return measure(contest, storage.base_dir, tmp_path, 6)

    return run


def test_the_original_comes_first_and_other_rows_have_no_speedup(found):
    table = list(rows(found()))
    assert next(row[1] for row in table) == "original"
    told = {row[1]: row for row in table}
    assert told["**feedrate, pytorch**"][5].startswith("10.0×")  # noqa: RUF001
    assert told["polars"][5:] == ("–", "wrong-rows")  # noqa: RUF001
    assert "**feedrate, pytorch, no cache**" in told


def test_the_chart_leaves_other_rows_out(found):
    drawn = str(chart(found(), "frames").spec)
    assert "feedrate, pytorch" in drawn
    assert "'polars'" not in drawn
    assert "all passes" not in drawn


def test_a_peer_that_is_surely_faster_is_a_miss(found):
    assert list(peers._faster_peers(found())) == []


def test_a_faster_peer_is_told(found):
    (told,) = peers._faster_peers(found(duckdb=0.01))
    assert told.startswith("three days, frame: duckdb is ")
    assert told.endswith(" as fast as our best")


def test_the_page_says_how_it_was_made_and_shows_its_charts(found):
    text = page([found()], "python -m benchmarks.peers")
    assert "`python -m benchmarks.peers`" in text
    assert "![Frames](peers/frames.svg)" in text
