"""Warnings point at the line of the user's program."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from feedrate import loaders
from feedrate.loaders import (
    HistoricalDataLoader,
    LoaderSettings,
    OptimizedHistoricalDataLoader,
    ParquetStorage,
    PyTorchDataLoader,
    StreamingParquetDataset,
    TensorFlowDataLoader,
)
from feedrate.loaders.base.machine import is_installed

NULLS = pd.DataFrame({"x": [1.0, 2.0, 3.0], "y": [1.0, None, 3.0]})

needs_torch = pytest.mark.skipif(not is_installed("torch"), reason="torch is not installed")
needs_tensorflow = pytest.mark.skipif(
    not is_installed("tensorflow"), reason="TensorFlow is not installed"
)


@pytest.fixture
def storage(tmp_path):
    kept = ParquetStorage(tmp_path / "data")
    kept.save(NULLS, "prices", "20250101")
    kept.save(NULLS.astype({"x": str}), "prices", "20250102")
    kept.save(NULLS, "prices", "undated")
    return kept


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{number}.parquet" for number in range(3)]
    for path in paths:
        NULLS.to_parquet(path)
    return paths


def points_here(call, *args, **kwargs):
    """Whether the call gives warnings, all of which point at it."""
    with pytest.warns(loaders.FeedrateWarning) as told:
        call(*args, **kwargs)
    return {warning.filename for warning in told} == {__file__}


def each(iterable):
    for _ in iterable:
        pass


def test_files_without_a_date(storage):
    assert points_here(storage.files, "prices", "20250101", "20250103")
    again = ParquetStorage(storage.base_dir)
    assert points_here(again.load, "prices", {"start_date": "20250101"})
    loader = HistoricalDataLoader(ParquetStorage(storage.base_dir))
    assert points_here(loader.load_historical_data, "20250101", "20250103", ["prices"])


@pytest.mark.parametrize("workers", [0, 3])
def test_columns_that_differ(storage, workers):
    loader = OptimizedHistoricalDataLoader(storage, "original", num_workers=workers, profile=None)
    assert points_here(loader.load_files, storage.files("prices"))


def test_no_box_scores(storage):
    loader = OptimizedHistoricalDataLoader(storage, "original", profile=None)
    assert points_here(loader.load_historical_player_logs, end_date="20250201")


def test_a_profile_that_is_no_profile(storage):
    (storage.base_dir / "feedrate.profile.json").write_text("{}")
    assert points_here(OptimizedHistoricalDataLoader, storage)


@needs_torch
def test_a_profile_that_is_not_looked_for():
    assert points_here(PyTorchDataLoader.from_profile)


@pytest.mark.parametrize("above", ["", "deeper"])
def test_a_cache_that_cannot_be_written(storage, tmp_path, monkeypatch, above):
    (tmp_path / "home").write_text("in the way")
    monkeypatch.setenv("FEEDRATE_HOME", str(tmp_path / "home" / above))
    files = storage.files("prices")[:1]
    settings = LoaderSettings(backend="pytorch", cache="disk")
    loader = OptimizedHistoricalDataLoader(storage, "auto", settings=settings, profile=None)
    assert points_here(loader.load_files, files)


def test_nulls_in_the_target_of_the_plain_batches(storage):
    loader = OptimizedHistoricalDataLoader(storage, "original", profile=None)
    assert points_here(lambda: each(loader.batches(NULLS, ["x"], "y")))


@needs_torch
@pytest.mark.parametrize("num_workers", [0, 3])
def test_nulls_in_the_target_of_a_stream_in_worker_threads(files, num_workers):
    loader = PyTorchDataLoader(num_workers=num_workers, pin_memory=False)
    stream = StreamingParquetDataset(files, ["x"], "y")
    assert points_here(lambda: each(loader.create_dataloader(stream)))


@needs_tensorflow
def test_nulls_in_the_target_of_a_stream_in_tensorflow_s_threads(files):
    loader = TensorFlowDataLoader(num_parallel_reads=2)
    assert points_here(lambda: each(loader.create_streaming_dataset(files, ["x"], "y")))
    assert points_here(loader.create_cached_dataset, NULLS, ["x"], "y")


def test_numbers_that_are_rounded():
    big = pd.DataFrame({"x": np.array([2**30 + 1], dtype=np.int64)})
    loader = OptimizedHistoricalDataLoader(ParquetStorage("."), "original", profile=None)
    assert points_here(lambda: each(loader.batches(big, ["x"])))


def test_no_module_gives_a_warning_in_another_way():
    top = Path(loaders.__file__).parents[1]
    for path in [*top.glob("loaders/**/*.py"), *top.glob("harness/**/*.py")]:
        if path.name != "warn.py":
            assert not re.search(r"\bwarnings\.warn\(|stacklevel", path.read_text()), path
