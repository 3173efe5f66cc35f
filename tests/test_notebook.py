"""The notebook runs from the first cell to the last, and is kept without what it showed."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from feedrate.loaders.base.machine import is_installed
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "optimized_data_loading_demo.ipynb"
MISSING = [name for name in ("torch", "tensorflow") if not is_installed(name)]
CELL_TIMEOUT_S = 600
# Before the cell that tunes: trials run in the notebook's process, and each once is enough.
QUICK = """
import gc, math
from functools import partial
import tensorflow
import feedrate.harness.run.launches
from feedrate.harness.in_process import in_process
from feedrate.harness.run.costs import Costs
for name in ("MIN_LAUNCHES", "MIN_LAUNCHES_IN_BUDGET", "FEWEST_ROUNDS"):
    setattr(feedrate.harness.run.launches, name, 1)
Costs.explaining = lambda *_: math.inf
tune = partial(tune, make_executor=in_process)
gc.freeze()
"""
SMALLER = (
    ("data", "days=120", "days=20"),
    ("tune", "workers=[0, 1, 2]", "workers=[0]"),
)
LOSS = re.compile(r"epoch \d+: mean squared error ([\d.]+)")


def printed(cell):
    return "".join(out.text for out in cell.outputs if out.output_type == "stream")


@pytest.mark.skipif(bool(MISSING), reason=f"it trains with {' and '.join(MISSING)}, not installed")
@pytest.mark.slow
def test_it_goes_from_data_to_a_model_trained_in_both_frameworks_and_a_report(
    tmp_path, monkeypatch
):
    for name in ("TMPDIR", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}
    for name, usual, small in SMALLER:
        assert usual in cells[name].source
        cells[name].source = cells[name].source.replace(usual, small)
    cells["tune"].source = QUICK + cells["tune"].source
    folder = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=CELL_TIMEOUT_S, resources=folder).execute()

    assert all(cell.execution_count for cell in cells.values())
    kinds = {out.output_type for cell in cells.values() for out in cell.outputs}
    assert "error" not in kinds
    assert "or later: 0\n" in printed(cells["original"])
    *progress, _ = cells["tune"].outputs
    assert any(": up to " in str(out) for out in progress)
    (outcome,) = (out for out in cells["tune"].outputs if out.output_type == "execute_result")
    assert "**batches job: " in outcome.data["text/markdown"]
    assert printed(cells["explain"]).count("from the profile") == 2
    assert "frames equal: " in printed(cells["equal"])
    for framework in ("torch", "keras"):
        losses = [float(loss) for loss in LOSS.findall(printed(cells[framework]))]
        assert len(losses) > 1
        assert losses[-1] < losses[0]
    (page,) = tmp_path.glob("feedrate-*/report.html")
    assert page.as_uri() in printed(cells["report"])


def test_it_is_kept_without_outputs_and_every_cell_compiles():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    nbformat.validate(notebook)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert notebook["metadata"]["language_info"] == {"name": "python"}
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            compile("".join(cell["source"]), cell["id"], "exec")
