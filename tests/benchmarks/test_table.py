import json

import pytest
from feedrate.loaders.base.machine import fingerprint

from benchmarks.interleave import Measured
from benchmarks.plan import COMPARISONS
from benchmarks.requirements import LIMITS, REQUIREMENTS
from benchmarks.table import HEADINGS, Run, as_text, write

NAME = "frame-disk-cache"


@pytest.fixture
def run():
    samples = {"original": [1.0, 2.0], "feedrate": [0.001, 0.001]}
    found = Measured(samples, {"checksum verified": False})
    return Run(
        "2026-01-02 03:04 UTC", "pytest benchmarks", fingerprint(), {"numpy": "2.0"},
        {NAME: (COMPARISONS[NAME], found)},
    )  # fmt: skip


@pytest.mark.parametrize("row", REQUIREMENTS, ids=lambda row: row.job)
def test_every_requirement_is_about_sides_that_are_measured(row):
    assert {row.ours, *row.peer} <= set(COMPARISONS[row.comparison].sides)


@pytest.mark.parametrize("row", LIMITS, ids=lambda row: f"{row.comparison}-{row.limit}")
def test_every_limit_is_about_sides_that_are_measured(row):
    assert {row.ours, row.limit} <= set(COMPARISONS[row.comparison].sides)


def test_only_what_was_measured_is_shown_and_the_rest_is_counted(run):
    assert [outcome.requirement.comparison for outcome in run.outcomes] == [NAME]
    left = len(REQUIREMENTS) - 1
    assert run.summary().startswith("0 of 1 measured requirements are met; ")
    assert f"{left} more were not measured" in run.summary()


def test_the_text_table_holds_the_ratio_its_range_and_the_verdict(run):
    last = as_text(HEADINGS, run.requirement_rows())[-1]
    assert "≥ 100x original, checksum verified" in last
    assert "1500x (1000x to 2000x)" in last
    assert last.endswith("MISSED, not checksum verified")


def test_markdown_says_where_when_and_how_it_was_measured(run, tmp_path):
    write(run, tmp_path / "RESULTS.md")
    text = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    for part in (run.date, run.command, run.machine.cpu_model, "numpy 2.0", "1.5 s"):
        assert part in text
    assert "| MISSED, not checksum verified |" in text


def test_json_holds_every_sample(run, tmp_path):
    write(run, tmp_path / "results.json")
    document = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    (row,) = document["requirements"]
    assert row["rounds"] == [1000.0, 2000.0]
    assert (row["median"], row["met"], row["bound"]) == (1500.0, False, 100)
    (comparison,) = document["comparisons"]
    assert comparison["samples"]["original"] == [1.0, 2.0]
