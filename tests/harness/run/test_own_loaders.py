"""Custom loaders through the whole harness: the documented example, and what goes wrong."""

import re
from pathlib import Path

import pytest
from feedrate.harness import sweep, tune
from feedrate.harness.in_process import in_process
from feedrate.harness.record.summary import summarise
from feedrate.harness.run.opening import child_processes
from feedrate.loaders import OptimizedHistoricalDataLoader, ParquetStorage
from feedrate.loaders.base.errors import InputError

from ...backends import unregister

PAGE = Path(__file__).parents[3] / "docs" / "own-loaders.md"
QUICK = {"workers": [0], "prefetch": [0], "cache": ["none"], "passes": 2, "repeats": 1}

ODD = """
import time
import pandas as pd

def frame(files, columns):
    return pd.concat([pd.read_parquet(f, columns=columns) for f in files], ignore_index=True)

def raises(settings, files, columns, target, job):
    raise RuntimeError("no network today")

def leaves(settings, files, columns, target, job):
    raise SystemExit("done")

def nothing(settings, files, columns, target, job):
    return None

def other_rows(settings, files, columns, target, job):
    return frame(files, columns).iloc[::-1]

def endless(settings, files, columns, target, job):
    while True:
        yield frame(files[:1], columns).to_numpy("float32", na_value=0)
        time.sleep(0.01)

def dicts(settings, files, columns, target, job):
    return [{"x": frame(files, columns)}]
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder with modules, from which nothing is remembered."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEEDRATE_HOME", str(tmp_path / "home"))
    yield tmp_path
    for name in (
        "my_loader:load",
        *(f"odd_loader:{line}" for line in re.findall(r"def (\w+)", ODD)),
    ):
        unregister(name)


@pytest.mark.slow
def test_the_example_of_the_readme_is_swept_verified_and_obeyed(here, storage, monkeypatch):
    for name in ("MIN_LAUNCHES", "MIN_LAUNCHES_IN_BUDGET", "FEWEST_ROUNDS"):
        monkeypatch.setattr(f"feedrate.harness.run.launches.{name}", 1)  # how sure does not matter
    section = PAGE.read_text()
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    (here / "my_loader.py").write_text(code)
    outcome = tune(
        storage, jobs=["frame", "stream"], target="points", backends=["original"],
        columns=["minutes", "started"], loader="my_loader:load", budget="300s",
        profile=here / "p.json", results=here / "r.jsonl", batch_size=[16],
        make_executor=in_process, **QUICK,
    )  # fmt: skip
    mine = [one for one in summarise(outcome.results.samples) if one.backend == "my_loader:load"]
    assert {one.verdict for one in mine} == {"ok"}
    assert {one.job for one in mine} == {"frame", "stream"}
    loader = OptimizedHistoricalDataLoader(
        ParquetStorage(storage), "my_loader:load", profile=here / "p.json"
    )
    files = ParquetStorage(storage).files("logs")
    expected = OptimizedHistoricalDataLoader(ParquetStorage(storage), "original", profile=None)
    assert loader.load_files(files).equals(expected.load_files(files))


@pytest.mark.parametrize(
    ("function", "job", "verdict", "told"),
    [
        ("raises", "frame", "error", "no network today"),
        ("leaves", "frame", "error", "it called sys.exit('done')"),
        ("nothing", "frame", "error", "returned None for the frame job"),
        ("other_rows", "frame", "wrong-rows", "not the original's: "),
        ("endless", "stream", "hang", "no answer within 3 s"),
        ("dicts", "stream", "unverified", "a batch holds dict"),
    ],
)
@pytest.mark.slow
def test_a_loader_that_misbehaves_is_a_row_with_the_reason(
    here, storage, function, job, verdict, told
):
    (here / "odd_loader.py").write_text(ODD)
    make_executor = child_processes if verdict == "hang" else in_process
    outcome = sweep(
        storage, jobs=[job], columns=["minutes"], backends=["original"], files=[12], timeout=3,
        loader=f"odd_loader:{function}", results=here / "r.jsonl", make_executor=make_executor,
        **QUICK,
    )  # fmt: skip
    by_backend = {one.backend: one for one in summarise(outcome.results.samples)}
    mine = by_backend[f"odd_loader:{function}"]
    assert mine.verdict == verdict
    assert told in mine.message
    assert by_backend["original"].verdict == "ok"
    if verdict == "unverified":  # its figures are kept, and shown
        assert mine.totals
        assert "dicts?" in str(outcome).replace("\n", "")


def test_a_script_that_ends_when_it_is_imported_is_told(here, storage):
    (here / "my_script.py").write_text("import sys\nsys.exit()\n")
    with pytest.raises(InputError, match="under if __name__"):
        sweep(storage, loader="my_script:load", results=here / "r.jsonl")


def test_a_loader_that_is_not_there_is_told_before_anything_is_measured(here, storage):
    with pytest.raises(InputError, match="cannot import 'nowhere'"):
        sweep(storage, loader="nowhere:load", results=here / "r.jsonl")
    assert not (here / "r.jsonl").exists()


@pytest.mark.slow
def test_modules_of_the_current_folder_never_stand_in_for_others(here, storage):
    for name in ("msgspec", "pandas", "json"):
        (here / f"{name}.py").write_text(f"raise SystemExit('{name} of the current folder')")
    (here / "odd_loader.py").write_text(
        "from mine import read\n\ndef load(settings, files, columns, target, job):\n"
        "    return read(files, columns)\n"
    )
    (here / "mine.py").write_text(
        "import pandas as pd\n\ndef read(files, columns):\n"
        "    return pd.concat([pd.read_parquet(f, columns=columns) for f in files],"
        " ignore_index=True)\n"
    )
    outcome = sweep(
        storage, jobs=["frame"], backends=["original"], files=[3], loader="odd_loader:load",
        results=here / "r.jsonl", **QUICK,
    )  # fmt: skip
    unregister("odd_loader:load")
    assert {one.verdict for one in outcome.results.samples} == {"ok"}
    assert len({one.backend for one in outcome.results.samples}) == 2
