"""Stages are noted when somebody listens, by thread, and cost nothing to speak of otherwise."""

import threading

import pandas as pd
import pytest
from feedrate.loaders.base.settings import LoaderSettings
from feedrate.loaders.base.stages import Recorder, stage
from feedrate.loaders.choosing.registry import get_backend
from feedrate.loaders.training.matrix import Columns


def names(recorder):
    return [mark.stage for mark in recorder.marks]


@pytest.fixture
def paths(tmp_path):
    made = []
    for number in range(4):
        path = str(tmp_path / f"{number}.parquet")
        pd.DataFrame({"a": range(100), "b": [str(row) for row in range(100)]}).to_parquet(path)
        made.append(path)
    return made


def test_stages_within_stages_are_noted_in_order():
    with Recorder() as recorder:
        with stage("part"), stage("decode"):
            pass
        with stage("convert"):
            pass
    assert names(recorder) == ["part", "decode", None, None, "convert", None]
    times = [mark.at for mark in recorder.marks]
    assert times == sorted(times)
    assert {mark.thread for mark in recorder.marks} == {threading.get_ident()}


def test_a_stage_that_ends_by_an_error_is_left():
    with Recorder() as recorder, pytest.raises(ValueError, match="x"), stage("read"):
        raise ValueError("x")
    assert names(recorder) == ["read", None]


def test_nothing_is_noted_after_the_recording():
    with Recorder() as recorder:
        pass
    with stage("read"):
        pass
    assert recorder.marks == []


def test_one_recorder_listens_at_a_time():
    with Recorder(), pytest.raises(RuntimeError, match="already"), Recorder():
        pass
    with Recorder() as recorder, stage("plan"):  # the failed one left nothing behind
        pass
    assert names(recorder) == ["plan", None]


@pytest.mark.parametrize(
    ("backend", "workers", "expected"),
    [
        ("pytorch", 0, {"plan", "part", "read", "decode", "convert"}),
        ("pytorch", 2, {"plan", "part", "read", "decode", "convert"}),
        ("tensorflow", 2, {"plan", "part", "read", "decode", "convert"}),
        ("original", 0, {"part", "plan", "pandas", "convert"}),
    ],
)
def test_each_backend_notes_the_stages_of_a_frame(paths, backend, workers, expected):
    module = {"pytorch": "torch", "tensorflow": "tensorflow"}.get(backend)
    if module is not None:
        pytest.importorskip(module)
    settings = LoaderSettings(backend=backend, num_workers=workers, prefetch=0, cache="none")
    loader = get_backend(backend).frame(settings, None, "concat", "raise")
    with Recorder() as recorder:
        loader.load(paths)
    assert set(names(recorder)) - {None} == expected
    assert len(recorder.marks) == 2 * sum(mark.stage is not None for mark in recorder.marks)


def test_many_files_are_read_and_decoded_apart_by_polars(tmp_path):
    paths = []
    for number in range(40):
        paths.append(str(tmp_path / f"{number}.parquet"))
        pd.DataFrame({"a": range(5000), "b": [str(row) for row in range(5000)]}).to_parquet(
            paths[-1]
        )
    settings = LoaderSettings(backend="pytorch", num_workers=2, prefetch=0, cache="none")
    pytest.importorskip("torch")
    loader = get_backend("pytorch").frame(settings, None, "concat", "raise")
    with Recorder() as recorder:
        loader.load(paths)
    assert {"read", "decode"} <= set(names(recorder))
    assert "load" not in names(recorder)


@pytest.mark.parametrize("backend", ["pytorch", "tensorflow"])
def test_a_stream_notes_its_parts(paths, backend):
    pytest.importorskip({"pytorch": "torch"}.get(backend, backend))
    settings = LoaderSettings(backend=backend, num_workers=2, prefetch=1, cache="none")
    stream = get_backend(backend).stream(settings, paths, Columns.of(["a"]))
    with Recorder() as recorder:
        rows = sum(len(batch) for batch in stream)
    assert rows == 400
    assert {"part", "load", "convert", "gather"} <= set(names(recorder))
