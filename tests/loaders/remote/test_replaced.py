"""An object that is replaced during a load: its old or its new rows, never a mix of both."""

import io

import numpy as np
import pandas as pd
import pytest
from feedrate.loaders.base.errors import ParquetFileError
from feedrate.loaders.choosing.registry import find_backend
from feedrate.loaders.optimized_historical_loader import OptimizedHistoricalDataLoader
from feedrate.loaders.storage import ParquetStorage

from ..places import remove, write_bytes

TYPE = "prices"
LIMITS = {"whole_bytes": "20kB", "split_bytes": "40kB", "gap_bytes": 0}
ROWS = {"small": 100, "large": 8_000}
OLD, NEW = 1, 2


def contents(version, rows):
    """A file of which each row tells the version; both versions have the same size."""
    chance = np.random.default_rng(version)
    frame = pd.DataFrame({f"x{number}": chance.random(rows) for number in range(3)})
    for number in range(3):
        frame[f"version {number}"] = version + frame[f"x{number}"] / 2
    buffer = io.BytesIO()
    frame.to_parquet(buffer, row_group_size=3000, index=False)
    return buffer.getvalue(), frame


@pytest.fixture(params=ROWS)
def size(request):
    return request.param


@pytest.fixture
def replaced(url, behind, size):
    """A storage whose second object is replaced at a request for it, and both versions."""
    plain = ParquetStorage(url)
    for day in (1, 2, 3):
        write_bytes(plain.base_dir / TYPE / f"2025010{day}.parquet", contents(OLD, ROWS[size])[0])
    new, frame = contents(NEW, ROWS[size])
    path = plain.base_dir / TYPE / "20250102.parquet"

    def start(at):
        seen = []

        def on_request(request):
            if "20250102" in request.path:
                seen.append(request)
                if len(seen) == at:
                    write_bytes(path, new)

        storage, _ = behind(url, LIMITS, on_request=on_request)
        storage.seen, storage.replace = seen, lambda: write_bytes(path, new)
        return storage

    return start, contents(OLD, ROWS[size])[1], frame


def loader_of(storage, cache=False, backend="pytorch"):
    if not find_backend(backend).installed:
        pytest.skip(f"{find_backend(backend).module} is not installed")
    return OptimizedHistoricalDataLoader(storage, backend, 2, enable_cache=cache, profile=None)


def tried(work):
    """What a function returns, or its error about a file."""
    try:
        return work()
    except ParquetFileError as error:
        return error


def middle(frame, rows):
    return frame[rows : 2 * rows].reset_index(drop=True)


@pytest.mark.parametrize("cache", ["none", "memory", "disk"])
@pytest.mark.parametrize("at", [1, 3])
def test_a_frame_has_old_or_new_rows_and_no_cache_keeps_others(
    replaced, size, cache, at, assert_same
):
    start, old, new = replaced
    storage = start(at)
    loader = loader_of(storage, cache)
    files = storage.files(TYPE)
    found = tried(lambda: middle(loader.load_files(files), ROWS[size]))
    if isinstance(found, ParquetFileError):
        assert found.path == files[1]
        assert "it was replaced while it was being read; load again" in found.reason
        assert size == "large"
    else:
        assert found.equals(old) or found.equals(new)
    if at <= len(storage.seen):
        expected = pd.concat([old, new, old], ignore_index=True)
        for again in (loader, loader_of(storage, cache)):
            for _ in range(2):
                assert_same(again.load_files(storage.files(TYPE)), expected)
            names = [str(path) for path in files]
            assert_same(again.load_files(names), expected)
            columns = ["version 1", "x2"]
            assert_same(again.load_files(names, columns), expected[columns])


@pytest.mark.parametrize("backend", ["original", "tensorflow", "pytorch"])
@pytest.mark.parametrize("at", [2, 4])
def test_an_epoch_has_old_or_new_rows(replaced, size, backend, at):
    start, old, new = replaced
    storage = start(at)
    columns = list(old.columns)

    def epoch():
        rows = np.concatenate([np.asarray(batch) for batch in stream])
        return rows[ROWS[size] : 2 * ROWS[size]].tolist()

    stream = tried(
        lambda: loader_of(storage, backend=backend).stream(
            storage.files(TYPE), columns, batch_size=1000, shuffle=False
        )
    )
    for _ in range(2):
        found = stream if isinstance(stream, ParquetFileError) else tried(epoch)
        if isinstance(found, ParquetFileError):
            assert found.path.endswith("20250102.parquet")
            assert "replaced" in found.reason or "changed" in found.reason
        else:
            assert found in [one.astype("float32").to_numpy().tolist() for one in (old, new)]


@pytest.mark.parametrize("cache", ["none", "memory", "disk"])
def test_between_loads_an_object_may_be_replaced_or_deleted(replaced, cache, assert_same):
    start, old, new = replaced
    storage = start(0)
    loader = loader_of(storage, cache)
    files = storage.files(TYPE)
    assert_same(loader.load_files(files), pd.concat([old] * 3, ignore_index=True))
    storage.replace()
    expected = pd.concat([old, new, old], ignore_index=True)
    assert_same(loader.load_files(storage.files(TYPE)), expected)
    assert_same(loader.load_files([str(path) for path in files]), expected)
    remove(files[1])
    assert_same(loader.load_files(storage.files(TYPE)), pd.concat([old] * 2, ignore_index=True))
    with pytest.raises(ParquetFileError, match="the object does not exist"):
        loader.load_files([str(path) for path in files])


def test_a_version_that_is_cached_is_a_hit_however_it_is_known(replaced):
    start, _, _ = replaced
    storage = start(0)
    loader = loader_of(storage, "memory")
    files = storage.files(TYPE)
    loader.load_files(files)
    for again in (storage.files(TYPE), [str(path) for path in files]):
        before = loader.stats()
        loader.load_files(again)
        assert loader.stats()["cache_hits"] == before["cache_hits"] + 3
        assert loader.stats()["cache_misses"] == before["cache_misses"] == 3


def test_player_logs_follow_a_replaced_object(url):
    storage = ParquetStorage(url)
    day = pd.DataFrame({"gameDate": ["20250101"] * 5, "points": range(5)})
    storage.save(day, "box_scores", "20250101")
    loader = loader_of(storage, "memory")
    for points in (1, 2):
        storage.save(day.assign(points=points), "box_scores", "20250101")
        logs = loader.load_historical_player_logs("20250101", "20250102")
        assert logs["points"].tolist() == [points] * 5
