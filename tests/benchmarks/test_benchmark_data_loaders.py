"""The script that times `load_historical_player_logs`."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

if importlib.util.find_spec("torch") is None or importlib.util.find_spec("scipy") is None:
    pytest.skip("it compares the pytorch backend, by the harness", allow_module_level=True)

from feedrate.harness.datasets.data import write_box_scores
from feedrate.loaders import ParquetStorage

from benchmarks.benchmark_data_loaders import main, measure
from benchmarks.player_logs import Asked

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "benchmark_data_loaders.py"


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_box_scores(folder, days=12)
    return ParquetStorage(folder)


@pytest.mark.slow
def test_run_as_a_file_it_prints_the_table_and_reads_data_inputs(storage, tmp_path):
    inputs = tmp_path / "data"
    inputs.mkdir()
    (inputs / "inputs").symlink_to(storage.base_dir)
    last = Path(storage.files("box_scores")[-1]).stem[-8:]
    done = subprocess.run(
        [sys.executable, SCRIPT, "--end-date", last, "--runs", "1", "--loaders", "pytorch"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    heading, _, original, ours = done.stdout.splitlines()
    assert heading.split("  ")[0] == "Loader"
    columns = ("First Call", "Speedup 1st", "Avg Time", "Throughput", "Speedup")
    assert [name in heading for name in columns] == [True] * 5
    assert original.startswith("original")
    assert "1.00×" in original  # noqa: RUF001 - as it is written
    assert ours.startswith("pytorch")
    assert "rows/s" in ours


def test_other_rows_are_told_and_fail(storage, capsys, monkeypatch):
    monkeypatch.setattr(
        "benchmarks.player_logs.run_fresh",
        lambda _, options: {
            "seconds": [0.1] * options["calls"], "rows": 3,
            "fingerprint": {"digest": options["loader"], "rows": 3},
        },
    )  # fmt: skip
    arguments = ["--end-date", "20990101", "--storage-dir", str(storage.base_dir)]
    assert main([*arguments, "--loaders", "pytorch"]) == 1
    said = capsys.readouterr()
    assert "wrong-rows" in said.out
    assert "pytorch: wrong-rows" in said.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--storage-dir", "{empty}"], "feedrate data box-scores"),
        (["--loaders", "pandas"], "pandas"),
        (["--start-date", "yesterday"], "yesterday"),
    ],
)
def test_bad_input_is_told_with_exit_2(storage, tmp_path, capsys, arguments, told):
    given = ["--end-date", "20990101", "--runs", "1", "--storage-dir", str(storage.base_dir)]
    assert main([*given, *(one.format(empty=tmp_path) for one in arguments)]) == 2
    assert told in capsys.readouterr().err


def test_dates_choose_the_rows(storage):
    files = storage.files("box_scores")
    days = [Path(path).stem[-8:] for path in files]
    asked = Asked(str(storage.base_dir), days[3], days[6])
    (found,) = measure(asked, ["original"], 1)
    assert found.rows == sum(len(pd.read_parquet(path)) for path in files[3:6])
