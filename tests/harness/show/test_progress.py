"""What is told while trials run."""

from types import SimpleNamespace

import msgspec
import pytest
from feedrate.harness.plan.spec import make_trial
from feedrate.harness.show import progress
from feedrate.harness.show.progress import LiveBar, PlainLines
from feedrate.harness.system.formats import MISSING
from feedrate.loaders.base.settings import LoaderSettings

from ... import samples

TRIAL = make_trial("frame", LoaderSettings(backend="pytorch", num_workers=2), 10)


def sample(verdict="ok"):
    return samples.sample(
        0.5, num_workers=2, prefetch=2, cache="memory", phase="confirming", rows=1000,
        verdict=verdict, reasons={"verdict": "bad luck"} if verdict != "ok" else {},
    )  # fmt: skip


def test_lines_tell_done_and_total_time_left_what_runs_and_the_best(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY_S", -1.0)
    lines = PlainLines()
    lines.phase("screening", 10)
    lines.running(TRIAL)
    lines.finished(TRIAL, [sample()])
    lines.running(TRIAL)
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "screening: up to 10 runs"
    assert "screening: 1/10, about" in told[-1]
    assert (
        "now pytorch with 2 workers and the memory cache; best pytorch with 2 workers" in told[-1]
    )
    assert "2.00 k rows/s" in told[-1]


def test_the_best_is_so_by_its_median_and_not_by_one_lucky_run():
    lines = PlainLines()
    other = make_trial("frame", LoaderSettings(backend="pytorch", num_workers=1), 10)
    for lucky, steady in ((0.1, 0.5), (1.0, 0.5), (1.0, 0.5)):
        lines.finished(TRIAL, [msgspec.structs.replace(sample(), metrics={"wall_s": lucky})])
        lines.finished(other, [msgspec.structs.replace(sample(), metrics={"wall_s": steady})])
    assert lines._best.text.startswith("best pytorch with 1 worker ")
    assert "2.00 k rows/s" in lines._best.text


def test_a_trial_that_has_run_once_is_not_the_best_of_those_that_ran_often():
    lines = PlainLines()
    other = make_trial("frame", LoaderSettings(backend="pytorch", num_workers=1), 10)
    for _ in range(3):
        lines.finished(TRIAL, [sample()])
    lines.finished(other, [msgspec.structs.replace(sample(), metrics={"wall_s": 0.1})])
    assert lines._best.text.startswith("best pytorch with 2 workers ")


def test_what_goes_wrong_is_told_at_once_and_is_never_the_best(capsys):
    lines = PlainLines()
    lines.phase("screening", 2)
    lines.finished(TRIAL, [sample("wrong-rows")])
    assert "wrong-rows: pytorch" in capsys.readouterr().err
    assert lines._best.text == ""


def test_what_goes_wrong_alike_is_told_once(capsys):
    lines = PlainLines()
    lines.phase("screening", 3)
    for rows in ("1,000", "2,000"):
        bad = msgspec.structs.replace(sample("wrong-rows"), reasons={"verdict": f"{rows} rows"})
        lines.finished(TRIAL, [bad])
    lines.finished(TRIAL, [sample("crash")])
    told = capsys.readouterr().err
    assert told.count("wrong-rows") == 1
    assert told.count("crash") == 1


def test_a_bar_can_be_closed_at_any_time():
    bar = LiveBar()
    bar.close()
    bar.phase("screening", 2)
    bar.running(TRIAL)
    bar.finished(TRIAL, [sample()])
    bar.phase("confirming", 1)
    bar.close()
    bar.close()


@pytest.mark.parametrize("make", [LiveBar, PlainLines])
def test_what_there_is_to_know_while_measuring_goes_on_is_a_line_on_stderr(make, capsys):
    progress = make()
    progress.tell("budget 20 s: frame on 40 of 400 files")
    progress.phase("screening", 2)
    progress.tell("budget 20 s: frame without tensorflow")
    progress.close()
    _, err = capsys.readouterr()
    assert "frame on 40 of 400 files" in err
    assert "frame without tensorflow" in err


def test_the_time_left_is_no_more_than_a_budget_leaves(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress, "LINE_EVERY_S", -1.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    lines = PlainLines()
    lines.phase("screening", 100, 30.0)
    lines.running(TRIAL)
    now[0] += 10
    lines.finished(TRIAL, [sample()])
    lines.running(TRIAL)
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "screening: up to 100 runs within 30 s"
    assert "about 30 s left" in told[1]
    assert "about 20 s left" in told[-1]
    now[0] += 21  # a run may take longer than it was estimated to
    lines.running(TRIAL)
    assert "left" not in capsys.readouterr().err


def test_a_bar_shows_no_more_time_than_a_budget_leaves():
    task = SimpleNamespace(time_remaining=90.0, elapsed=10.0)
    assert progress._Left(30.0).render(task).plain == "0:00:20"
    assert progress._Left(None).render(task).plain == "0:01:30"
    task.time_remaining = None
    assert progress._Left(None).render(task).plain == MISSING
