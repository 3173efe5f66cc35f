"""What doctor finds is there, and what it advises is measured or follows from what it found."""

import datetime as dt
import doctest
import json
import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feedrate.harness.cli.app import app
from feedrate.harness.doctor import files as doctor
from feedrate.harness.doctor import machine as doctor_machine
from feedrate.harness.doctor.files import examine_data, split_damaged
from feedrate.harness.doctor.machine import examine_machine
from feedrate.harness.plan.source import find_files
from feedrate.harness.system.scratch import VARIABLE
from feedrate.loaders.base.errors import ColumnError, ParquetFileError
from feedrate.loaders.parquet.original import read_frame
from feedrate.loaders.training.matrix import Columns
from feedrate.loaders.training.spans import find_spans
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
    good, damaged = split_damaged(find_files(str(tmp_path)))
    found = [*damaged, *examine_data(good)]
    return "\n".join(f"{one.level}: {one.text} -> {one.remedy}" for one in found)


def test_examples_in_docstrings_hold():
    assert doctest.testmod(doctor).failed == 0


def test_the_machine_is_described_and_a_quota_below_the_affinity_is_a_warning(monkeypatch):
    topics = {one.topic for one in examine_machine()}
    assert {"CPUs", "memory", "GPU", "software", "limits", "measuring"} <= topics
    affinity = len(os.sched_getaffinity(0))
    monkeypatch.setattr(doctor_machine, "cpu_quota", lambda: affinity - 0.5)
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
    assert "4 row groups per file" in text
    assert "take most bytes: big 9" in text
    assert "column 'big' has 2 types: double in" in text
    assert "not all files have 2 columns: small, more" in text
    monkeypatch.setattr(doctor, "GIANT_ROW_GROUP_BYTES", 1000)
    assert "write smaller ones" in told(tmp_path)


def _merged(percent):
    return {
        "merged_pct": percent, "merged_low_pct": percent - 5, "merged_high_pct": percent + 5,
    }  # fmt: skip


def test_what_small_files_cost_is_measured_and_nothing_is_left_behind(write, tmp_path, monkeypatch):
    for number in range(20):
        write(number, {f"column {at}": [number] for at in range(10)})
    monkeypatch.setenv(VARIABLE, str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    text = told(tmp_path)
    assert "from files merged, up to 30 into one, decoding would take" in text
    assert "compression" in text
    assert list((tmp_path / "scratch").iterdir()) == []
    monkeypatch.setattr(doctor, "what_ifs", lambda *_: (_merged(50.0), {}))
    assert "write one file per month instead of per day" in told(tmp_path)
    monkeypatch.setattr(doctor, "what_ifs", lambda *_: (_merged(-3.0), {}))
    text = told(tmp_path)
    assert "tried on a sample without a clear saving: merged files (savings above 2%" in text
    assert "write one file per month" not in text


def test_the_command_tells_it_all_and_fails_on_what_is_not_there(write, tmp_path):
    write(0, {"a": [1, 2]})
    runner = CliRunner()
    shown = runner.invoke(app, ["doctor", str(tmp_path)])
    assert shown.exit_code == 0
    assert "logs: 1 file," in shown.stdout
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
    assert shown.exit_code == 1, shown.output
    findings = json.loads(shown.stdout)["findings"]
    (found,) = [one for one in findings if str(broken) in one["text"]]
    assert (found["level"], "write it again" in found["remedy"]) == ("error", True)
    assert "CPUs" in {one["topic"] for one in findings}


def findings_of(folder):
    shown = CliRunner().invoke(app, ["doctor", str(folder), "--json"])
    return json.loads(shown.stdout)["findings"]


@pytest.mark.parametrize("bad", [(0, 3, 5), (1, 3, 5), (0, 3, 6)], ids=str)
def test_all_damaged_files_are_listed_and_the_good_ones_are_examined(
    write, tmp_path, bad, monkeypatch
):
    monkeypatch.setattr(doctor, "MOST_FOOTERS", 2)
    paths = [write(number, {"a": [1, 2], "b": [3, 4]}) for number in range(7)]
    for number in bad[:2]:
        Path(paths[number]).write_bytes(Path(paths[number]).read_bytes()[:200])
    Path(paths[bad[2]]).write_bytes(b"")
    found = findings_of(tmp_path)
    listed = [one["text"].split(": ")[0] for one in found if one["level"] == "error"]
    assert listed == [paths[number] for number in bad]
    texts = [one["text"] for one in found]
    assert any(text.startswith("logs: 4 files, ") for text in texts)
    assert any(text.startswith("decode, 1 thread ") for text in texts)


def test_where_very_many_files_are_damaged_the_first_are_listed_and_the_others_counted(
    write, tmp_path
):
    paths = [write(number, {"a": [1]}) for number in range(28)]
    for path in paths[:-1]:
        Path(path).write_bytes(b"")
    errors = [one["text"] for one in findings_of(tmp_path) if one["level"] == "error"]
    assert len(errors) == 21
    assert errors[-1].startswith(f"7 other files cannot be read: {paths[20]}, ")
    assert errors[-1].endswith(f"{paths[24]} and 2 more")


def test_where_only_some_files_were_opened_a_note_says_which(write, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "MOST_OPENED", 2)
    for number in range(6):
        write(number, {"a": [1]})
    text = told(tmp_path)
    assert "note: only every 3rd file was opened to find damaged ones" in text


def test_where_no_file_can_be_opened_each_is_listed_and_nothing_else_fails(write, tmp_path):
    path = write(0, {"a": [1]})
    Path(path).write_bytes(b"")
    texts = [one["text"] for one in findings_of(tmp_path)]
    assert [text for text in texts if path in text] == [f"{path}: it is empty (0 bytes)"]
    assert not [text for text in texts if "decode" in text]


def test_no_columns_are_advised_where_there_is_one_or_where_there_are_no_rows(write, tmp_path):
    write(0, {"a": list(range(100))})
    assert "take most bytes" not in told(tmp_path)
    write(0, {"a": pa.array([], pa.int64()), "b": pa.array([], pa.int64())})
    assert "take most bytes" not in told(tmp_path)


def test_what_polars_advises_its_own_callers_is_not_passed_on(write, tmp_path):
    write(0, {"a": [1]})
    write(1, {"a": ["x"]})
    (text,) = [one["text"] for one in findings_of(tmp_path) if "polars cannot" in one["text"]]
    assert "type" in text
    assert "hint" not in text


def test_paths_are_shown_without_dots(write, tmp_path):
    path = write(0, {"a": [1]})
    Path(path).write_bytes(b"")
    texts = [one["text"] for one in findings_of(tmp_path / "logs" / "..")]
    assert f"{path}: it is empty (0 bytes)" in texts


DAY, NOON = dt.date(2025, 1, 1), dt.datetime(2025, 1, 1, 12)  # noqa: DTZ001 - as files have it


def ends_with(tmp_path):
    """The command's exit status, and the last line that it prints."""
    shown = CliRunner().invoke(app, ["doctor", str(tmp_path)])
    return shown.exit_code, shown.stdout.strip().splitlines()[-1]


def test_a_file_with_damaged_notes_of_pandas_is_an_error(write, tmp_path):
    write(0, {"a": [1]})
    table = pa.table({"a": [1]}).replace_schema_metadata({"pandas": '{"index_columns": 3}'})
    path = write(1, {"a": [1]})
    pq.write_table(table, path)
    with pytest.raises(ParquetFileError) as loading:
        read_frame([path])
    assert f"error: {path}: {loading.value.reason}" in told(tmp_path)
    assert ends_with(tmp_path)[0] == 1


@pytest.mark.parametrize("others", [0, 1, 2])
def test_a_name_that_several_columns_have_is_an_error_and_no_speed_is_advised(
    write, tmp_path, others
):
    for number in range(1 + others):
        path = write(number, {"a": [1]})
        pq.write_table(pa.table([[1], [2], [3]], names=["a", "a", "b"]), path)
    write(3, {"a": [1], "b": [2]})
    text = told(tmp_path)
    first = tmp_path / "logs" / "logs_20250101.parquet"
    more = ["", " and 1 other file", " and 2 other files"][others]
    assert f"error: {first}{more}: there are several columns 'a'; loading them is an error" in text
    assert "decoding would take" not in text
    assert "types" not in text
    assert ends_with(tmp_path) == (1, "1 loading error (x)")


UNLIKE = {
    "a date and a timestamp": ([DAY], [NOON]),
    "a number and a time": ([1], [NOON.time()]),
    "a number and text": ([1.5], ["text"]),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_a_column_that_cannot_be_trained_on_is_an_error_that_names_two_files(write, tmp_path, name):
    paths = [write(number, {"a": values}) for number, values in enumerate(UNLIKE[name])]
    with pytest.raises(ColumnError):
        find_spans(paths, Columns.of(["a"], None), 100)
    (line,) = [line for line in told(tmp_path).splitlines() if "types" in line]
    assert line.startswith("error: column 'a' has 2 types: ")
    assert "training on it is an error" in line
    assert all(path in line for path in paths)
    assert ends_with(tmp_path)[0] == 1


ALIKE = {
    "integers of two sizes": (pa.array([1], pa.int32()), pa.array([1], pa.int64())),
    "nulls and text": (pa.nulls(1), pa.array(["x"])),
    "a number and a decimal": (pa.array([1.0]), pa.array([1]).cast(pa.decimal128(30, 2))),
}


@pytest.mark.parametrize("name", ALIKE)
def test_types_that_load_together_are_no_error(write, tmp_path, name):
    for number, values in enumerate(ALIKE[name]):
        write(number, {"a": values})
    assert "warning: column 'a' has 2 types" in told(tmp_path)
    code, last = ends_with(tmp_path)
    assert code == 0
    assert re.fullmatch(r"(1 problem|[2-9] problems) to fix \(!\)", last)


def test_three_types_name_two_that_do_not_go_together(write, tmp_path):
    for number, values in enumerate((pa.array([1], pa.int32()), pa.array([1], pa.int64()), ["x"])):
        write(number, {"a": values})
    assert "column 'a' has 3 types: int" in (text := told(tmp_path))
    assert "string in" in text


def test_a_column_that_only_pandas_reads_is_named(write, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "_savings", lambda _: ())
    write(0, {"a": [1], "deep": [[[1]]]})
    text = told(tmp_path)
    assert "note: pandas reads 1 of 1 file one by one" in text
    assert "column 'deep' holds lists of lists of numbers" in text
    assert "(list<element: list<element: int64>>)" in text
    assert "-> leave it out with columns=[…], or store it as plain columns" in text


def test_the_columns_that_cost_most_are_named_with_what_leaving_them_out_saves(
    write, tmp_path, monkeypatch
):
    write(0, {"a": [1], "text": ["x"]})
    found = {"fewer_columns_pct": 50.0, "fewer_columns_low_pct": 45, "fewer_columns_high_pct": 55}
    why = {"fewer_columns_pct": "the column of text ('text')"}
    monkeypatch.setattr(doctor, "what_ifs", lambda *_: (found, why))
    text = told(tmp_path)
    assert "note: without the column of text ('text'), decoding would take 50% less" in text
    assert "-> name the needed columns, so that others are not decoded" in text
