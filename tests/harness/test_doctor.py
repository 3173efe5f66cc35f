"""What doctor finds is there, and what it advises is measured or follows from what it found."""

import doctest
import json
import os
import tempfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feedrate.harness import doctor
from feedrate.harness.cli import app
from feedrate.harness.doctor import examine_data, examine_machine
from feedrate.harness.source import open_source
from typer.testing import CliRunner


@pytest.fixture
def write(tmp_path):
    def put(number, table, **options):
        path = tmp_path / "logs" / f"logs_202501{number + 1:02}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table(table), path, **options)
        return str(path)

    return put


def told(tmp_path):
    found = list(examine_data(open_source(str(tmp_path))))
    return "\n".join(f"{one.level}: {one.text} -> {one.remedy}" for one in found)


def test_examples_in_docstrings_hold():
    assert doctest.testmod(doctor).failed == 0


def test_the_machine_is_described_and_a_quota_below_the_affinity_is_a_warning(monkeypatch):
    topics = {one.topic for one in examine_machine()}
    assert {"CPUs", "memory", "GPU", "software", "limits", "measuring"} <= topics
    affinity = len(os.sched_getaffinity(0))
    monkeypatch.setattr(doctor, "cpu_quota", lambda: affinity - 0.5)
    cpus = next(one for one in examine_machine() if one.topic == "CPUs")
    assert (cpus.level, f"quota {affinity - 0.5:g}" in cpus.text) == ("warning", True)


def test_a_thread_variable_beyond_the_cpus_is_a_warning_that_names_it(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "999")
    (found,) = [one for one in examine_machine() if one.topic == "threads"]
    assert (found.level, "unset OMP_NUM_THREADS" in found.remedy) == ("warning", True)


def test_files_that_no_range_of_dates_finds_are_listed(write, tmp_path):
    write(0, {"x": [1]})
    assert "no date" not in told(tmp_path)
    for name in "abcdefg":
        pq.write_table(pa.table({"x": [1]}), tmp_path / "logs" / f"{name}.parquet")
    text = told(tmp_path)
    assert "warning: 7 of 8 files have no date" in text
    assert "a.parquet, b.parquet, c.parquet, d.parquet, e.parquet and 2 more" in text
    assert "date=2025-01-31" in text


def test_columns_that_dominate_drift_and_row_groups_are_found(write, tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    for number in range(3):
        write(number, {"big": random.random(5000), "small": [1] * 5000}, row_group_size=1000)
    write(3, {"big": ["text"], "more": [1]})
    text = told(tmp_path)
    assert "4 files" in text
    assert "4 row groups a file" in text
    assert "take most bytes: big 9" in text
    assert "column 'big' has 2 types: double in" in text
    assert "2 columns are not in all files" in text
    monkeypatch.setattr(doctor, "GIANT_ROW_GROUP_BYTES", 1000)
    assert "write smaller ones" in told(tmp_path)


def _merged(percent):
    return {
        "merged_pct": percent, "merged_low_pct": percent - 5, "merged_high_pct": percent + 5,
    }  # fmt: skip


def test_what_small_files_cost_is_measured_and_nothing_is_left_behind(write, tmp_path, monkeypatch):
    for number in range(20):
        write(number, {f"column {at}": [number] for at in range(10)})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    text = told(tmp_path)
    assert "from files merged, up to 30 into one, decoding would take" in text
    assert "compression" in text
    assert list((tmp_path / "scratch").iterdir()) == []
    monkeypatch.setattr(doctor, "what_ifs", lambda *_: (_merged(50.0), {}))
    assert "write a file a month in place of one a day" in told(tmp_path)
    monkeypatch.setattr(doctor, "what_ifs", lambda *_: (_merged(-3.0), {}))
    text = told(tmp_path)
    assert "tried on a sample without a clear saving: merged files (a saving above 2%" in text
    assert "write a file a month" not in text


def test_the_command_tells_it_all_and_fails_on_what_is_not_there(write, tmp_path):
    write(0, {"a": [1, 2]})
    runner = CliRunner()
    shown = runner.invoke(app, ["doctor", str(tmp_path)])
    assert shown.exit_code == 0
    assert "logs: 1 files" in shown.stdout
    found = json.loads(runner.invoke(app, ["doctor", str(tmp_path), "--json"]).stdout)
    assert {one["topic"] for one in found["findings"]} >= {"CPUs", "data", "storage"}
    assert found["calibration"] == []
    assert runner.invoke(app, ["doctor", str(tmp_path / "nowhere")]).exit_code != 0


@pytest.mark.parametrize("number", [0, 1])
def test_a_damaged_file_is_a_finding_beside_the_others(write, tmp_path, number):
    for one in range(4):
        write(one, {"a": [1, 2]})
    broken = sorted((tmp_path / "logs").iterdir())[number]
    broken.write_bytes(b"PAR1 and no more of it PAR1")
    shown = CliRunner().invoke(app, ["doctor", str(tmp_path), "--json"])
    assert shown.exit_code == 0, shown.output
    findings = json.loads(shown.stdout)["findings"]
    (found,) = [one for one in findings if str(broken) in one["text"]]
    assert (found["level"], "write it again" in found["remedy"]) == ("warning", True)
    assert "CPUs" in {one["topic"] for one in findings}
