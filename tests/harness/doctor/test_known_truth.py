"""Loaders of known behaviour, measured through the whole harness, come out as they are."""

import os

import pytest
from feedrate.harness.doctor import calibration
from feedrate.harness.doctor.calibration import FIGURES, VERDICTS, _figure, _run, calibrate
from feedrate.harness.run.child_executor import ChildExecutor
from feedrate.harness.run.executor import TrialRun
from feedrate.harness.system.pagecache import evict, residency
from feedrate.harness.trial.work import Data

pytestmark = pytest.mark.slow

FILES, FILE_BYTES = 20, 300_001
# Of times, in seconds, what holds on the busiest machine: nobody sleeps for less than was asked.
# How near they come is for `doctor --calibrate` to tell.
BOUNDS = {
    "sleeps 5 ms per batch: batch p50": (0.005, 0.5),
    "delivers ready-made batches: the harness's time per batch": (1e-9, 1e-3),
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("known")
    made = []
    for number in range(FILES):
        path = folder / f"{number:02}.bin"
        path.write_bytes(os.urandom(FILE_BYTES))
        made.append(str(path))
    return made


def can_be_cold(paths):
    evict(paths)
    found = residency(paths)
    return found is not None and not found.cached


@pytest.mark.alone
@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.what)
def test_a_figure_comes_out_as_it_is(figure, paths):
    if figure.page_cache == "cold" and not can_be_cold(paths):
        pytest.skip("files of this folder cannot be evicted")
    data = Data(paths=paths, columns=None, features=["x"], target=None)
    with ChildExecutor(data, 60, page_cache=figure.page_cache) as executor:
        run = _run(executor, figure.backend, paths, figure.phase)
    found = _figure(figure, run, paths)
    assert not found.reason
    if figure.what not in BOUNDS:
        assert found.holds, found
        return
    low, high = BOUNDS[figure.what]
    assert low <= figure.value(run.passes[0].metrics) <= high
    assert float(found.measured.split()[0]) > 0


@pytest.mark.parametrize(("what", "backend", "verdict"), VERDICTS)
def test_a_trial_that_ends_badly_gets_its_verdict_and_the_next_one_runs(
    what, backend, verdict, paths
):
    data = Data(paths=paths, columns=None, features=["x"], target=None)
    timeout = 3.0 if verdict == "hang" else 60
    with ChildExecutor(data, timeout, max_memory=600 << 20) as executor:
        run = _run(executor, backend, paths)
        assert (run.verdict, run.passes) == (verdict, []), (what, run.message)
        assert _run(executor, "known-read", paths).verdict is None
    if verdict == "hang":
        assert "in _hang (" in run.message
        assert "_hang" in run.traceback
    if verdict == "out-of-memory":
        assert "beyond the limit of 600 MiB" in run.message


def test_what_is_wrong_is_told(paths, monkeypatch):
    class Broken:
        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def run(self, *_, **__):
            return TrialRun([], verdict="crash", message="exit code 3")

    monkeypatch.setattr(calibration, "ChildExecutor", Broken)
    found = list(calibrate(paths))
    assert len(found) == len(FIGURES) + len(VERDICTS)
    assert [one.holds for one in found if one.true != "crash"] == [False] * (len(found) - 2)
    assert {one.reason for one in found} == {"exit code 3"}
