"""The examples of docs/cluster.md run, and each worker gets its share of the rows."""

import importlib
import os
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ray = pytest.importorskip("ray")
pytest.importorskip("ray.train.torch")
pytest.importorskip("pytorch_lightning")

PAGE = Path(__file__).parents[3] / "docs" / "cluster.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Ray on this machine, with the examples as modules that its workers can import."""
    folder = tmp_path_factory.mktemp("examples")
    for number, code in enumerate(EXAMPLES):
        (folder / f"cluster_example_{number}.py").write_text(code, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        patch.syspath_prepend(str(folder))
        ray.init(
            address="local", num_cpus=3, include_dashboard=False, log_to_driver=False,
            object_store_memory=100 << 20,
        )  # fmt: skip
        yield
        ray.shutdown()


@pytest.fixture
def storage(tmp_path):
    folder = tmp_path / "storage" / "prices"
    folder.mkdir(parents=True)
    for day in range(4):
        x = np.random.default_rng(day).random((501, 3))
        frame = pd.DataFrame(x, columns=["a", "b", "y"])
        frame.to_parquet(folder / f"2025010{day + 1}.parquet")
    return folder.parent


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("number", range(len(EXAMPLES)), ids=["torch", "lightning"])
def test_an_example_trains_on_two_workers_with_half_of_the_rows_each(number, storage, tmp_path):
    module = importlib.import_module(f"cluster_example_{number}")
    config = {
        "data": str(storage), "data_type": "prices", "features": ["a", "b"], "target": "y",
        "epochs": 1, "results": str(tmp_path / "results"),
    }  # fmt: skip
    result = module.main(config, workers=2)
    assert result.error is None
    assert result.return_value["rows"] == 1002  # of 2,004
    sys.modules.pop(module.__name__)
