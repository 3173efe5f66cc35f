"""Which requests a load makes: small objects whole, of large ones the needed parts."""

import io
import itertools
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feedrate.loaders.choosing.registry import find_backend
from feedrate.loaders.historical_loader import HistoricalDataLoader
from feedrate.loaders.optimized_historical_loader import OptimizedHistoricalDataLoader
from feedrate.loaders.remote.requests import counts
from feedrate.loaders.remote.urls import is_url
from feedrate.loaders.storage import ParquetStorage

from ..places import write_bytes

pytest.importorskip("torch")
TYPE = "prices"
COLUMNS = [f"c{number}" for number in range(6)]
ROWS, GROUP = 120_000, 30_000
PER_DAY = 60_000  # so that a file of eight days is too large to be read whole
LIMITS = {
    "whole_bytes": "100kB",  "gap_bytes": "64kB", "split_bytes": "500kB"
}  # fmt: skip


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """A file of 6 MB that cannot be compressed, between small ones."""
    storage = ParquetStorage(tmp_path_factory.mktemp("large"))
    chance = np.random.default_rng(0)
    for day, rows in (("20250101", 40), ("20250102", ROWS), ("20250103", 60)):
        columns = {name: chance.standard_normal(rows) for name in COLUMNS}
        columns["text"] = [f"row {row % 100}" for row in range(rows)]
        columns["label"] = np.arange(rows, dtype="float32")
        path = storage.base_dir / TYPE / f"{day}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), path, row_group_size=GROUP)
    return storage


@pytest.fixture(scope="module")
def place(copies, upload):
    return upload(copies.base_dir)


@pytest.fixture(params=["tensorflow", "pytorch"])
def backend(request):
    if not find_backend(request.param).installed:
        pytest.skip(f"{find_backend(request.param).module} is not installed")
    return request.param


def loader_of(storage, backend="pytorch", cache=False, workers=2):
    return OptimizedHistoricalDataLoader(
        storage, backend, workers, enable_cache=cache, profile=None
    )


@contextmanager
def counted(proxy):
    """Checks that what the loaders counted is what the proxy saw."""
    proxy.reset()
    before = counts()
    yield
    used = counts().since(before)
    assert used.requests == len(proxy.requests)
    assert used.retries == 0
    assert used.bytes == sum(one.sent for one in proxy.requests if "list-type" not in one.query)
    assert {one.method for one in proxy.requests} == {"GET"}


def objects(proxy, day):
    """The requests for one object."""
    return [one for one in proxy.requests if f"{day}.parquet" in one.path]


def span(request):
    """The bytes that were asked for."""
    low, high = request.range.removeprefix("bytes=").split("-")
    return int(low), int(high) + 1


def test_frames_of_large_and_small_objects_are_those_of_files(
    copies, place, behind, backend, assert_same
):
    storage, proxy = behind(place, LIMITS)
    loader = loader_of(storage, backend)
    with counted(proxy):
        assert_same(loader.load_files(storage.files(TYPE)), copies.load(TYPE))
    asked = proxy.requests
    assert sum("list-type" in one.query for one in asked) == 1
    for day in ("20250101", "20250103"):  # whole, with the listing's size: one request
        assert [one.range for one in objects(proxy, day)] == [None]
    footer, *parts = objects(proxy, "20250102")
    assert footer.range == "bytes=-65536"
    size = storage.files(TYPE)[1].size
    spans = sorted(map(span, parts))
    assert all(one.if_match for one in parts)
    assert all(stop - start <= 500_000 for start, stop in spans)
    assert all(stop <= after for (_, stop), (after, _) in itertools.pairwise(spans))
    assert sum(one.sent for one in objects(proxy, "20250102")) <= size + 65_536
    assert len(parts) <= size / 500_000 + 5


@pytest.mark.parametrize("columns", [["c1"], ["label", "c0"], ["text"], ["c0", "c1", "c2", "c5"]])
def test_some_columns_take_their_bytes_and_little_more(copies, place, behind, columns, assert_same):
    storage, proxy = behind(place, LIMITS)
    file = copies.files(TYPE)[1]
    metadata = pq.ParquetFile(file).metadata
    needed = sum(
        metadata.row_group(group).column(at).total_compressed_size
        for group in range(metadata.num_row_groups)
        for at in range(metadata.num_columns)
        if metadata.schema.column(at).name in columns
    )
    with counted(proxy):
        frame = loader_of(storage).load_files(storage.files(TYPE), columns)
    assert_same(frame, HistoricalDataLoader(copies).load_files(copies.files(TYPE), columns))
    sent = sum(one.sent for one in objects(proxy, "20250102"))
    gaps = 4 * len(columns) * 64_000
    assert needed <= sent <= min(needed + 65_536 + gaps, file.stat().st_size)


@pytest.mark.parametrize("gap", [0, "10MB"])
def test_neighbours_are_read_together_within_the_gap(copies, place, behind, gap, assert_same):
    storage, proxy = behind(place, {**LIMITS, "gap_bytes": gap, "split_bytes": "100MB"})
    columns = ["c0", "c4"]
    with counted(proxy):
        frame = loader_of(storage).load_files(storage.files(TYPE), columns)
    assert_same(frame, HistoricalDataLoader(copies).load_files(copies.files(TYPE), columns))
    parts = objects(proxy, "20250102")[1:]
    assert len(parts) == (2 * ROWS / GROUP if gap == 0 else 1)


@pytest.mark.parametrize("name", ["original", "pytorch"])
@pytest.mark.parametrize(
    "filters", [[("label", "<", 30)], [[("c0", ">", 3.5)], [("text", "==", "row 7")]]]
)
def test_filters_keep_the_rows_that_pandas_keeps(copies, place, behind, name, filters, assert_same):
    storage, _ = behind(place, LIMITS)
    files, columns = copies.files(TYPE), ["c0", "label"]
    expected = HistoricalDataLoader(copies).load_files(files, columns, filters)
    loader = loader_of(storage, name)
    assert_same(loader.load_files(storage.files(TYPE), columns, filters), expected)
    stream = loader.stream(storage.files(TYPE), columns, shuffle=False, filters=filters)
    rows = np.concatenate([np.asarray(batch) for batch in stream])
    assert rows.tolist() == expected.astype("float32").to_numpy().tolist()


def test_a_footer_longer_than_the_guess_takes_one_more_request(copies, place, behind, assert_same):
    storage, proxy = behind(place, {**LIMITS, "tail_bytes": "1kB", "gap_bytes": 0})
    with counted(proxy):
        assert_same(loader_of(storage).load_files(storage.files(TYPE)), copies.load(TYPE))
    asked = objects(proxy, "20250102")
    assert asked[0].range == "bytes=-1000"
    assert all(stop - start <= 500_000 for start, stop in map(span, asked[1:]))
    assert sum(one.sent for one in asked) <= storage.files(TYPE)[1].size + 2 * 65_536


def test_streams_request_the_wanted_columns_in_each_epoch(copies, place, behind, backend):
    storage, proxy = behind(place, LIMITS)
    files = storage.files(TYPE)
    expected = copies.load(TYPE)[["c0", "label"]].astype("float32").to_numpy()
    stream = loader_of(storage, backend).stream(
        files, ["c0", "label"], batch_size=50_000, shuffle=False
    )
    for _ in range(2):
        with counted(proxy):
            found = np.concatenate([np.asarray(batch) for batch in stream])
        assert found.tolist() == expected.tolist()
        sent = sum(one.sent for one in objects(proxy, "20250102"))
        assert sent >= ROWS * 12
        assert sent <= files[1].size / 2
    assert all(one.range is None or one.if_match or "=-" in one.range for one in proxy.requests)


def test_row_groups_that_hold_no_wanted_rows_are_not_requested(url, behind, tmp_path, assert_same):
    days = np.repeat([f"2025{month:02}01" for month in range(1, 9)], PER_DAY)
    chance = np.random.default_rng(1)
    frame = pd.DataFrame({"gameDate": days, "x": chance.standard_normal(len(days))})
    for base in (url, tmp_path):
        path = ParquetStorage(base).base_dir / "box_scores" / "all.parquet"
        buffer = io.BytesIO()
        frame.to_parquet(buffer, row_group_size=PER_DAY, index=False)
        write_bytes(path, buffer.getvalue())
    storage, proxy = behind(url, {**LIMITS, "gap_bytes": "1kB", "whole_bytes": 0})
    with counted(proxy):
        logs = loader_of(storage).load_historical_player_logs("20250301", "20250501")
    local = HistoricalDataLoader(ParquetStorage(tmp_path))
    assert_same(logs, local.load_historical_player_logs("20250301", "20250501"))
    assert sum(one.sent for one in objects(proxy, "all")) < 3.5 * PER_DAY * 8


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_a_cached_load_takes_one_listing(copies, place, behind, cache, assert_same):
    storage, proxy = behind(place, LIMITS)
    loader = loader_of(storage, "pytorch", cache)
    for number in range(3):
        if cache == "disk":
            loader = loader_of(storage, "pytorch", cache)
        with counted(proxy):
            assert_same(loader.load_files(storage.files(TYPE)), copies.load(TYPE))
        if number:
            assert ["list-type" in one.query for one in proxy.requests] == [True]
    names = [str(path) for path in storage.files(TYPE)]
    with counted(proxy):  # paths that were not listed: asked about one by one, a byte each
        assert_same(loader.load_files(names), copies.load(TYPE))
    assert [one.range for one in proxy.requests] == ["bytes=0-0"] * 3
    assert all(map(is_url, names))
