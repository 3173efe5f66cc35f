"""A custom loader as a backend: found by its name, called as is written down, checked."""

import pickle
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
from feedrate.loaders import LoaderSettings, OptimizedHistoricalDataLoader, ParquetStorage
from feedrate.loaders.base.errors import InputError
from feedrate.loaders.choosing.custom import custom_backend, discover, entry_point_names
from feedrate.loaders.choosing.registry import backend_names, find_backend
from feedrate.loaders.training.matrix import Columns

from ...backends import unregister

MODULE = """
import pandas as pd
seen = []

def load(settings, files, columns, target, job):
    seen.append((settings.num_workers, len(files), columns, target, job))
    wanted = None if job == "frame" else [*columns, *([target] if target else [])]
    read = columns if job == "frame" else wanted
    frame = pd.concat([pd.read_parquet(f, columns=read) for f in files], ignore_index=True)
    if job == "frame":
        return frame
    def epoch():
        for start in range(0, len(frame), settings.batch_size):
            part = frame.iloc[start : start + settings.batch_size]
            yield part[columns].to_numpy("float32"), part[target].to_numpy("float32")
    return epoch()

class Holder:
    inner = staticmethod(load)

sized = 3
broken_uses = lambda *a: None
broken_uses.uses = {"frame": {"wrokers"}}
frame_only = lambda *a: None
frame_only.uses = {"num_workers"}
"""
COLUMNS = Columns.of(["a", "b"], "y", 0.0)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module that lies in the current folder and nowhere else."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry])
    yield name
    for attribute in ("load", "Holder.inner", "frame_only"):
        unregister(f"{name}:{attribute}")


@pytest.fixture
def storage(tmp_path):
    made = ParquetStorage(tmp_path / "data")
    for day in range(1, 5):
        frame = pd.DataFrame({"a": np.arange(10) + day, "b": 1.0, "y": np.arange(10) % 2})
        made.save(frame, "logs", f"2025010{day}")
    return made


def test_a_function_is_found_in_the_current_folder_and_called_with_everything(module, storage):
    loader = OptimizedHistoricalDataLoader(storage, f"{module}:load", num_workers=3, profile=None)
    files = storage.files("logs")
    frame = loader.load_files(files, ["b", "a"])
    expected = OptimizedHistoricalDataLoader(storage, "original", profile=None)
    pd.testing.assert_frame_equal(frame, expected.load_files(files, ["b", "a"]))
    assert loader.active_backend == f"{module}:load"
    seen = __import__(module).seen
    assert seen == [(3, 4, ["b", "a"], None, "frame")]


def test_batches_come_of_files_and_a_generator_is_made_anew_for_each_epoch(module, storage):
    loader = OptimizedHistoricalDataLoader(storage, f"{module}:load", profile=None)
    batches = loader.batches(storage.files("logs"), ["a", "b"], "y", batch_size=16)
    for _ in range(2):
        shapes = [(x.shape, y.shape) for x, y in batches]
        assert shapes == [((16, 2), (16,)), ((16, 2), (16,)), ((8, 2), (8,))]
    with pytest.raises(InputError, match="of files, not of a frame"):
        loader.batches(pd.DataFrame({"a": [1.0]}), ["a"])


def test_what_can_be_iterated_again_is_made_once():
    calls = []

    def factory(*arguments):
        calls.append(arguments[-1])
        return [(np.zeros((2, 1)), np.zeros(2))]

    stream = custom_backend("mine", factory).stream(LoaderSettings(), ["f"], COLUMNS)
    assert len(list(stream)) == len(list(stream)) == 1
    assert calls == ["stream"]


def test_a_dotted_name_reaches_into_a_class(module):
    assert find_backend(f"{module}:Holder.inner", named_by_caller=True).is_custom


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("no_such_module_at_all:load", "cannot import 'no_such_module_at_all'.*ModuleNotFound"),
        ("{module}:laod", "unknown name 'laod'; did you mean 'load'"),
        ("{module}:sized", "is int 3; it must be a function"),
        ("{module}:broken_uses", "unknown setting 'wrokers'"),
        (":load", "no module is named"),
        ("nothing", "unknown backend 'nothing'"),
    ],
)
def test_a_name_that_leads_nowhere_says_why(module, name, told):
    with pytest.raises(InputError, match=told):
        find_backend(name.format(module=module), named_by_caller=True)


@pytest.mark.parametrize(
    ("job", "found", "told"),
    [
        ("frame", None, "returned None for the frame job; it must return a pandas DataFrame"),
        ("frame", [1], "returned a list for the frame job"),
        ("stream", None, "returned None for the stream job; it must return an iterable"),
        ("stream", pd.DataFrame(), "returned a DataFrame for the stream job"),
        ("stream", 3, "returned a int"),
    ],
)
def test_what_a_function_must_not_return_is_told(job, found, told):
    backend = custom_backend("mine", lambda *_: found)
    frames = backend.frame(LoaderSettings(), None, "concat", "raise")
    stream = backend.stream(LoaderSettings(), ["f"], COLUMNS)
    with pytest.raises(InputError, match=told):
        frames.load(["f"]) if job == "frame" else iter(stream)


def test_only_what_a_function_says_it_uses_is_handed_on(module):
    backend = find_backend(f"{module}:frame_only", named_by_caller=True)
    normalized_for = backend.normalized_for(
        "frame", LoaderSettings(num_workers=5, prefetch=3, cache="disk")
    )
    assert (normalized_for.num_workers, normalized_for.prefetch, normalized_for.cache) == (
        5,
        0,
        "none",
    )


def test_an_installed_package_brings_a_backend(tmp_path, monkeypatch):
    (tmp_path / "brought.py").write_text("def load(*_): return None\n")
    about = tmp_path / "brought-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: brought\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        textwrap.dedent("""\
            [feedrate.backends]
            brought-loader = brought:load
            broken-loader = brought:absent
        """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert entry_point_names() == ["broken-loader", "brought-loader"]
    assert find_backend("brought-loader").is_custom
    unregister("brought-loader")
    with pytest.raises(InputError, match="cannot load backend 'broken-loader' from brought:absent"):
        find_backend("broken-loader")
    assert discover("neither", named_by_caller=True) is None


def test_a_document_imports_nothing(module):
    with pytest.raises(InputError, match="imported only if code or --loader names it"):
        find_backend(f"{module}:load")
    assert module not in sys.modules


def test_what_an_own_loader_cannot_honour_is_refused(module, storage):
    name = f"{module}:load"
    loader = OptimizedHistoricalDataLoader(storage, name, profile=None, on_error="skip")
    with pytest.raises(InputError, match="neither schema='concat' nor on_error='skip'"):
        loader.load_files(storage.files("logs"))
    loader = OptimizedHistoricalDataLoader(storage, name, profile=None)
    with pytest.raises(InputError, match="null_value must be 0; it is -1"):
        loader.batches(storage.files("logs"), ["a"], "y", null_value=-1.0)
    files, filters = storage.files("logs"), [("a", ">", 1)]
    for load in (
        lambda: loader.load_files(files, filters=filters),
        lambda: loader.batches(files, ["a"], filters=filters),
        lambda: loader.stream(files, ["a"], filters=filters),
    ):
        with pytest.raises(InputError, match="reads files its own way and takes no filters"):
            load()


def test_a_loader_with_a_function_pickles(module, storage):
    loader = OptimizedHistoricalDataLoader(storage, f"{module}:load", profile=None)
    again = pickle.loads(pickle.dumps(loader))  # noqa: S301 - made in this line
    assert again.load_files(storage.files("logs")).equals(loader.load_files(storage.files("logs")))


def test_an_epoch_is_begun_once():
    begun = []

    class Batches:
        def __iter__(self):
            begun.append(1)
            return iter([(np.zeros((2, 1)), np.zeros(2))])

    stream = custom_backend("mine", lambda *_: Batches()).stream(LoaderSettings(), ["f"], COLUMNS)
    assert [len(list(stream)) for _ in range(3)] == [1, 1, 1]
    assert len(begun) == 3


def test_what_was_looked_up_is_not_swept_by_everybody(module):
    find_backend(f"{module}:load", named_by_caller=True)
    assert f"{module}:load" not in backend_names()
