"""The walk-forward example: the same predictions whoever loads, and nothing from the future."""

import importlib.util
from pathlib import Path

import pandas as pd
import pytest

if importlib.util.find_spec("torch") is None or importlib.util.find_spec("scipy") is None:
    pytest.skip("it compares the pytorch backend, by the harness", allow_module_level=True)

from feedrate.harness.datasets.data import write_box_scores
from feedrate.harness.gate.spec import cells_of, load_gate_spec
from feedrate.harness.in_process import InProcessExecutor
from feedrate.harness.trial.work import Data
from feedrate.loaders import HistoricalDataLoader, OptimizedHistoricalDataLoader, ParquetStorage
from msgspec import structs

from benchmarks import walk_forward
from benchmarks.walk_forward import TARGET, backtest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("walk")
    write_box_scores(folder, days=25)
    return ParquetStorage(folder)


@pytest.fixture(scope="module")
def days(storage):
    return walk_forward._last_days(storage, 4)


def test_predictions_are_identical_whoever_loads(storage, days):
    plain = backtest(HistoricalDataLoader(storage), days)
    ours = backtest(OptimizedHistoricalDataLoader(storage, "pytorch"), days)
    pd.testing.assert_frame_equal(plain.predictions, ours.predictions, check_exact=True)
    assert set(plain.predictions["gameDate"]) == set(days)
    assert plain.load_s > 0
    assert plain.model_s > 0


def test_the_model_knows_more_than_the_mean(storage, days):
    found = backtest(HistoricalDataLoader(storage), days)
    played = found.predictions.dropna()
    naive = (played["actual"] - played["actual"].mean()).abs().mean()
    assert found.error < 0.9 * naive


def test_nothing_of_the_test_day_or_later_reaches_a_prediction(storage, days, tmp_path):
    optimized = OptimizedHistoricalDataLoader(storage, "pytorch")  # whose cache knows later days
    before = backtest(optimized, days).predictions["predicted"]
    backtest(optimized, days)
    again = backtest(optimized, days[:1]).predictions["predicted"]
    assert before[: len(again)].equals(again)
    changed = ParquetStorage(tmp_path)
    for kind in ("box_scores", "dfs_salaries"):
        for path in map(Path, storage.files(kind)):
            frame = pd.read_parquet(path)
            if kind == "box_scores" and path.stem[-8:] >= days[0]:
                frame[TARGET] = 1000.0
                frame["minutes"] = 0.0
            changed.save(frame, kind, path.stem.removeprefix(f"{kind}_"))
    after = backtest(HistoricalDataLoader(changed), days[:1]).predictions["predicted"]
    assert again.equals(after)


def test_the_command_shows_the_time_saved_and_that_nothing_differs(storage, capsys):
    arguments = ["--storage-dir", str(storage.base_dir), "--days", "2", "--rounds", "1"]
    assert walk_forward.main(arguments) == 0
    out = capsys.readouterr().out
    assert "identical: yes" in out
    assert out.splitlines()[1].startswith("original")
    assert walk_forward.main([*arguments[:3], "99"]) == 2
    assert "has 25 days of dfs_salaries" in capsys.readouterr().err


def test_it_is_a_cell_of_the_gate(storage, monkeypatch):
    monkeypatch.chdir(ROOT)
    spec = load_gate_spec(ROOT / "benchmarks" / "gate_walk_forward.toml", {})
    files = [str(path) for path in storage.files("box_scores")]
    executor = InProcessExecutor(Data.of(files, None, [], None))
    mine = [cell for cell in spec.cells if not cell.control]
    (cell,) = cells_of(structs.replace(spec, cells=mine), len(files))
    run = executor.run(cell.trial, "confirming", passes=1, verify=True)
    assert run.verdict is None, run.message
    assert (
        run.fingerprint == executor.reference("frame", cell.trial.files, ordered=True).fingerprint
    )
