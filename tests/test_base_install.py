"""What holds without torch, TensorFlow and the harness's packages; run by `tox -e base`."""

import os
import subprocess
import sys

import pandas as pd
import pytest
from feedrate.loaders import OptimizedHistoricalDataLoader, ParquetStorage
from feedrate.loaders.base.machine import is_installed

base = pytest.mark.skipif(
    any(map(is_installed, ("torch", "tensorflow", "typer"))), reason="this is no base install"
)


@pytest.fixture
def storage(tmp_path):
    storage = ParquetStorage(tmp_path)
    storage.save(pd.DataFrame({"x": [1, 2]}), "box_scores", "20250101")
    return storage


@base
def test_auto_falls_back_to_the_original(storage):
    loader = OptimizedHistoricalDataLoader(storage)
    assert loader.active_backend == "original"
    assert "Not used by original" in loader.explain()
    assert len(loader.load_historical_data("20250101", "20250101")["box_scores"]) == 2


@base
@pytest.mark.parametrize(("backend", "extra"), [("pytorch", "torch"), ("tensorflow",) * 2])
def test_a_backend_asked_for_by_name_names_the_extra(storage, backend, extra):
    with pytest.raises(ImportError, match=rf"feedrate\[{extra}\]"):
        OptimizedHistoricalDataLoader(storage, backend)


@base
@pytest.mark.parametrize("name", ["PyTorchDataLoader", "TensorFlowDataLoader", "ParquetDataset"])
def test_the_loaders_and_datasets_name_the_extra_too(name):
    import feedrate.loaders

    with pytest.raises(ImportError, match=r'pip install "feedrate\['):
        getattr(feedrate.loaders, name)()


def test_the_command_names_the_extra(tmp_path):
    """Where the harness's packages are there, they are hidden."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nfor name in ('typer', 'rich', 'psutil'):\n    sys.modules[name] = None\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "feedrate.harness", "tune", "x"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert 'pip install "feedrate[harness]"' in done.stderr


@base
def test_training_batches_come_without_any_framework(storage):
    loader = OptimizedHistoricalDataLoader(storage)
    frame = storage.load("box_scores")
    batches = list(loader.batches(frame, ["x"], batch_size=1, shuffle=False))
    assert [batch.tolist() for batch in batches] == [[[1.0]], [[2.0]]]
