"""Files are found in every layout, dated by their names and folders, and saved whole."""

import copy
import datetime as dt
import os
import pickle
import stat
import time
import warnings
from pathlib import Path

import pandas as pd
import pytest
from feedrate.loaders import storage as storage_module
from feedrate.loaders.base.dates import as_date, date_of
from feedrate.loaders.base.errors import FeedrateWarning, InputError, ParquetFileError, StorageError
from feedrate.loaders.storage import ParquetStorage

TYPE = "box_scores"


def put(base, *names, data_type=TYPE):
    """Small Parquet files of the given names; each row says which file it came from."""
    for name in names:
        path = base / data_type / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"file": [name]}).to_parquet(path)
    return ParquetStorage(base)


def names(storage, *dates, data_type=TYPE):
    folder = storage.base_dir / data_type
    return [path.relative_to(folder).as_posix() for path in storage.files(data_type, *dates)]


@pytest.mark.parametrize(
    ("name", "date"),
    [
        ("box_scores_20250101.parquet", "20250101"),
        ("20250101.parquet", "20250101"),
        ("2025/01/02.parquet", "20250102"),
        ("2025/1/2.parquet", "20250102"),
        ("2025/01/02/GAME.parquet", "20250102"),
        ("2025/01/02/0022400123.parquet", "20250102"),
        ("date=2025-01-03/part-0.parquet", "20250103"),
        ("gameDate=20250103/part-0.parquet", "20250103"),
        ("2025-01-03/part-0.parquet", "20250103"),
        ("20250103/part-0.parquet", "20250103"),
        ("year=2025/month=01/day=03/part-0.parquet", "20250103"),
        ("year=2025/month=1/day=3/part-0.parquet", "20250103"),
        ("region=eu/date=2025-01-03/part-0.parquet", "20250103"),
        ("date=2025-01-03/region=eu/part-0.parquet", "20250103"),
        ("date=2025-01-03 00%3A00%3A00/part-0.parquet", "20250103"),
        ("date=2025-01-03%2000%3A00%3A00.123/part-0.parquet", "20250103"),
        ("date=2025-01-03 00:00:00/part-0.parquet", "20250103"),
        ("date=2025-01-03T18%3A30%3A00+01%3A00/part-0.parquet", "20250103"),
        ("2025-01-03.parquet", "20250103"),
        ("box_2025-01-03_v2.parquet", "20250103"),
        ("box-2025-01-03-v2.parquet", "20250103"),
        ("box_scores_20250103.parquet/part-00000.parquet", "20250103"),
        ("box_scores_2025-01-03.PARQUET/part-00000.snappy.parquet", "20250103"),
    ],
)
def test_every_layout_spells_a_date(name, date):
    assert date_of(name) == date


@pytest.mark.parametrize(
    ("name", "date"),
    [
        ("20240101_to_20250101.parquet", "20250101"),
        ("20250101_99999999.parquet", "20250101"),
        ("20250101-20251301.parquet", "20250101"),
        ("a20250101b.parquet", "20250101"),
        ("20250101.snappy.parquet", "20250101"),
        ("20250101_2025-01-02.parquet", "20250101"),
        ("2025-01-01_to_2025-01-02.parquet", "20250102"),
        ("2025-13-01_20250102.parquet", "20250102"),
        ("date=2025-02-30/box_20250102.parquet", "20250102"),  # there is no such day
        ("date=__HIVE_DEFAULT_PARTITION__/box_20250102.parquet", "20250102"),
        ("2025/01/02/123456789.parquet", "20250102"),
        ("2024/12/31/2025/01/02/a.parquet", "20250102"),
    ],
)
def test_without_a_date_of_its_folders_the_last_valid_date_in_the_name_counts(name, date):
    assert date_of(name) == date


@pytest.mark.parametrize("digits", ["22400101", "20240229", "a_94500102cd3c", "2024-02-29"])
@pytest.mark.parametrize(
    "folder",
    ["2025/01/02", "year=2025/month=1/day=2", "date=2025-01-02", "date=20250102", "20250102",
     "date=2025-01-02 00%3A00%3A00", "box_scores_20250102.parquet", "20250102/region=eu"],
)  # fmt: skip
def test_digits_in_a_name_never_override_the_date_that_folders_spell(folder, digits):
    assert date_of(f"{folder}/{digits}.parquet") == "20250102"


@pytest.mark.parametrize(
    "name",
    [
        "part-0.parquet",
        "2025010.parquet",
        "202501011.parquet",
        "20251301.parquet",
        "00000101.parquet",
        "٢٠٢٥٠١٠١.parquet",  # digits, but not ours
        "2025/01/part-0.parquet",
        "2025/13/01/part-0.parquet",
        "12025/01/01/part-0.parquet",
        "date=2025-02-30/part-0.parquet",
        "part-00000-2025-01-021.parquet",
        "12025-01-02.parquet",
        "12025-01-02-3.parquet",
    ],
)
def test_names_that_spell_no_date_have_none(name):
    assert date_of(name) is None


def test_layouts_mix_freely_and_list_in_date_order_then_path_order(tmp_path):
    storage = put(
        tmp_path,
        "box_scores_20250105.parquet",
        "2025/01/04.parquet",
        "2025/01/03/b.parquet",
        "2025/01/03/a.parquet",
        "date=2025-01-02/part-0.parquet",
        "date=2025-01-02/region=eu/part-1.parquet",
        "final-20250101-v2.parquet",
        "z_20250103.parquet",
    )
    assert names(storage) == [
        "final-20250101-v2.parquet",
        "date=2025-01-02/part-0.parquet",
        "date=2025-01-02/region=eu/part-1.parquet",
        "2025/01/03/a.parquet",
        "2025/01/03/b.parquet",
        "z_20250103.parquet",
        "2025/01/04.parquet",
        "box_scores_20250105.parquet",
    ]
    assert list(storage.load(TYPE)["file"]) == names(storage)


def test_files_without_a_date_come_last_and_only_without_a_range(tmp_path):
    storage = put(tmp_path, "a.parquet", "b_20250101.parquet", "notes/z.parquet")
    assert names(storage) == ["b_20250101.parquet", "a.parquet", "notes/z.parquet"]
    with pytest.warns(FeedrateWarning):
        assert names(storage, "20240101") == ["b_20250101.parquet"]
    for dates in ((None, "20260101"), ("20240101", "20260101")):
        assert names(storage, *dates) == ["b_20250101.parquet"]


def test_a_range_over_files_without_a_date_warns_once_for_each_type(tmp_path):
    storage = put(tmp_path, "a.parquet", "b_20250101.parquet", "notes/z.parquet")
    storage.save(pd.DataFrame({"x": [1]}), "games", "final")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        names(storage)
        assert not told
        for _ in range(2):
            names(storage, "20240101")
            assert names(storage, None, "20260101", data_type="games") == []
        copy.deepcopy(storage).files(TYPE, "20240101")
    first, second = (str(one.message) for one in told)
    assert first.startswith("2 of 3 files of box_scores have no date")
    assert "a.parquet; call files TYPE_20250131.parquet" in first
    assert second.startswith("1 of 1 files of games")


def test_both_ends_of_a_range_are_inclusive_and_either_may_be_open(tmp_path):
    storage = put(tmp_path, *(f"{day}.parquet" for day in range(20250101, 20250106)))
    assert names(storage, "20250102", "20250104") == [
        "20250102.parquet",
        "20250103.parquet",
        "20250104.parquet",
    ]
    assert len(names(storage, "20250102")) == 4
    assert len(names(storage, None, "20250104")) == 4
    assert names(storage, "20250103", "20250103") == ["20250103.parquet"]
    assert names(storage, "20250201", "20250301") == []
    filters = {"start_date": "20250102", "end_date": "20250104"}
    assert len(storage.load(TYPE, filters)) == 3
    assert len(storage.load(TYPE, {"end_date": "20250101"})) == 1
    assert len(storage.load(TYPE, {})) == 5


@pytest.mark.parametrize(
    "date",
    ["20250102", "2025-01-02", 20250102, dt.date(2025, 1, 2), pd.Timestamp("2025-01-02 19:30")],
)
def test_dates_may_be_text_numbers_dates_or_datetimes(date):
    assert as_date(date) == "20250102"


@pytest.mark.parametrize(
    "date",
    ["2025-1-2", "20250230", "2025", "yesterday", "", 2025, 2.5, True, pd.NaT, "20250101 ", b"x"],
)
def test_what_is_no_date_is_refused_with_an_example(date):
    with pytest.raises(InputError, match=r"start_date .* is no date; write it as YYYYMMDD"):
        as_date(date, "start_date")


def test_hidden_names_other_files_and_folders_of_them_are_left_out(tmp_path):
    storage = put(
        tmp_path,
        "20250101.parquet",
        "20250102.PARQUET",
        ".20250103.parquet",
        "_20250104.parquet",
        "_temporary/20250105.parquet",
        ".trash/20250106.parquet",
        "20250107.parquet.crc",
        "20250108.csv",
    )
    assert names(storage) == ["20250101.parquet", "20250102.PARQUET"]


def test_a_folder_that_is_called_like_a_file_is_a_folder(tmp_path):
    storage = put(tmp_path, "20250101.parquet/part-0.parquet")
    assert names(storage) == ["20250101.parquet/part-0.parquet"]


def test_links_to_folders_are_followed(tmp_path):
    storage = put(tmp_path / "data", "20250101.parquet")
    put(tmp_path / "archive", "2024/12/31.parquet", data_type="old")
    (tmp_path / "data" / TYPE / "archived").symlink_to(tmp_path / "archive" / "old")
    assert names(storage) == ["archived/2024/12/31.parquet", "20250101.parquet"]


def test_a_link_to_a_folder_whose_name_begins_like_the_data_type_is_followed(tmp_path):
    storage = put(tmp_path, "20250101.parquet")
    put(tmp_path, "20241231.parquet", data_type="box")
    (tmp_path / TYPE / "old").symlink_to(tmp_path / "box")
    assert names(storage) == ["old/20241231.parquet", "20250101.parquet"]


def test_a_data_type_may_itself_be_a_link(tmp_path):
    put(tmp_path / "elsewhere", "20250101.parquet")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / TYPE).symlink_to(tmp_path / "elsewhere" / TYPE)
    assert names(ParquetStorage(tmp_path / "data")) == ["20250101.parquet"]


def test_no_file_is_listed_twice_because_of_links(tmp_path):
    storage = put(tmp_path, "2025/01/01.parquet", "2025/01/02.parquet")
    (tmp_path / TYPE / "2025" / "again").symlink_to(tmp_path / TYPE / "2025" / "01")
    (tmp_path / TYPE / "alias").symlink_to(tmp_path / TYPE / "2025")
    (tmp_path / TYPE / "another").symlink_to(tmp_path / TYPE / "2025")
    assert names(storage) == ["2025/01/01.parquet", "2025/01/02.parquet"]


def test_the_first_of_two_links_to_a_folder_outside_is_followed(tmp_path):
    storage = put(tmp_path / "data", "20250102.parquet")
    put(tmp_path, "20250101.parquet", data_type="outside")
    for name in ("y", "x", "z"):
        (tmp_path / "data" / TYPE / name).symlink_to(tmp_path / "outside")
    assert names(storage) == ["x/20250101.parquet", "20250102.parquet"]


def test_loops_of_links_end(tmp_path):
    storage = put(tmp_path / "data", "2025/01/01.parquet")
    put(tmp_path, "20250102.parquet", data_type="outside")
    folder = tmp_path / "data" / TYPE
    (folder / "2025" / "here").symlink_to(folder / "2025")
    (folder / "up").symlink_to(folder)
    (folder / "far_up").symlink_to(tmp_path)
    (folder / "itself").symlink_to(folder / "itself")
    (folder / "out").symlink_to(tmp_path / "outside")
    (tmp_path / "outside" / "back").symlink_to(folder)
    assert names(storage) == ["2025/01/01.parquet", "out/20250102.parquet"]


def test_what_is_saved_loads_again(tmp_path, assert_same):
    storage = ParquetStorage(tmp_path / "new" / "data")
    frame = pd.DataFrame({"points": [1, 2], "player": ["é", None]})
    path = storage.save(frame, TYPE, "20250101")
    assert path == tmp_path / "new" / "data" / TYPE / "box_scores_20250101.parquet"
    assert_same(storage.load(TYPE), frame)


def test_saving_again_replaces(tmp_path):
    storage = ParquetStorage(tmp_path)
    storage.save(pd.DataFrame({"a": [1, 2]}), TYPE, "20250101")
    storage.save(pd.DataFrame({"a": [3]}), TYPE, "20250101")
    assert list(storage.load(TYPE)["a"]) == [3]


def test_a_named_index_is_saved_as_columns_and_an_unnamed_one_is_not(tmp_path):
    storage = ParquetStorage(tmp_path)
    frame = pd.DataFrame({"a": [1, 2]}, index=pd.Index(["x", "y"], name="player"))
    storage.save(frame, TYPE, "20250101")
    assert list(storage.load(TYPE).columns) == ["player", "a"]
    storage.save(frame.rename_axis(None), TYPE, "20250101")
    assert list(storage.load(TYPE).columns) == ["a"]


def test_a_save_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    storage = ParquetStorage(tmp_path)
    path = storage.save(pd.DataFrame({"a": [1]}), TYPE, "20250101")

    def full(_, target, **__):
        Path(target).write_bytes(b"PAR1half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(StorageError, match=r"cannot write .*: No space left on device"):
        storage.save(pd.DataFrame({"a": [2]}), TYPE, "20250101")
    assert list(path.parent.iterdir()) == [path]
    assert list(storage.load(TYPE)["a"]) == [1]


def test_a_frame_that_parquet_cannot_hold_leaves_no_file(tmp_path):
    storage = ParquetStorage(tmp_path)
    mixed = pd.DataFrame({"fine": [1, 2], "odd one": [1, "x"]})
    objects = pd.DataFrame({"odd one": [object()]})
    for frame in (mixed, objects):
        with pytest.raises(InputError, match=r"cannot store this frame as .*column odd one"):
            storage.save(frame, TYPE, "20250101")
    twice = pd.DataFrame([[1, 2]], columns=["a", "a"])
    with pytest.raises(InputError, match="give each column a name of its own"):
        storage.save(twice, TYPE, "20250101")
    named = pd.DataFrame({"a": [1]}, index=pd.Index([1], name="a"))
    with pytest.raises(InputError, match="cannot insert a, already exists"):
        storage.save(named, TYPE, "20250101")
    assert not list((tmp_path / TYPE).iterdir())


def test_saved_files_have_the_usual_permissions(tmp_path):
    path = ParquetStorage(tmp_path).save(pd.DataFrame({"a": [1]}), TYPE, "20250101")
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_a_folder_that_cannot_be_written_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / TYPE).write_text("a file is in the way")
    with pytest.raises(StorageError, match=r"cannot write .*box_scores_20250101\.parquet"):
        ParquetStorage(tmp_path).save(pd.DataFrame({"a": [1]}), TYPE, "20250101")


def test_exists_knows_saved_files_and_any_file_of_the_date(tmp_path):
    storage = put(tmp_path, "box_scores_20250101.parquet", "2025/01/02/a.parquet", "x.parquet")
    storage.save(pd.DataFrame({"a": [1]}), TYPE, "all-time")
    for identifier in ("20250101", "20250102", "all-time"):
        assert storage.exists(TYPE, identifier)
    assert not storage.exists(TYPE, "20250103")
    assert not storage.exists("schedule", "20250101")
    assert not ParquetStorage(tmp_path / "none").exists(TYPE, "20250101")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "../a", ".a", "_a", "a\0b", 7, None])
def test_names_that_would_leave_the_folder_or_be_hidden_are_refused(tmp_path, name):
    storage = ParquetStorage(tmp_path / "data")
    frame = pd.DataFrame({"a": [1]})
    with pytest.raises(InputError, match=r"identifier .* cannot be part of a file name"):
        storage.save(frame, TYPE, name)
    with pytest.raises(InputError, match=r"data_type .* cannot be part of a file name"):
        storage.save(frame, name, "20250101")
    with pytest.raises(InputError, match="cannot be part of a file name"):
        storage.exists(TYPE, name)
    assert not (tmp_path / "data").exists()


def test_a_storage_folder_that_is_missing_is_an_error_that_names_it(tmp_path):
    with pytest.raises(StorageError, match=r"storage folder .*nowhere does not exist"):
        ParquetStorage(tmp_path / "nowhere").files(TYPE)
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"storage folder .*file is not a folder"):
        ParquetStorage(tmp_path / "file").load(TYPE)


def test_a_folder_that_cannot_be_listed_is_an_error_that_names_it(tmp_path, monkeypatch):
    storage = put(tmp_path, "2025/01/01.parquet")
    scandir = os.scandir

    def closed(folder):
        if str(folder).rstrip("/").endswith("2025"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(StorageError, match=r"cannot list .*2025/?: Permission denied"):
        storage.files(TYPE)


def test_an_unknown_data_type_gets_the_nearest_name_and_all_names(tmp_path):
    storage = put(tmp_path, "20250101.parquet")
    put(tmp_path, "20250101.parquet", data_type="my_odds")
    with pytest.raises(InputError, match=r"'box_score'.*did you mean 'box_scores'.*my_odds"):
        storage.files("box_score")
    with pytest.raises(InputError, match=r"'weather'.*choices are: box_scores, my_odds"):
        storage.load("weather")


def test_a_usual_data_type_without_a_folder_is_empty(tmp_path):
    storage = put(tmp_path, "20250101.parquet")
    assert storage.files("schedule") == []
    assert storage.load("schedule").empty
    assert storage.load("schedule").columns.empty


def test_a_range_turned_round_is_refused(tmp_path):
    storage = put(tmp_path, "20250101.parquet")
    with pytest.raises(InputError, match="start_date 20250102 is after end_date 20250101"):
        storage.files(TYPE, "20250102", "20250101")


def test_an_unknown_filter_gets_the_nearest_name(tmp_path):
    storage = put(tmp_path, "20250101.parquet")
    with pytest.raises(InputError, match=r"unknown filter 'start'.*did you mean 'start_date'"):
        storage.load(TYPE, {"start": "20250101"})


def test_a_file_that_is_no_parquet_is_an_error_that_names_it(tmp_path):
    storage = put(tmp_path, "20250101.parquet")
    (tmp_path / TYPE / "20250102.parquet").write_bytes(b"not Parquet at all")
    with pytest.raises(ParquetFileError, match=r"cannot read .*20250102\.parquet: it is not"):
        storage.load(TYPE)


def test_folders_names_never_become_columns(tmp_path):
    storage = put(tmp_path, "date=2025-01-01/region=eu/a.parquet")
    assert list(storage.load(TYPE).columns) == ["file"]


@pytest.fixture
def listings(monkeypatch):
    """How often a folder was walked."""
    walked = []
    walk = storage_module.walk_parquet

    def counted(folder, *rest):
        walked.append(folder)
        return walk(folder, *rest)

    monkeypatch.setattr(storage_module, "walk_parquet", counted)
    return walked


@pytest.fixture
def trusted(monkeypatch):
    """Let the times of folders be trusted at once."""
    monkeypatch.setattr(storage_module, "YOUNG_NS", 0)


@pytest.mark.usefixtures("trusted")
def test_folders_that_did_not_change_are_not_listed_again(tmp_path, listings):
    storage = put(tmp_path, "2025/01/02.parquet", "20250101.parquet")
    assert [names(storage) for _ in range(3)] == [["20250101.parquet", "2025/01/02.parquet"]] * 3
    assert names(storage, "20250102", None) == ["2025/01/02.parquet"]
    assert len(listings) == 1


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("restored", [False, True])
@pytest.mark.parametrize("name", ["20250103.parquet", "2025/01/03.parquet", "2025/02/03.parquet"])
def test_a_file_that_comes_or_goes_is_noticed_at_any_depth(tmp_path, name, restored):
    storage = put(tmp_path, "2025/01/02.parquet", "20250101.parquet")
    before = names(storage)
    folder = (tmp_path / TYPE / name).parent
    times = folder.stat() if folder.is_dir() else None

    def restore():
        """Put the folder's time back, as `rsync -a` does."""
        if restored and times is not None:
            os.utime(folder, ns=(times.st_atime_ns, times.st_mtime_ns))

    time.sleep(0.01)  # for file systems that tell times in ticks
    put(tmp_path, name)
    restore()
    assert name in names(storage)
    time.sleep(0.01)
    (tmp_path / TYPE / name).unlink()
    restore()
    assert names(storage) == before


@pytest.mark.usefixtures("trusted")
def test_a_folder_that_is_exchanged_for_another_is_noticed(tmp_path):
    storage = put(tmp_path, "20250101.parquet")
    names(storage)
    (tmp_path / TYPE).rename(tmp_path / "old")
    put(tmp_path, "20250102.parquet")
    assert names(storage) == ["20250102.parquet"]


def test_a_folder_that_changed_just_now_is_listed_again(tmp_path, listings):
    storage = put(tmp_path, "20250101.parquet")
    assert [names(storage) for _ in range(3)] == [["20250101.parquet"]] * 3
    assert len(listings) == 3


@pytest.mark.usefixtures("trusted")
def test_folders_with_links_are_listed_again_since_their_targets_may_change(tmp_path):
    storage = put(tmp_path, "20250101.parquet")
    (tmp_path / TYPE / "more").symlink_to(tmp_path / "elsewhere")
    assert names(storage) == ["20250101.parquet"]
    put(tmp_path, "20250102.parquet", data_type="elsewhere")
    assert names(storage) == ["20250101.parquet", "more/20250102.parquet"]


@pytest.mark.usefixtures("trusted")
def test_a_storage_is_pickled_without_what_it_has_listed(tmp_path):
    storage = put(tmp_path, "20250101.parquet")
    small = len(pickle.dumps(storage))
    names(storage)
    assert len(pickle.dumps(storage)) == small
