"""The factories of docs/verify.md find what the page says."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from feedrate.harness import verify_loader
from feedrate.loaders.base.machine import is_installed

from ...backends import unregister

PAGE = Path(__file__).parents[3] / "docs" / "verify.md"
NEEDS = {
    "plain_torch": "torch",
    "hugging_face": "datasets",
    "ray_data": "ray",
    "lit_data": "litdata",
}


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "prices"
    folder.mkdir()
    for day in range(4):
        x = np.random.default_rng(day).random((75, 3))
        frame = pd.DataFrame(x, columns=["a", "b", "y"])
        frame.to_parquet(folder / f"2025010{day + 1}.parquet")
    return folder


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.cluster if name == "ray_data" else ()) for name in NEEDS],
)
@pytest.mark.slow
def test_a_factory_of_the_page_runs(data, name, tmp_path, monkeypatch):
    if not is_installed(NEEDS[name]):
        pytest.skip(f"{NEEDS[name]} is not installed")
    (tmp_path / "others.py").write_text(
        re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    loader = f"others:{name}"
    ranks = [1] if name == "ray_data" else [1, 2]
    found = verify_loader(data, loader=loader, target="y", ranks=ranks, epochs=1, batch_size=32)
    unregister(loader)
    known = {"other-order", "unequal-steps", *(["lost"] if name == "lit_data" else [])}
    assert not {one.kind for one in found.faults} - known
    if name == "plain_torch":
        assert found.passed, found.faults
