"""What the tests share."""

import contextlib
import gc
import importlib.util
import itertools
import multiprocessing
import os
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from feedrate.loaders.base.atomic import locked
from feedrate.loaders.storage import ParquetStorage

from .pace import Pace

# The benchmarks are in no wheel: their package is the checkout's.
if "benchmarks" not in sys.modules:
    _spec = importlib.util.spec_from_file_location(
        "benchmarks", Path(__file__).resolve().parents[1] / "benchmarks" / "__init__.py"
    )
    sys.modules["benchmarks"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["benchmarks"])


# In a new environment each of four processes would compile the same modules at the same time: one
# begins with TensorFlow, one with torch, and each finds what the others have compiled.
FIRST = {"gw0": "tensorflow", "gw1": "torch", "gw2": "scipy.stats"}
if (_first := FIRST.get(os.environ.get("PYTEST_XDIST_WORKER", ""))) is not None:
    with contextlib.suppress(ImportError):
        importlib.import_module(_first)


def pytest_configure(config):
    """Note the pace of tests whose results are written, in the process that writes them."""
    if config.option.xmlpath and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Pace(Path(config.option.xmlpath)))


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collect no garbage while all modules are imported: it took a fifth of that time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_ignore_collect(collection_path, config):
    """Without clusters, do not import Ray, its libraries and Lightning: it takes 7 s."""
    if collection_path.suffix != ".py" or "not cluster" not in config.option.markexpr:
        return None
    text = collection_path.read_text(encoding="utf-8")
    return "\npytestmark = pytest.mark.cluster\n" in text or None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Deal slow tests to all processes, and let each begin with its own.

    pytest-xdist's worksteal gives each process an equal part of the list to begin with.
    """
    slow = [item for item in items if item.get_closest_marker("slow") is not None]
    others = (item for item in items if item.get_closest_marker("slow") is None)
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    left, dealt = len(items), []
    for number in range(processes):
        mine = slow[number::processes]
        size = left // (processes - number)
        dealt += [*mine, *itertools.islice(others, max(0, size - len(mine)))]
        left -= size
    items[:] = [*dealt, *others]


MOST_PROCESSES = 4  # each with both frameworks in memory


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """Two processes more than CPUs: a third of the time that tests of the harness take is waiting.

    On 2 CPUs four used 96% of both over all tests, and three 76%.
    """
    return min(MOST_PROCESSES, (os.cpu_count() or 1) + 2)


# One fork server serves all tests of a process, with what it imports by its start: without torch
# each worker process of later tests imports that for itself, in 3 s in place of 0.1.
if "forkserver" in multiprocessing.get_all_start_methods():
    multiprocessing.set_forkserver_preload(["__main__", "feedrate.loaders.pytorch.fork_server"])


FRAMEWORK = 500  # modules; each of the frameworks has more
_frozen = 0  # modules that were there at the last freeze


def _freeze_modules():
    """Spare collections of garbage from looking through TensorFlow and torch: 0.4 s each time."""
    global _frozen  # noqa: PLW0603 - a fact of the process
    if len(sys.modules) > _frozen + FRAMEWORK:
        _frozen = len(sys.modules)
        gc.freeze()


_homes = itertools.count()
DAYS = ("20250101", "20250102", "20250103")


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory, monkeypatch):
    """No test sees the user's caches and profiles, or leaves any there."""
    home = tmp_path_factory.getbasetemp() / f"home-{next(_homes)}"  # by number, without a scan
    home.mkdir()
    monkeypatch.setenv("FEEDRATE_HOME", str(home))
    monkeypatch.delenv("FEEDRATE_PROFILE", raising=False)


@pytest.fixture(autouse=True)
def _own_modules(tmp_path_factory, monkeypatch):
    """No test finds a module that another one wrote and imported, such as `my_loader`."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    _freeze_modules()
    yield
    written = str(tmp_path_factory.getbasetemp())
    for name in sys.modules.keys() - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(written):
            del sys.modules[name]


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """A function that fills a folder once in a run of pytest, whatever its processes.

    Given a name and what fills the folder, it returns the folder, which nobody may change.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def make(name, fill):
        folder = base / f"once-{name}"
        with locked(base):
            if not (folder / "complete").exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                (folder / "complete").touch()
        return folder

    return make


@pytest.fixture
def storage(tmp_path, _storage):
    """Three days of box scores, a schedule and salaries, as `save` writes them."""
    return ParquetStorage(shutil.copytree(_storage.base_dir, tmp_path / "data"))


@pytest.fixture(scope="session")
def _storage(tmp_path_factory):
    storage = ParquetStorage(tmp_path_factory.mktemp("storage"))
    for number, day in enumerate(DAYS):
        rows = range(number * 4, number * 4 + 4)
        games = [f"game {row // 2}" for row in rows]
        box_scores = pd.DataFrame(
            {
                "gameDate": day,
                "game": games,
                "player": [f"joueur №{row}" for row in rows],
                "points": [row * 3 for row in rows],
                "minutes": [None if row % 3 == 0 else row / 2 for row in rows],
                "starter": [row % 2 == 0 for row in rows],
                "tipoff": pd.Timestamp(day, tz="America/New_York"),
            }
        )
        storage.save(box_scores, "box_scores", day)
        storage.save(pd.DataFrame({"gameDate": day, "game": games}), "schedule", day)
        storage.save(box_scores[["player", "points"]], "dfs_salaries", day)
    return storage


@pytest.fixture(scope="session")
def assert_same():
    """A function that compares two frames without any leniency."""
    return _assert_same


def _assert_same(got, expected):
    pd.testing.assert_frame_equal(
        got,
        expected,
        check_dtype=True,
        check_index_type=True,
        check_column_type=True,
        check_names=True,
        check_exact=True,
        check_categorical=True,
        check_freq=True,
        check_flags=True,
    )
    assert got.attrs == expected.attrs
    for position, dtype in enumerate(expected.dtypes):
        if isinstance(dtype, pd.DatetimeTZDtype):
            assert repr(got.dtypes.iloc[position].tz) == repr(dtype.tz)
        if dtype.kind == "O":  # pandas takes 1, 1.0 and True for the same, and None for NaN
            cells = zip(got.iloc[:, position], expected.iloc[:, position], strict=True)
            for cell, other in cells:
                assert type(cell) is type(other)
                assert getattr(cell, "dtype", None) == getattr(other, "dtype", None)
