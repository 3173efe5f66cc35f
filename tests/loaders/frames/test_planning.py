"""Parts are begun while footers are read, and every file is in one of them, once."""

import os
import threading
from concurrent.futures import CancelledError

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feedrate.loaders.base.errors import FeedrateWarning, ParquetFileError
from feedrate.loaders.base.schedule import ThreadScheduler
from feedrate.loaders.frames import engine, parts, pieces, planning
from feedrate.loaders.frames.parts import PandasPart, SegmentPart, part_count
from feedrate.loaders.frames.planning import Plan
from feedrate.loaders.frames.reader import FrameReader
from feedrate.loaders.parquet.footers import FileSchema, Footers
from feedrate.loaders.parquet.layout import Layouts
from feedrate.loaders.parquet.original import read_frame

FILES = 60


@pytest.fixture
def paths(tmp_path):
    made = [str(tmp_path / f"{number:02}.parquet") for number in range(FILES)]
    for number, path in enumerate(made):
        rows = number % 7 + 1
        pd.DataFrame({"n": np.arange(rows) + number, "s": [f"text {number}"] * rows}).to_parquet(
            path
        )
    return made


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(parts, "POLARS_PART_S", 1e-9)
    monkeypatch.setattr(parts, "POLARS_PART_ROWS_BYTES", 1)
    monkeypatch.setattr(engine, "POLARS_FROM_BYTES", 0)
    monkeypatch.setattr(engine, "IMPORT_S", 0)
    monkeypatch.setattr(planning, "WAITS_S", 60)  # files are at hand, however busy the host is


def plan_of(**changes):
    settings = {
        "layouts": Layouts("numpy"), "columns": None, "dtype_backend": "numpy", "decoder": "auto",
        "workers": 2, "ahead": 3, "may_share": lambda _: False,
    }  # fmt: skip
    return Plan(**settings | changes)


def read_all(paths):
    reader = Footers()
    return [reader.read(path) for path in paths]


def names(found):
    return [file.path for part in found for file in part.files]


@pytest.mark.parametrize("ahead", [0, 1, 3, 100])
def test_every_file_is_in_one_part_and_rows_follow_each_other(paths, ahead):
    plan = plan_of(ahead=ahead)
    early, late = [], []
    for part in plan.parts(iter(read_all(paths)), len(paths)):
        (late if plan.complete else early).append(part)
    assert names(early + late) == paths
    assert len(early) <= ahead
    assert bool(early) == bool(ahead)
    starts = np.cumsum([0, *(sum(file.rows for file in part.files) for part in early + late)])
    assert [part.start for part in early + late] == list(starts[:-1])
    assert {part.room.result().rows for part in early + late} == {starts[-1]}
    assert len(early + late) <= 2 * parts.PARTS_PER_WORKER


def test_a_part_is_begun_before_the_last_footer_is_read(paths):
    read = []

    def footers():
        for footer in read_all(paths):
            read.append(footer.path)
            yield footer

    found = plan_of().parts(footers(), len(paths))
    first = next(found)
    assert isinstance(first, SegmentPart)
    assert names([first]) == read
    assert len(read) < len(paths) / 2
    assert not first.room.done()
    list(found)
    assert first.room.done()


def test_a_worker_waits_for_its_place_with_the_rows_at_hand(paths, monkeypatch):
    decoded, all_planned = threading.Event(), threading.Event()
    decode = parts.decode_with_arrow

    def noted(files, layout):
        found = decode(files, layout)
        assert not all_planned.is_set()
        decoded.set()
        return found

    monkeypatch.setattr(parts, "decode_with_arrow", noted)
    plan = plan_of(decoder="arrow", may_share=lambda _: all_planned.set())
    found = plan.parts(iter(read_all(paths)), len(paths))
    first, outcomes = next(found), {}
    worker = threading.Thread(target=lambda: outcomes.update(first.read(None)))
    worker.start()
    assert decoded.wait(30)
    worker.join(0.2)
    assert worker.is_alive()
    list(found)
    worker.join(30)
    assert list(outcomes) == names([first])


@pytest.mark.parametrize("how", ["an error", "nobody asks for more"])
def test_no_worker_waits_for_a_plan_that_ends_early(paths, how):
    def footers():
        yield from read_all(paths)[:30]
        raise ParquetFileError(paths[30], "it is damaged")

    found = plan_of().parts(footers(), len(paths))
    first = next(found)
    if how == "an error":
        with pytest.raises(ParquetFileError):
            list(found)
    else:
        found.close()
    with pytest.raises(CancelledError):
        first.read(None)


def test_a_damaged_file_among_many_is_the_error_and_leaves_no_thread(paths):
    os.truncate(paths[40], 30)
    reader = FrameReader(ThreadScheduler(2, 2))
    before = threading.active_count()
    for _ in range(3):
        with pytest.raises(ParquetFileError, match=r"40\.parquet"):
            reader.load(paths)
    assert threading.active_count() == before


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_loads_are_the_same_however_many_parts_are_begun_early(
    paths, workers, prefetch, assert_same
):
    for path in paths[::7]:
        pd.DataFrame({"n": [1.5], "other": ["b"]}).to_parquet(path)
    expected = read_frame(paths)
    reader = FrameReader(ThreadScheduler(workers, prefetch))
    with pytest.warns(FeedrateWarning, match="'other' is text in"):
        assert_same(reader.load(paths), expected)
    for _ in range(3):
        assert_same(reader.load(paths), expected)


def test_files_that_pandas_reads_are_parts_of_their_own(paths):
    pd.DataFrame({"n": [1]}, index=["stored"]).to_parquet(paths[3])
    plan = plan_of()
    found = list(plan.parts(iter(read_all(paths)), len(paths)))
    assert [part.path for part in found if isinstance(part, PandasPart)] == [paths[3]]
    assert dict(plan.by_pandas) == {"an index is stored": 1}


def test_bytes_that_are_read_with_footers_are_those_of_the_first_parts(paths, monkeypatch):
    monkeypatch.setattr(planning, "AHEAD_BYTES", 20_000)
    plan = plan_of()
    seen = []

    def footers():
        reader = Footers()
        for path in paths:
            seen.append(plan.reads_whole)
            yield reader.read(path, whole=plan.reads_whole)

    found = [part for part in plan.parts(footers(), len(paths)) if plan.complete]
    assert seen[0]
    assert not seen[-1]
    assert found
    assert all(part.polars for part in found)
    assert all(file.content is not None for part in found for file in part.files)


@pytest.mark.parametrize("ahead", [0, 3])
@pytest.mark.parametrize("by", ["layouts", "pandas"])
def test_what_is_read_before_it_is_decoded_is_bounded(paths, monkeypatch, ahead, by):
    if by == "pandas":  # so that no part is begun early
        for path in paths:
            pd.DataFrame({"n": [1]}, index=["stored"]).to_parquet(path)
    monkeypatch.setattr(planning, "AHEAD_BYTES", 10_000)
    monkeypatch.setattr(planning, "FIRST_BYTES", 20_000)
    plan = plan_of(ahead=ahead)
    held = []

    def read():
        reader = Footers()
        for path in paths:
            footer = reader.read(path, whole=plan.reads_whole)
            held.append(footer.size if footer.content is not None else 0)
            yield footer

    list(plan.parts(read(), len(paths)))
    bound = 20_000 if ahead else 10_000
    assert bound / 2 <= sum(held) < bound + max(held)


@pytest.mark.parametrize(
    ("files", "columns", "rows", "size", "polars", "count"),
    [
        (31, 6, 9300, 341_000, True, 1),  # a month of small files
        (400, 14, 80_000, 11 << 20, True, 3),
        (365, 19, 336_776, 15 << 20, True, 10),
        (20_000, 3, 400_000, 40 << 20, True, 10),
        (31, 6, 9300, 341_000, False, 10),
        (60, 4, 6_000_000, 640 << 20, False, 20),
    ],
)
def test_files_are_divided_by_what_they_take(
    monkeypatch, files, columns, rows, size, polars, count
):
    monkeypatch.undo()
    schema = pd.DataFrame({f"c{at}": [0.5] for at in range(columns)})
    layout = Layouts().of(_stored(schema), None)
    assert part_count(files, layout, rows, size, 2, polars=polars) == count


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_no_worker_waits_where_threads_cannot_be_started(paths, monkeypatch, failing):
    starts = iter(range(100))
    start = threading.Thread.start

    def limited(thread):
        if thread.name.startswith("feedrate") and next(starts) >= failing:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    reader = FrameReader(ThreadScheduler(4, 4))
    found = []

    def load():
        try:
            found.append(reader.load(paths))
        except RuntimeError as error:
            found.append(error)

    loading = threading.Thread(target=load, name="a user's", daemon=True)
    loading.start()
    loading.join(60)
    assert not loading.is_alive()
    assert "can't start" in str(found[0])


@pytest.mark.parametrize("wait_s", [0.0, 60.0])
def test_files_that_take_long_to_read_are_read_by_workers(paths, monkeypatch, wait_s):
    monkeypatch.setattr(planning, "WAITS_S", wait_s)
    plan = plan_of(ahead=1)
    found = list(plan.parts(iter(read_all(paths)), len(paths)))
    held = [all(file.content is not None for file in part.files) for part in found]
    assert held[0]
    assert set(held[1:]) == {wait_s > 0}


def _stored(frame):
    return FileSchema(pa.Schema.from_pandas(frame), ("DOUBLE",) * len(frame.columns))


def test_a_tiny_first_file_does_not_decide_on_the_decoder(paths, monkeypatch):
    for number, path in enumerate(paths[1:]):
        text = [f"text {number} {row}" for row in range(2000)]
        pd.DataFrame({"n": range(2000), "s": text}).to_parquet(path)
    size = sum(os.path.getsize(path) for path in paths)  # noqa: PTH202 - they are texts
    monkeypatch.setattr(engine, "POLARS_FROM_BYTES", size // 2)
    found = list(plan_of(ahead=3).parts(iter(read_all(paths)), len(paths)))
    assert {part.polars for part in found} == {True}


def test_a_large_first_file_does_not_keep_parts_from_being_begun_early(paths):
    draw = np.random.default_rng(0)
    pd.DataFrame({"n": draw.integers(0, 2**60, 20_000), "s": "text"}).to_parquet(paths[0])
    for path in paths[1:]:
        pd.DataFrame({"n": draw.integers(0, 2**60, 2000), "s": "text"}).to_parquet(path)
    plan = plan_of(ahead=3)
    early = [not plan.complete for _ in plan.parts(iter(read_all(paths)), len(paths))]
    assert sum(early) > 1


@pytest.mark.parametrize(("files", "polars"), [(1, True), (2, False)])
def test_polars_decodes_long_files_of_numbers_that_are_fewer_than_the_workers(
    paths, monkeypatch, files, polars
):
    monkeypatch.setattr(pieces, "LONG_CHUNK", 10)
    monkeypatch.setattr(engine, "LONG_CHUNK", 10)
    for path in paths[:files]:
        pd.DataFrame({"n": range(100)}).to_parquet(path)
    found = list(plan_of(workers=2).parts(iter(read_all(paths[:files])), files))
    assert {part.polars for part in found} == {polars}
