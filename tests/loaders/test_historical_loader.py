"""The original loader: what it loads for a date, for a range, and before a date."""

import datetime as dt
import warnings

import numpy as np
import pandas as pd
import pytest
from feedrate.loaders.base.dates import _text_to_datetimes, season_start, to_datetimes
from feedrate.loaders.base.errors import ColumnError, FeedrateWarning, InputError, StorageError
from feedrate.loaders.historical_loader import HistoricalDataLoader
from feedrate.loaders.optimized_historical_loader import OptimizedHistoricalDataLoader
from feedrate.loaders.storage import ParquetStorage

NULLS_LEFT_OUT = "rows of box_scores have no gameDate and belong to no date; they are left out"


@pytest.fixture
def loader(storage):
    return HistoricalDataLoader(storage)


@pytest.fixture
def empty(tmp_path):
    (tmp_path / "empty").mkdir()
    return ParquetStorage(tmp_path / "empty")


def logs_of(storage, dates, end="20250110", start="20240101", name="20250101"):
    """Save box scores with these dates, and load those of a range."""
    storage.save(pd.DataFrame({"gameDate": dates, "row": range(len(dates))}), "box_scores", name)
    return HistoricalDataLoader(storage).load_historical_player_logs(start, end)


def test_a_slate_has_its_date_and_a_frame_for_each_usual_type(loader, storage, assert_same):
    slate = loader.load_slate_data("2025-01-02")
    assert list(slate) == ["date", "dfs_salaries", "schedule", "betting_odds", "injuries"]
    assert slate["date"] == "20250102"
    assert_same(slate["schedule"], pd.read_parquet(storage.files("schedule")[1]))
    assert_same(slate["betting_odds"], pd.DataFrame())


def test_a_slate_may_be_of_other_types(loader):
    slate = loader.load_slate_data("20250102", ["box_scores"])
    assert list(slate) == ["date", "box_scores"]
    assert len(slate["box_scores"]) == 4
    assert list(loader.load_slate_data("20250102", [])) == ["date"]


def test_a_slate_of_a_day_without_files_has_empty_frames(loader):
    slate = loader.load_slate_data("20250601")
    assert all(slate[name].empty for name in slate if name != "date")


def test_a_slate_takes_every_file_of_the_day(storage, loader):
    storage.save(pd.DataFrame({"player": ["late"]}), "dfs_salaries", "late_20250102")
    assert "late" in list(loader.load_slate_data("20250102")["dfs_salaries"]["player"])


def test_historical_data_is_of_both_days_and_those_between(loader, storage, assert_same):
    data = loader.load_historical_data("20250101", "20250102")
    assert list(data) == ["dfs_salaries", "schedule", "betting_odds", "injuries", "box_scores"]
    parts = [pd.read_parquet(path) for path in storage.files("box_scores")[:2]]
    assert_same(data["box_scores"], pd.concat(parts, ignore_index=True))
    assert_same(data["injuries"], pd.DataFrame())
    assert len(loader.load_historical_data("20250101", "20250103")["schedule"]) == 12
    assert list(loader.load_historical_data("20250101", "20250103", ["schedule"])) == ["schedule"]


@pytest.mark.parametrize(("start", "end"), [(None, "20250101"), ("20250101", None)])
def test_a_range_of_historical_data_needs_both_ends(loader, start, end):
    with pytest.raises(InputError, match=r"_date None is no date"):
        loader.load_historical_data(start, end)


def test_bad_arguments_are_told_in_one_sentence(loader, empty):
    with pytest.raises(InputError, match="start_date 20250103 is after end_date 20250101; swap"):
        loader.load_historical_data("20250103", "20250101")
    with pytest.raises(InputError, match="date 'today' is no date"):
        loader.load_slate_data("today")
    with pytest.raises(InputError, match=r"data_types is 'schedule'; give a list, \['schedule'\]"):
        loader.load_slate_data("20250101", "schedule")
    with pytest.raises(InputError, match=r"unknown data type 'schedul'.*did you mean 'schedule'"):
        loader.load_historical_data("20250101", "20250101", ["schedul"])
    with pytest.raises(StorageError, match="does not exist"):
        HistoricalDataLoader(ParquetStorage(empty.base_dir / "none")).load_slate_data("20250101")


def test_logs_start_with_a_date_and_end_before_one(loader):
    logs = loader.load_historical_player_logs("20250102", "20250103")
    assert list(logs["gameDate"].unique()) == [pd.Timestamp("20250102")]
    assert list(logs["points"]) == [12, 15, 18, 21]
    assert list(logs.index) == [0, 1, 2, 3]


def test_logs_need_an_end(loader):
    with pytest.raises(InputError, match="end_date is required: only games before it are loaded"):
        loader.load_historical_player_logs()
    with pytest.raises(InputError, match="end_date is required"):
        loader.load_historical_player_logs("20250101")


def test_logs_of_a_range_turned_round_are_refused_and_of_an_empty_one_are_empty(loader):
    with pytest.raises(InputError, match="is after end_date"):
        loader.load_historical_player_logs("20250103", "20250102")
    logs = loader.load_historical_player_logs("20250102", "20250102")
    assert logs.empty
    assert logs["gameDate"].dtype.kind == "M"


@pytest.mark.parametrize(
    "name", ["20240601", "20250109", "20250110", "20990101", "undated", "20250101_to_20250131"]
)
def test_rows_decide_what_is_before_the_end_whatever_their_file_is_called(empty, name):
    logs = logs_of(empty, ["20250109", "20250110", "20250111", "20231231"], name=name)
    assert list(logs["row"]) == [0]


def test_games_on_the_eve_at_night_are_in_and_at_midnight_out(empty):
    times = ["2025-01-09 23:59:59.999999", "2025-01-10 00:00", "2024-01-01 00:00"]
    logs = logs_of(empty, [pd.Timestamp(time) for time in times])
    assert list(logs["row"]) == [0, 2]


@pytest.mark.parametrize(
    ("end", "seasons", "start"),
    [
        ("20250115", 1, "20241001"),
        ("20250115", 2, "20231001"),
        ("20250115", 3, "20221001"),
        ("20240930", 2, "20221001"),
        ("20241001", 2, "20231001"),
        ("20241231", 1, "20241001"),
        ("20241001", 1, "20241001"),
        ("20240930", 1, "20231001"),
    ],
)
def test_without_a_start_logs_begin_with_a_season(empty, end, seasons, start):
    assert season_start(end, seasons) == start
    first = pd.Timestamp(start)
    storage = empty
    dates = [first - pd.Timedelta(days=1), first, pd.Timestamp(end) - pd.Timedelta(days=1)]
    storage.save(pd.DataFrame({"gameDate": dates, "row": [0, 1, 2]}), "box_scores", "20240101")
    logs = HistoricalDataLoader(storage).load_historical_player_logs(None, end, seasons)
    expected = [row for row in (1, 2) if pd.Timestamp(start) <= dates[row] < pd.Timestamp(end)]
    assert list(logs["row"]) == expected


@pytest.mark.parametrize("seasons", [0, -1, 1.5, True, "2", None])
def test_seasons_are_a_whole_number_of_at_least_one(loader, seasons):
    with pytest.raises(InputError, match=r"num_seasons is .*; it must be an integer of at least 1"):
        loader.load_historical_player_logs(end_date="20250101", num_seasons=seasons)


DAYS = [pd.Timestamp("2025-01-08"), pd.Timestamp("2025-01-09"), pd.Timestamp("2025-01-10")]


@pytest.mark.parametrize(
    "dates",
    [
        [f"{day:%Y%m%d}" for day in DAYS],
        [f"{day:%Y-%m-%d}" for day in DAYS],
        [f" {day:%Y%m%d} " for day in DAYS],
        ["20250108", "2025-01-09", "2025-01-10T19:30:00"],
        ["20250108T00", "2025-01-09 00:00:00.000000000", "20250110 1930"],
        [f"{day:%Y-%m-%d}T00:00:00-05:00" for day in DAYS],
        ["2025-01-08T00:00:00Z", "2025-01-09T00:00:00+01:00", "20250110"],
        [int(f"{day:%Y%m%d}") for day in DAYS],
        np.array([int(f"{day:%Y%m%d}") for day in DAYS], dtype="int32"),
        [float(f"{day:%Y%m%d}") for day in DAYS],
        pd.array([int(f"{day:%Y%m%d}") for day in DAYS], dtype="Int64"),
        [day.date() for day in DAYS],
        pd.DatetimeIndex(DAYS).as_unit("ns"),
        pd.DatetimeIndex(DAYS).as_unit("s"),
        pd.DatetimeIndex(DAYS, tz="America/New_York"),
        pd.Categorical([f"{day:%Y%m%d}" for day in DAYS]),
        pd.Categorical([int(f"{day:%Y%m%d}") for day in DAYS]),
        pd.Categorical(DAYS),
        pd.array([f"{day:%Y%m%d}" for day in DAYS], dtype="string"),
        pd.array([day.date() for day in DAYS], dtype="date32[pyarrow]"),
        pd.array(DAYS, dtype="timestamp[us][pyarrow]"),
    ],
    ids=lambda dates: f"{getattr(dates, 'dtype', type(dates[0]).__name__)}",
)
def test_game_dates_of_every_kind_become_datetimes(empty, dates):
    logs = logs_of(empty, dates)
    assert list(logs["row"]) == [0, 1]
    assert isinstance(logs["gameDate"].dtype, np.dtype)
    assert list(logs["gameDate"]) == DAYS[:2]


@pytest.mark.parametrize(
    "dates",
    [
        ["20250108", None, "20250109"],
        [20250108.0, None, 20250109.0],
        pd.array([20250108, None, 20250109], dtype="Int64"),
        [dt.date(2025, 1, 8), None, dt.date(2025, 1, 9)],
        pd.DatetimeIndex(["2025-01-08", None, "2025-01-09"]),
        pd.DatetimeIndex(["2025-01-08", None, "2025-01-09"], tz="UTC"),
        pd.Categorical(["20250108", None, "20250109"]),
        pd.Categorical([20250108, None, 20250109]),
        pd.Categorical(pd.DatetimeIndex(["2025-01-08", None, "2025-01-09"])),
    ],
    ids=lambda dates: f"{getattr(dates, 'dtype', type(dates[0]).__name__)}",
)
def test_rows_without_a_date_are_left_out_with_a_warning(empty, dates):
    with pytest.warns(FeedrateWarning, match=f"1 of 3 {NULLS_LEFT_OUT}"):
        logs = logs_of(empty, dates)
    assert list(logs["row"]) == [0, 2]


def test_a_column_of_nothing_but_nulls_leaves_no_rows(empty):
    with pytest.warns(FeedrateWarning, match=f"2 of 2 {NULLS_LEFT_OUT}"):
        assert logs_of(empty, [None, None]).empty


def test_a_column_that_is_a_number_in_one_file_and_text_in_another_is_read(empty):
    empty.save(pd.DataFrame({"gameDate": ["20250108"], "row": [7]}), "box_scores", "20250108")
    with pytest.warns(FeedrateWarning, match=f"1 of 3 {NULLS_LEFT_OUT}"):
        logs = logs_of(empty, [20250109.0, None], name="20250109")
    assert list(logs["gameDate"]) == DAYS[:2]


@pytest.mark.parametrize(
    "dates",
    [
        ["soon"],
        ["20250230"],
        ["2025-01"],
        [2025],
        [1],
        [20250101.5],
        [True],
        ["20250101", "2025-01-32"],
        [{"day": 1}],
    ],
)
def test_values_that_are_no_dates_are_an_error_that_names_the_column(empty, dates):
    with pytest.raises(ColumnError, match="column 'gameDate' has a value that is no date"):
        logs_of(empty, dates)


def test_box_scores_without_game_dates_are_an_error_that_names_the_columns(empty):
    empty.save(pd.DataFrame({"date": ["20250101"], "row": [1]}), "box_scores", "20250101")
    with pytest.raises(ColumnError, match=r"box_scores has no column 'gameDate'.*are: date, row"):
        HistoricalDataLoader(empty).load_historical_player_logs(end_date="20250102")


@pytest.mark.parametrize("loader", [HistoricalDataLoader, OptimizedHistoricalDataLoader])
def test_without_box_scores_logs_are_empty_and_what_there_is_is_told(empty, loader):
    with pytest.warns(FeedrateWarning, match=r"has no box_scores.* its data types are: none\. "):
        assert loader(empty).load_historical_player_logs(end_date="20250102").empty
    for name in ("prices", "trades"):
        empty.save(pd.DataFrame({"x": [1]}), name, "20250101")
    with pytest.warns(FeedrateWarning, match=r"are: prices, trades\. load_historical_data"):
        loader(empty).load_historical_player_logs(end_date="20250102")


def test_files_without_rows_give_logs_without_rows(empty):
    logs = logs_of(empty, pd.Series([], dtype="str"))
    assert list(logs.columns) == ["gameDate", "row"]
    assert logs.empty
    assert logs["gameDate"].dtype.kind == "M"


def test_slate_dates_are_sorted_distinct_and_within_both_ends(empty):
    dates = ["20250103", "20250101", "20250102", "20250101", "20241231", "20250104"]
    empty.save(pd.DataFrame({"gameDate": dates}), "schedule", "all")
    loader = HistoricalDataLoader(empty)
    assert loader.load_slate_dates("20250101", "20250103") == ["20250101", "20250102", "20250103"]
    assert loader.load_slate_dates("20250102", "20250102") == ["20250102"]
    assert loader.load_slate_dates("20260101", "20260102") == []


def test_slate_dates_count_games_late_on_the_last_day(empty):
    times = pd.to_datetime(["2025-01-03 23:30", "2025-01-04 00:00"]).tz_localize("US/Eastern")
    empty.save(pd.DataFrame({"gameDate": times}), "schedule", "all")
    assert HistoricalDataLoader(empty).load_slate_dates("20250101", "20250103") == ["20250103"]


def test_slate_dates_without_a_schedule_are_none(empty):
    assert HistoricalDataLoader(empty).load_slate_dates("20250101", "20250103") == []


def test_slate_dates_need_the_column_and_a_range(storage, empty):
    loader = HistoricalDataLoader(storage)
    with pytest.raises(InputError, match="is after end_date"):
        loader.load_slate_dates("20250103", "20250101")
    empty.save(pd.DataFrame({"date": ["20250101"]}), "schedule", "20250101")
    with pytest.raises(ColumnError, match="no file has a column 'gameDate'; the columns are: date"):
        HistoricalDataLoader(empty).load_slate_dates("20250101", "20250103")


def test_schedule_rows_without_a_date_are_left_out_with_a_warning(empty):
    empty.save(pd.DataFrame({"gameDate": ["20250101", None]}), "schedule", "20250101")
    with pytest.warns(FeedrateWarning, match="1 of 2 rows of schedule have no gameDate"):
        assert HistoricalDataLoader(empty).load_slate_dates("20250101", "20250103") == ["20250101"]


def test_no_warning_is_given_without_reason(loader):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loader.load_slate_data("20250101")
        loader.load_historical_player_logs(end_date="20250103")
        loader.load_slate_dates("20250101", "20250103")


@pytest.mark.parametrize(
    "texts",
    [
        ["20250101", " 20250102 ", "20241231"],
        ["16771231", "20250101"],
        ["16780101"],
        ["22611231"],
        ["22620101", "99991231", "00010101"],
        ["20250230", "20250101"],
        ["2025-01-01", "20250102"],
    ],
)
def test_texts_of_eight_digits_are_the_datetimes_that_pandas_parses(texts):
    column = pd.Series(texts, dtype="str")
    try:
        expected = _text_to_datetimes(column)
    except ValueError:
        with pytest.raises(ColumnError):
            to_datetimes(column, "day")
    else:
        pd.testing.assert_series_equal(to_datetimes(column, "day"), expected, check_names=False)


@pytest.mark.parametrize("unit", ["s", "us", "ns"])
@pytest.mark.parametrize("end", ["20250103", "22620101", "99991231"])
def test_any_end_leaves_the_rows_before_it(tmp_path, unit, end):
    days = pd.to_datetime(["2025-01-01", "2025-01-02", "2025-01-03"]).as_unit(unit)
    storage = ParquetStorage(tmp_path)
    storage.save(pd.DataFrame({"gameDate": days, "n": [1, 2, 3]}), "box_scores", "20250101")
    for make in (HistoricalDataLoader, OptimizedHistoricalDataLoader):
        logs = make(storage).load_historical_player_logs("16000101", end)
        assert logs["n"].tolist() == ([1, 2] if end == "20250103" else [1, 2, 3])
