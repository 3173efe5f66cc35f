"""Player logs are the original's, whichever files need not be read for them."""

import datetime as dt
import os
import pickle
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feedrate.loaders.base.errors import (
    ColumnError,
    FeedrateWarning,
    ParquetFileError,
    SchemaError,
)
from feedrate.loaders.frames import engine
from feedrate.loaders.frames import reader as frames
from feedrate.loaders.historical_loader import HistoricalDataLoader
from feedrate.loaders.optimized_historical_loader import OptimizedHistoricalDataLoader
from feedrate.loaders.parquet import pruning
from feedrate.loaders.parquet.pruning import Days, Pruner, days_of_text
from feedrate.loaders.storage import ParquetStorage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

START = dt.date(2025, 1, 1)
ROWS = 3


def day(number):
    return START + dt.timedelta(days=int(number))


DATES = {
    "text": lambda days: pa.array([None if d is None else f"{d:%Y%m%d}" for d in days], "string"),
    "ISO text": lambda days: pa.array([d and d.isoformat() for d in days], "string"),
    "ISO text with a time": lambda days: pa.array(
        [d and f"{d}T19:30:00" for d in days], "large_string"
    ),
    "integers": lambda days: pa.array([d and int(f"{d:%Y%m%d}") for d in days], "int64"),
    "short integers": lambda days: pa.array([d and int(f"{d:%Y%m%d}") for d in days], "int32"),
    "dates": lambda days: pa.array(days, "date32"),
    "seconds": lambda days: pa.array(days, "date32").cast(pa.timestamp("s")),
    "milliseconds": lambda days: pa.array(days, "date32").cast(pa.timestamp("ms")),
    "nanoseconds": lambda days: pa.array(days, "date32").cast(pa.timestamp("ns")),
    "zoned": lambda days: pa.array(days, "date32").cast(pa.timestamp("us", "Asia/Tokyo")),
    "floats": lambda days: pa.array([d and float(f"{d:%Y%m%d}") for d in days], "float64"),
    "categories": lambda days: DATES["text"](days).dictionary_encode(),
}
PLAIN = [name for name in DATES if name not in {"floats", "categories"}]


def write(storage, name, days, dates="text", columns=None, **options):
    """A file of box scores, one row a day."""
    table = {"gameDate": DATES[dates](days), "points": pa.array(range(len(days)), "int64")}
    path = storage.base_dir / "box_scores" / f"{name}.parquet"
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(table | (columns or {})), path, **options)
    return path


def daily(storage, count, dates="text", **options):
    """Files of one day each."""
    return [write(storage, f"{n:02}", [day(n)] * ROWS, dates, **options) for n in range(count)]


@pytest.fixture
def box_scores(tmp_path):
    return ParquetStorage(tmp_path)


@pytest.fixture
def read(monkeypatch):
    """The names of the files that frames are made of, since it was cleared."""
    names = []
    load = frames.FrameReader.load

    def noted(self, paths, *arguments, **options):
        paths = list(paths)
        names.extend(Path(path).stem for path in paths)
        return load(self, paths, *arguments, **options)

    monkeypatch.setattr(frames.FrameReader, "load", noted)
    return names


def loader_of(storage, **options):
    return OptimizedHistoricalDataLoader(
        storage, **{"loader_type": "pytorch", "num_workers": 0, "profile": None} | options
    )


def check(storage, start, end, assert_same, loader=None):
    """Compare the logs of a range with the original's, warnings included."""
    got, right = (
        _logs_and_warnings(one, start, end)
        for one in (loader or loader_of(storage), HistoricalDataLoader(storage))
    )
    assert_same(got[0], right[0])
    assert got[1] == right[1]


def _logs_and_warnings(loader, start, end):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        logs = loader.load_historical_player_logs(start, end)
    return logs, [str(one.message) for one in told if "no gameDate" in str(one.message)]


@pytest.mark.parametrize("dates", PLAIN)
def test_files_of_other_days_are_not_read(box_scores, read, dates, assert_same):
    daily(box_scores, 10, dates)
    check(box_scores, day(4), day(6), assert_same)
    near = 1 if dates == "zoned" else 0  # days by a wall clock
    assert read == ["00", *(f"{n:02}" for n in range(4 - near, 6 + near))]


@pytest.mark.parametrize("cache", ["none", "memory", "disk"])
def test_each_call_reads_what_it_needs_whatever_came_before(
    box_scores, cache, assert_same, tmp_path, monkeypatch
):
    monkeypatch.setenv("FEEDRATE_HOME", str(tmp_path / "home"))
    daily(box_scores, 10)
    loader = loader_of(box_scores, enable_cache=cache)
    for first, last in ((4, 6), (0, 10), (4, 6), (8, 20), (5, 5), (40, 50)):
        check(box_scores, day(first), day(last), assert_same, loader)


def test_a_second_call_reads_no_footer_of_files_that_are_as_they_were(
    box_scores, assert_same, monkeypatch
):
    daily(box_scores, 10)
    loader = loader_of(box_scores, enable_cache="memory")
    check(box_scores, day(4), day(6), assert_same, loader)
    with monkeypatch.context() as patch:
        patch.setattr(pruning.Footers, "open", None)
        check(box_scores, day(4), day(6), assert_same, loader)
    write(box_scores, "09", [day(5)] * ROWS)  # which was left out before
    check(box_scores, day(4), day(6), assert_same, loader)
    (box_scores.base_dir / "box_scores" / "05.parquet").unlink()
    check(box_scores, day(4), day(6), assert_same, loader)


@pytest.fixture
def groups_read(monkeypatch):
    """The row groups that Arrow decoded of each file, None for all, since it was cleared."""
    found = {}
    checked = engine._checked_table

    def noted(file, *arguments):
        found[Path(file.path).stem] = file.groups
        return checked(file, *arguments)

    monkeypatch.setattr(engine, "_checked_table", noted)
    return found


def seasons(storage, dates="text", **options):
    """Three files of ten days, of which each row group has two."""
    for number in range(3):
        days = [day(10 * number + offset) for offset in range(10)]
        write(storage, str(number), days, dates, row_group_size=2, **options)


@pytest.mark.parametrize("dates", PLAIN)
@pytest.mark.parametrize("workers", [0, 2])
def test_only_row_groups_that_may_have_wanted_rows_are_read(
    box_scores, groups_read, dates, workers, assert_same
):
    seasons(box_scores, dates)
    loader = loader_of(box_scores, num_workers=workers, enable_cache="none")
    check(box_scores, day(14), day(15), assert_same, loader)
    near = (1, 2) if dates == "zoned" else (2,)  # days by a wall clock
    assert groups_read == {"0": (0,), "1": near}  # the first file says what the columns are
    groups_read.clear()
    check(box_scores, day(5), day(21), assert_same, loader)
    assert groups_read["0"] == (2, 3, 4)
    assert groups_read["2"] == (0,)


def test_row_groups_of_which_rows_decide_on_others_are_read(box_scores, groups_read, assert_same):
    with_nulls = {"n": pa.array([1, None] * 5)}
    lists = {"ids": pa.array([[1, 2], [None, 3]] * 5)}
    for columns in (with_nulls, lists):
        seasons(box_scores, columns=columns)
        groups_read.clear()
        check(box_scores, day(14), day(15), assert_same, loader_of(box_scores, enable_cache="none"))
        assert set(groups_read.values()) == {None}


def test_a_cache_keeps_whole_files_once_their_parts_would_be_more(
    box_scores, groups_read, assert_same
):
    seasons(box_scores)
    loader = loader_of(box_scores, enable_cache="memory")
    seen = []
    for _ in range(7):
        groups_read.clear()
        check(box_scores, day(12), day(16), assert_same, loader)
        seen.append(groups_read.get("1", "cached"))
    assert seen == [(1, 2)] * 2 + [None] + ["cached"] * 4
    check(box_scores, day(0), day(30), assert_same, loader)


def test_rows_of_other_row_groups_count_where_rows_without_a_date_are_told(box_scores, assert_same):
    seasons(box_scores)
    write(box_scores, "3", [day(30), None, None])
    for cache in ("none", "memory"):
        loader = loader_of(box_scores, enable_cache=cache)
        for _ in range(6):
            check(box_scores, day(12), day(16), assert_same, loader)


def test_row_groups_of_a_file_that_was_replaced_are_not_taken_for_the_new_ones(
    box_scores, assert_same
):
    seasons(box_scores)
    loader = loader_of(box_scores, enable_cache="none")
    check(box_scores, day(12), day(16), assert_same, loader)
    write(box_scores, "1", [day(15), day(14), day(13)])
    check(box_scores, day(12), day(16), assert_same, loader)
    write(box_scores, "1", [day(offset) for offset in range(19, 9, -1)], row_group_size=2)
    check(box_scores, day(12), day(16), assert_same, loader)


@pytest.mark.parametrize(
    ("dates", "columns", "options"),
    [
        ("floats", {}, {}),
        ("categories", {}, {}),
        ("text", {"team": pa.array(["a", "b", "a"]).dictionary_encode()}, {}),
        ("text", {}, {"write_statistics": False}),
        ("text", {}, {"write_statistics": ["points"]}),
        ("text", {}, {"write_statistics": ["gameDate"]}),
        ("seconds", {}, {"use_deprecated_int96_timestamps": True}),
    ],
    ids=["floats", "categories", "others", "without", "of points", "of dates", "INT96"],
)
def test_files_that_do_not_prove_it_are_read(
    box_scores, read, dates, columns, options, assert_same
):
    daily(box_scores, 5, dates, columns=columns, **options)
    check(box_scores, day(2), day(3), assert_same)
    assert read == ["00", "01", "02", "03", "04"]


@pytest.mark.parametrize(
    "kind", ["int64", "int8", "uint16", "bool", "float64", "string", "date32", "Int64"]
)
def test_a_file_whose_nulls_decide_on_a_dtype_is_read(box_scores, read, kind, assert_same):
    values = {"string": ["a", None, "b"], "date32": [START, None, START]}.get(kind, [1, None, 0])
    for number in range(5):
        column = values if number == 3 else [value for value in values if value is not None] * 2
        days = [day(number)] * len(column)
        table = {
            "gameDate": [f"{one:%Y%m%d}" for one in days],
            "x": pd.array(column, "Int64") if kind == "Int64" else column,
        }
        if kind == "Int64":
            pd.DataFrame(table).to_parquet(write(box_scores, str(number), days))
            continue
        table["x"] = pa.array(column, kind) if kind != "bool" else pa.array(column).cast("bool")
        pq.write_table(pa.table(table), write(box_scores, str(number), days))
    check(box_scores, day(1), day(2), assert_same)
    decides = kind in {"int64", "int8", "uint16", "bool"}
    assert read == (["0", "1", "3"] if decides else ["0", "1"])


def test_a_file_with_columns_of_its_own_is_read_and_differences_are_told_as_before(
    box_scores, read, assert_same
):
    paths = daily(box_scores, 6)
    pq.write_table(pq.read_table(paths[4]).append_column("bonus", [[1, 2, 3]]), paths[4])
    with pytest.warns(FeedrateWarning, match=r"'bonus' is missing in .*00\.parquet but number in "):
        logs = loader_of(box_scores).load_historical_player_logs(day(2), day(3))
    assert read == ["00", "02", "04"]
    assert_same(logs, HistoricalDataLoader(box_scores).load_historical_player_logs(day(2), day(3)))
    with pytest.raises(SchemaError, match="bonus"):
        loader_of(box_scores, schema="strict").load_historical_player_logs(day(2), day(3))


def test_rows_without_a_date_are_counted_among_all_rows(box_scores, read, assert_same):
    daily(box_scores, 6)
    write(box_scores, "05", [day(5), None, None])
    check(box_scores, day(2), day(3), assert_same)
    assert read == ["00", "02", "05"]
    with pytest.warns(FeedrateWarning, match="2 of 18 rows of box_scores have no gameDate"):
        loader_of(box_scores).load_historical_player_logs(day(2), day(3))


def test_text_that_is_no_date_is_an_error_where_it_is_an_extreme(box_scores):
    daily(box_scores, 3)
    for text in ("soon", "20250230", "2025-1-1"):
        table = pa.table({"gameDate": [text], "points": [1]})
        pq.write_table(table, box_scores.base_dir / "box_scores" / "03.parquet")
        with pytest.raises(ColumnError, match="has a value that is no date"):
            loader_of(box_scores).load_historical_player_logs(day(1), day(2))


def test_a_file_that_cannot_be_opened_is_an_error_or_skipped_wherever_its_days_are(
    box_scores, assert_same
):
    paths = daily(box_scores, 5)
    paths[4].write_bytes(paths[4].read_bytes()[:-20])
    with pytest.raises(ParquetFileError, match=r"04\.parquet"):
        loader_of(box_scores).load_historical_player_logs(day(1), day(2))
    loader = loader_of(box_scores, on_error="skip")
    logs = loader.load_historical_player_logs(day(1), day(2))
    assert list(loader.stats()["skipped"]) == [str(paths[4])]
    paths[4].unlink()
    assert_same(logs, HistoricalDataLoader(box_scores).load_historical_player_logs(day(1), day(2)))


def test_a_file_replaced_after_its_footer_was_read_is_read_as_it_is_then(box_scores, monkeypatch):
    daily(box_scores, 5)
    within = Pruner.within

    def replaced_after(self, *arguments, **options):
        found = within(self, *arguments, **options)
        write(box_scores, "02", [day(2)] * 7, "dates")
        return found

    monkeypatch.setattr(Pruner, "within", replaced_after)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FeedrateWarning)
        logs = loader_of(box_scores).load_historical_player_logs(day(2), day(3))
    assert len(logs) == 7


def test_the_original_backend_reads_everything(box_scores, read, assert_same):
    daily(box_scores, 4)
    check(box_scores, day(1), day(2), assert_same, loader_of(box_scores, loader_type="original"))
    assert read == ["00", "01", "02", "03"]


def test_a_loader_that_has_left_out_files_can_be_pickled(box_scores, assert_same):
    daily(box_scores, 4)
    loader = loader_of(box_scores)
    check(box_scores, day(1), day(2), assert_same, loader)
    check(box_scores, day(1), day(2), assert_same, pickle.loads(pickle.dumps(loader)))  # noqa: S301 - made in this line


@pytest.mark.parametrize(
    ("low", "high", "days"),
    [
        ("20250105", "20250105", (dt.date(2025, 1, 5), dt.date(2025, 1, 5))),
        ("20231020", "20240410", (dt.date(2023, 10, 20), dt.date(2024, 12, 31))),
        ("2023-10-20", "2024-04-10", (dt.date(2023, 1, 1), dt.date(2024, 4, 10))),
        ("2025-01-05T10:00", "2025-01-05 11", (dt.date(2025, 1, 5), dt.date(2025, 1, 5))),
        ("20250105", "2025-01-06", None),
        ("20250230", "20250301", None),
        ("2025010", "20250301", None),
        (" 20250105", "20250301", None),
        ("２０２５０１０５", "20250301", None),  # noqa: RUF001 - digits that are not ASCII
        ("2025", "2026", None),
    ],
)
def test_days_between_texts(low, high, days):
    assert days_of_text(low, high) == (None if days is None else Days(*days))


def test_dates_of_the_other_form_between_the_extremes_are_found(box_scores, assert_same):
    daily(box_scores, 2)
    forms = ["20241231", "2025-12-30", "20250109"], ["2024-12-31", "20240101", "2025-01-09"]
    for number, texts in enumerate(forms, 2):
        table = pa.table({"gameDate": texts, "points": [1, 2, 3]})
        pq.write_table(table, box_scores.base_dir / "box_scores" / f"{number:02}.parquet")
    for wanted in (dt.date(2025, 12, 30), dt.date(2024, 1, 1)):
        check(box_scores, wanted, wanted + dt.timedelta(days=1), assert_same)
        logs = loader_of(box_scores).load_historical_player_logs(
            wanted, wanted + dt.timedelta(days=1)
        )
        assert len(logs) == 1


@pytest.mark.parametrize("first", [True, False])
def test_values_that_look_like_a_column_chunk_prove_nothing(box_scores, read, first, assert_same):
    statistics = "<6\x00(\x0820240101\x18\x0820240101"
    forged = f"\x19\x18\x08gameDate\x15\x02\x16\x06\x16\x0a\x16\x0a&\x08{statistics}"
    for number in range(4):
        path = write(box_scores, str(number), [day(number)] * ROWS, columns={"a": [forged] * ROWS})
        if first:
            pq.write_table(pq.read_table(path).select(["a", "gameDate", "points"]), path)
    check(box_scores, day(2), day(3), assert_same)
    assert read == (["0", "1", "2", "3"] if first else ["0", "2"])


def test_a_name_that_looks_like_the_path_of_the_dates_proves_nothing(box_scores, read, assert_same):
    for number in range(3):
        table = pa.table({"\x19\x18\x08gameDate": ["20250101"], "gameDate": ["20250103"]})
        pq.write_table(table, write(box_scores, str(number), []))
    check(box_scores, day(2), day(3), assert_same)
    assert read == ["0", "1", "2"]


def test_many_columns_and_any_names_are_told_apart(box_scores, read, assert_same):
    names = [f"column {'x' * (n % 300)} {n}" for n in range(600)]
    names += ["\x15", "\x18", "ünïcode", "a.b", "x" * 21, "x" * 0x15 * 128]
    columns = {name: np.arange(ROWS) for name in names}
    for number in range(4):
        write(box_scores, str(number), [day(number)] * ROWS, columns=columns)
    check(box_scores, day(2), day(3), assert_same)
    assert read == ["0", "2"]


# --- any files ---------------------------------------------------------------------------------

COLUMNS = {
    "int64": st.integers(-5, 5),
    "uint8": st.integers(0, 5),
    "bool": st.booleans(),
    "float32": st.sampled_from([0.5, float("nan")]),
    "string": st.sampled_from(["a", "", "\x19\x18\x01x\x15"]),
    "date32": st.dates(dt.date(2020, 1, 1), dt.date(2030, 1, 1)),
    "timestamp[ms]": st.datetimes(dt.datetime(2020, 1, 1), dt.datetime(2030, 1, 1)).map(  # noqa: DTZ001 - without a zone
        lambda at: at.replace(microsecond=0)
    ),
    "null": st.none(),
    "list": st.lists(st.integers(0, 3), max_size=2),
    "category": st.sampled_from(["u", "v"]),
}
RANGES = st.tuples(st.integers(-2, 45), st.integers(0, 20))  # the first day, and how many
ARROW = {"list": pa.list_(pa.int64()), "timestamp[ms]": pa.timestamp("ms")}


@st.composite
def files(draw):
    """Files of some schemas, each of a few days of its own."""
    schemas = draw(st.lists(_schemas(), min_size=1, max_size=2))
    found = []
    for number in range(draw(st.integers(1, 7))):
        dates, kinds = draw(st.sampled_from(schemas))
        first, span, rows = draw(st.tuples(*(st.integers(0, high) for high in (40, 3, 4))))
        missing = draw(st.sampled_from([False] * 6 + [True]))
        days = [
            None if missing and not row else day(first + draw(st.integers(0, span)))
            for row in range(rows)
        ]
        table = {"gameDate": DATES[dates](days)} if dates else {}
        for name, kind in kinds.items():
            nulls = draw(st.sampled_from([False] * 5 + [True]))
            values = st.none() | COLUMNS[kind] if nulls else COLUMNS[kind]
            column = draw(st.lists(values, min_size=rows, max_size=rows))
            table[name] = (
                pa.array(column, "string").dictionary_encode()
                if kind == "category"
                else pa.array(column, ARROW.get(kind, kind))
            )
        options = {
            "row_group_size": draw(st.sampled_from([1, 2, 100])),
            "write_statistics": draw(st.sampled_from([True] * 6 + [False])),
            "store_schema": draw(st.sampled_from([True, True, False])),
        }
        found.append((number, pa.table(table), options))
    return found


@st.composite
def _schemas(draw):
    dates = draw(st.sampled_from([*DATES, *PLAIN, None]))
    names = draw(st.lists(st.sampled_from("xyz"), unique=True, min_size=1))
    return dates, {name: draw(st.sampled_from(sorted(COLUMNS))) for name in names}


@settings(
    max_examples=int(os.environ.get("PRUNING_EXAMPLES", "30")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    files=files(),
    ranges=st.lists(RANGES, max_size=3, min_size=1),
    cache=st.sampled_from(["none", "memory"]),
)
def test_logs_of_any_files_and_range_are_the_originals(files, ranges, cache, assert_same):
    with TemporaryDirectory() as folder:
        storage = ParquetStorage(folder)
        (storage.base_dir / "box_scores").mkdir()
        for number, table, options in files:
            path = storage.base_dir / "box_scores" / f"{number}.parquet"
            pq.write_table(table, path, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FeedrateWarning)
            loader = loader_of(storage, enable_cache=cache)
            for first, length in ranges:
                got, right = (
                    logs_or_error(one, day(first), day(first + length))
                    for one in (loader, HistoricalDataLoader(storage))
                )
                if isinstance(right, str):
                    assert got == right
                else:
                    assert_same(got, right)


def logs_or_error(loader, start, end):
    try:
        return loader.load_historical_player_logs(start, end)
    except ColumnError as error:
        return str(error)
