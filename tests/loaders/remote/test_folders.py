"""A storage's folders by URL: the same files as on disk, listed by date where keys allow it."""

import pickle

import pandas as pd
import pytest
from feedrate.loaders.base.errors import InputError, StorageError
from feedrate.loaders.remote import folders, listing, obstore_store
from feedrate.loaders.storage import ParquetStorage

from ...servers.s3 import put
from ..places import remove, write_bytes
from .conftest import BUCKET

PAGE = 4
FILES = [
    "prices_20250101.parquet",
    "other 20250102.parquet",
    "2025/01/03.parquet",
    "2025/01/04/game 1.parquet",
    "2025/01/04/Game.PARQUET",
    "date=2025-01-05/part-0.parquet",
    "date=2025-01-04 00%3A00%3A00/ä ö+#.parquet",
    "date=2025-01-06/region=eu/20240101.parquet",
    "static.parquet",
    "notes.txt",
    "2025/01/03.parquet.tmp",
    ".hidden/20250101.parquet",
    "_temporary/0/20250101.parquet",
    "2025/01/_SUCCESS.parquet",
    "2025/01/.20250101.parquet",
]
RANGES = [
    (None, None),
    ("20250101", "20250131"),
    ("20250104", "20250104"),
    ("20250104", None),
    (None, "20250103"),
    ("20240101", "20241231"),
    ("19000101", "99991231"),
]


@pytest.fixture
def small_pages(monkeypatch):
    """Answers to listings with few objects."""
    for module in (folders, listing, obstore_store):
        monkeypatch.setattr(module, "PAGE", PAGE)


def relative(files, storage):
    start = len(str(storage.base_dir)) + 1
    return [(date, str(path)[start:]) for date, path in files]


@pytest.mark.filterwarnings("ignore::feedrate.loaders.base.errors.FeedrateWarning")
def test_objects_of_all_layouts_are_the_files_of_a_copy(tmp_path, upload, small_pages):  # noqa: ARG001
    copy = ParquetStorage(tmp_path)
    for name in FILES:
        write_bytes(tmp_path / "prices" / name, b"x")
    storage = ParquetStorage(upload(tmp_path))
    assert storage.data_types() == ["prices"]
    for _ in range(2):
        for dates in RANGES:
            found = relative(storage.dated_files("prices", *dates), storage)
            assert found == relative(copy.dated_files("prices", *dates), copy)
    assert len(found) == 8


@pytest.mark.parametrize(
    "spelled", ["%Y/%m/%d", "%Y/%m/%d/a", "date=%Y-%m-%d/a", "prices_%Y%m%d", "%Y-%m-%d b"]
)
def test_a_range_of_dates_lists_only_these_once_the_layout_is_known(
    tmp_path, upload, behind, small_pages, spelled  # noqa: ARG001
):  # fmt: skip
    copy = ParquetStorage(tmp_path)
    days = pd.date_range("2024-12-20", periods=30)
    for day in days:
        write_bytes(tmp_path / "prices" / f"{day:{spelled}}.parquet", b"x")
    storage, proxy = behind(upload(tmp_path))
    everything = relative(storage.dated_files("prices"), storage)
    assert everything == relative(copy.dated_files("prices"), copy)
    for dates in RANGES:
        proxy.reset()
        found = relative(storage.dated_files("prices", *dates), storage)
        assert found == relative(copy.dated_files("prices", *dates), copy)
        if dates == ("20250104", "20250104"):
            assert len(found) == 1
            assert len(proxy.requests) <= 6
    assert all("list-type=2" in one.query for one in proxy.requests)


def test_what_comes_or_goes_is_noticed_at_the_next_load(url, small_pages):  # noqa: ARG001
    storage = ParquetStorage(url)
    for day in pd.date_range("2024-11-01", periods=3 * PAGE):
        write_bytes(storage.base_dir / "prices" / f"{day:%Y%m%d}.parquet", b"x")
    assert len(storage.files("prices")) == 3 * PAGE
    write_bytes(storage.base_dir / "prices" / "20241105-late.parquet", b"x")
    remove(storage.base_dir / "prices" / "20241106.parquet")
    found = storage.files("prices", "20241105", "20241107")
    assert [path.name for path in found] == [
        "20241105-late.parquet", "20241105.parquet", "20241107.parquet",
    ]  # fmt: skip
    assert len(storage.files("prices")) == 3 * PAGE


def test_listed_objects_have_sizes_and_versions(url):
    storage = ParquetStorage(url)
    path = storage.save(pd.DataFrame({"a": [1]}), "prices", "20250101")
    (found,) = storage.files("prices")
    assert found == path
    assert found.size > 100
    assert found.version.strip('"') == found.version != ""


def test_data_types_are_the_folders_that_are_not_hidden(url):
    storage = ParquetStorage(url)
    for name in ("b/x.parquet", "a/2025/x.parquet", ".git/x", "_tmp/x", "readme.txt"):
        write_bytes(storage.base_dir / name, b"x")
    assert storage.data_types() == ["a", "b"]


def test_an_unknown_data_type_gets_the_nearest_name_and_all_names(url):
    storage = ParquetStorage(url)
    write_bytes(storage.base_dir / "box_scores/20250101.parquet", b"x")
    with pytest.raises(InputError, match=rf"'box_score'.*did you mean 'box_scores'.*\(in {url}\)"):
        storage.files("box_score")
    assert storage.files("schedule") == []  # a usual type may have no data yet
    for name in ("../box_scores", "box_scores/2025", ".hidden", ""):
        with pytest.raises(InputError, match="unknown data type"):
            storage.files(name)


def test_a_folder_without_objects_and_a_bucket_that_is_missing_are_clear_errors(url):
    for call in (ParquetStorage.data_types, lambda one: one.files("schedule")):
        with pytest.raises(StorageError, match=rf"there is nothing in {url}; give the URL of the"):
            call(ParquetStorage(url))
        with pytest.raises(StorageError, match="there is no bucket s3://no-such-bucket; check"):
            call(ParquetStorage("s3://no-such-bucket/data"))
    with pytest.raises(StorageError, match="there is no bucket s3://no-such-bucket"):
        ParquetStorage("s3://no-such-bucket").save(pd.DataFrame({"a": [1]}), "prices", "20250101")


def test_a_pickled_storage_lists_anew(url):
    storage = ParquetStorage(url)
    write_bytes(storage.base_dir / "prices/20250101.parquet", b"x")
    copy = pickle.loads(pickle.dumps(storage))  # noqa: S301 - it is our own
    assert copy.files("prices") == storage.files("prices")
    assert repr(copy) == repr(storage) == f"ParquetStorage({url!r})"


def test_a_marker_of_a_folder_is_no_file(s3, url):
    """Consoles write such markers, and Spark's folders are named like files."""
    key = url.removeprefix(f"s3://{BUCKET}/")
    names = ("", "2025-01-05.parquet/", "2025-01-05.parquet/part-0.parquet", "2025-01-06.parquet")
    put(s3, BUCKET, {f"{key}/prices/{name}": b"" for name in names})
    storage = ParquetStorage(url)
    assert relative(storage.dated_files("prices"), storage) == [
        ("20250105", "prices/2025-01-05.parquet/part-0.parquet"),
        ("20250106", "prices/2025-01-06.parquet"),
    ]
