"""The judgement on the suite's own time."""

from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("junitparser")

from . import pace
from .suite_time import FAILS_AT, LIMIT_S, USUAL_S, judged, slowness_of

CASE = '<testcase classname="tests.a" name="{name}" time="{took}"/>'


@pytest.fixture
def results(tmp_path):
    """Files as pytest writes them, each of the times of its tests."""

    def write(*suites):
        files = []
        for number, times in enumerate(suites):
            cases = "".join(CASE.format(name=f"t{took}", took=took) for took in times)
            suite = f'<testsuite name="pytest" time="{sum(times)}">{cases}</testsuite>'
            files.append(tmp_path / f"{number}.xml")
            files[-1].write_text(f"<testsuites>{suite}</testsuites>")
        return files

    return write


def test_the_ten_slowest_of_all_calls_are_listed(results):
    text, within = judged(results([1.5, 30.0], range(2, 14)), 1.0)
    assert within
    lines = text.splitlines()
    assert lines[0] == "the 10 slowest of 14 tests:"
    assert lines[1].split() == ["30.0", "s", "tests.a::t30.0"]
    assert [line.split()[0] for line in lines[2:11]] == [f"{n:.1f}" for n in range(13, 4, -1)]
    assert "all tests took 122 s" in lines[11]


def test_too_long_is_told_and_a_slow_machine_may_take_longer(results):
    text, within = judged(results([LIMIT_S, 1.0]), 0.5)
    assert "too long" in text
    assert within  # runs differ
    files = results([FAILS_AT * LIMIT_S, 1.0])
    text, within = judged(files, 0.5)
    assert "too long" in text
    assert not within
    assert judged(files, 1.2)[1]


def test_the_pace_is_noted_while_tests_run_and_averaged_over_all_runs(results, monkeypatch):
    files = results([1.0], [1.0])
    now, speeds = [0.0], iter([1.0, 2.0, 6.0])
    monkeypatch.setattr(pace, "yardstick", lambda: USUAL_S * next(speeds))
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: now[0]))
    for file, moments in ((files[0], [0.0, 1.0, pace.EVERY_S]), (files[1], [0.0])):
        run = pace.Pace(file)
        for now[0] in moments:
            run.pytest_runtest_logfinish()
        run.pytest_sessionfinish()
    assert slowness_of(files) == pytest.approx(3.0)


def test_tox_names_each_file_with_tests_that_run_alone():
    tests = Path(__file__).parent
    marked = {
        str(path.relative_to(tests.parent))
        for path in tests.rglob("test_*.py")
        if "pytest.mark." + "alone" in path.read_text(encoding="utf-8")
    }
    command = next(
        line for line in (tests.parent / "tox.ini").read_text().splitlines() if "-m alone" in line
    )
    assert marked == {word for word in command.split() if word.startswith("tests/")}
