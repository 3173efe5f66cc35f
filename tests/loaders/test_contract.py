"""One contract for every backend, cache and number of workers: what the original gives, exactly."""

import io
import logging
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feedrate.loaders.base.errors import (
    ColumnError,
    FeedrateWarning,
    InputError,
    ParquetFileError,
    SchemaError,
)
from feedrate.loaders.choosing.registry import find_backend
from feedrate.loaders.historical_loader import HistoricalDataLoader
from feedrate.loaders.optimized_historical_loader import OptimizedHistoricalDataLoader
from feedrate.loaders.storage import ParquetStorage

from .places import read_bytes, remove, write_bytes

PATIENCE_S = 60  # a child that answers at all answers soon; this only ends a failing test

COMBINATIONS = [
    ("original", "none", 0),
    ("original", "disk", 2),  # it has no settings, and drops these
    *(
        (backend, cache, workers)
        for backend in ("tensorflow", "pytorch")
        for cache, workers in (("none", 0), ("none", 2), ("memory", 2), ("disk", 0))
    ),
]


@pytest.fixture(params=COMBINATIONS, ids=lambda combination: "-".join(map(str, combination)))
def make(request):
    """Makes a loader of one backend, cache and number of workers."""
    return maker(*request.param)


def maker(backend, cache, workers):
    """A function that makes loaders of one backend, cache and number of workers."""
    if not find_backend(backend).installed:
        pytest.skip(f"{find_backend(backend).module} is not installed")

    def make_loader(storage, **options):
        return OptimizedHistoricalDataLoader(
            storage, backend, workers, enable_cache=cache, profile=None, **options
        )

    return make_loader


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Every layout and kind of column, without anything that would be warned about."""
    return fill_mixed(tmp_path_factory.mktemp("mixed"))


def fill_mixed(folder):
    """A storage of files of every layout and kind of column."""
    storage = ParquetStorage(folder)
    days = pd.date_range("2024-12-30", "2025-01-04")
    for number, day in enumerate(days):
        rows = 3 * (number + 1)
        frame = pd.DataFrame(
            {
                "gameDate": f"{day:%Y%m%d}",
                "player": [f"joueur №{row}" for row in range(rows)],
                "points": range(rows),
                "minutes": [None if row % 4 == 0 else row / 2 for row in range(rows)],
                "starter": [None if row % 5 == number else row % 2 == 0 for row in range(rows)],
                "rating": np.arange(rows, dtype="float32") / 3,
                "team": pd.Categorical([f"team {row % (number + 1)}" for row in range(rows)]),
                "tipoff": day.tz_localize("America/New_York").as_unit("us"),
                "played": pd.array([None, 1, 2] * (number + 1), dtype="Int64"),
                "born": [day.date()] * rows,
                "fouls": [[1, 2], [], None] * (number + 1),
            }
        )
        if number == 2:
            frame = frame[:0]
        spelled = day.strftime(
            ["%Y%m%d", "%Y/%m/%d", "%Y/%m/%d/game", "date=%Y-%m-%d/0"][number % 4]
        )
        path = storage.base_dir / "box_scores" / f"{spelled}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.drop(columns=["team", "fouls"]).to_parquet(path, row_group_size=2)
        for name, columns in (("schedule", ["gameDate", "team"]), ("injuries", ["team", "fouls"])):
            storage.save(frame[columns], name, f"{day:%Y%m%d}")
    return storage


CALLS = [
    ("load_slate_data", "20250102", ["injuries", "box_scores"]),
    ("load_slate_data", "20260101"),
    ("load_historical_data", "20241231", "20250102"),
    ("load_historical_data", "20240101", "20260101", ["box_scores"]),
    ("load_historical_player_logs", None, "20250103"),
    ("load_historical_player_logs", "20241231", "20250102"),
    ("load_historical_player_logs", "20260101", "20260102"),
    ("load_slate_dates", "20241231", "20250103"),
]


@pytest.fixture
def empty(tmp_path):
    """A storage without files."""
    return ParquetStorage(tmp_path)


@pytest.fixture(scope="module")
def expected(mixed):
    """What the original gives for each of `CALLS`."""
    original = HistoricalDataLoader(mixed)
    return [getattr(original, method)(*arguments) for method, *arguments in CALLS]


@pytest.fixture(scope="module")
def box_scores(mixed):
    """All files of a type, and what the original makes of them."""
    files = mixed.files("box_scores")
    return files, HistoricalDataLoader(mixed).load_files(files)


def test_every_method_gives_what_the_original_gives_again_and_again(
    make, mixed, expected, assert_same
):
    loader = make(mixed)
    for _ in range(2):
        for (method, *arguments), right in zip(CALLS, expected, strict=True):
            got = getattr(loader, method)(*arguments)
            if isinstance(right, pd.DataFrame):
                assert_same(got, right)
            elif isinstance(right, dict):
                assert_same_frames(got, right, assert_same)
            else:
                assert got == right


def assert_same_frames(got, expected, assert_same):
    assert list(got) == list(expected)
    for name, frame in expected.items():
        if isinstance(frame, str):
            assert got[name] == frame
        else:
            assert_same(got[name], frame)


def differing(storage):
    """Files whose columns differ in every way that has its own outcome in pandas."""
    tables = [
        {"a": [1, 2], "b": ["x", "y"], "c": [1.5, None], "d": pa.array([1, 2], "uint8"),
         "e": pa.array(["p", "q"]).dictionary_encode(), "f": [True, False], "g": ["1", "2"]},
        {"b": ["z"], "a": [2**53 + 1], "c": pa.nulls(1), "d": pa.array([-1], "int16"),
         "e": pa.array(["r"]).dictionary_encode(), "f": [None], "g": [3]},
        {"a": [None], "b": [None], "e": ["plain"], "f": [1], "h": [[1, 2]],
         "g": pa.array([1], pa.timestamp("us"))},
        {"c": pa.array([], "float64"), "a": pa.array([], "int64")},
    ]  # fmt: skip
    for number, columns in enumerate(tables):
        path = storage.base_dir / "box_scores" / f"2025010{number + 1}.parquet"
        write_bytes(path, as_parquet(pa.table(columns)))


def as_parquet(table):
    """The bytes of a file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def test_columns_that_differ_come_out_as_the_original_has_them(make, empty, assert_same):
    differing(empty)
    files = empty.files("box_scores")
    loader, original = make(empty), HistoricalDataLoader(empty)
    for subset in (files, files[:2], files[1:3], files[::-1], files[:1], [*files, files[0]]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FeedrateWarning)
            assert_same(loader.load_files(subset), original.load_files(subset))
            for columns in (["a", "b"], ["e"], ["h", "a"], ["g"]):
                if subset[0] == files[0] and len(subset) >= 4:
                    assert_same(
                        loader.load_files(subset, columns), original.load_files(subset, columns)
                    )


def test_a_column_that_differs_is_warned_about_once_naming_it_and_two_files(make, empty):
    first = empty.save(pd.DataFrame({"a": [1], "b": [1]}), "box_scores", "20250101")
    second = empty.save(pd.DataFrame({"a": ["x"], "b": [2.5]}), "box_scores", "20250102")
    third = empty.save(pd.DataFrame({"b": [3]}), "box_scores", "20250103")
    loader = make(empty)
    with pytest.warns(FeedrateWarning) as told:
        loader.load_files([first, second])
    loader.load_files([first, second])
    (warning,) = told
    assert f"column 'a' is number in {first} but text in {second}" in str(warning.message)
    loader.load_files([first, second, third])  # 'a' has been told about
    with pytest.warns(FeedrateWarning) as told:
        make(empty).load_files([first, third])
    (warning,) = told
    assert f"column 'a' is number in {first} but missing in {third}" in str(warning.message)


def test_a_strict_schema_makes_a_difference_an_error(make, empty):
    files = [
        empty.save(pd.DataFrame({"a": [1]}), "box_scores", "20250101"),
        empty.save(pd.DataFrame({"a": [None]}), "box_scores", "20250102"),
        empty.save(pd.DataFrame({"a": [1.5]}), "box_scores", "20250103"),
        empty.save(pd.DataFrame({"a": ["x"]}), "box_scores", "20250104"),
    ]
    loader = make(empty, schema="strict")
    assert len(loader.load_files(files[:3])) == 3
    with pytest.raises(
        SchemaError, match=r"column 'a' is number in .*01\.parquet but text in .*04"
    ):
        loader.load_files(files)


@pytest.mark.parametrize("data_type", ["box_scores", "injuries"])
def test_a_frame_is_the_callers_to_change_and_no_cache_notices(make, mixed, data_type, assert_same):
    loader = make(mixed)
    files = mixed.files(data_type)
    for subset in (files, files[:1]):
        expected = HistoricalDataLoader(mixed).load_files(subset)
        for _ in range(3):
            frame = loader.load_files(subset)
            assert_same(frame, expected)
            for name in expected:
                overwrite(frame, name)
            frame["new"] = 1


def overwrite(frame, name):
    """Write through pandas, and into the memory below its copy-on-write where that is numbers."""
    column = frame[name]
    if name == "fouls":
        frame[name].array[0] = "nothing"
        return
    frame.loc[0, name] = column.iloc[-1]
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "iufb":
        values = frame[name].to_numpy()
        values.flags.writeable = True
        values[:] = 1


def test_a_changed_file_is_read_again(make, storage, assert_same):
    loader, original = make(storage), HistoricalDataLoader(storage)
    files = storage.files("box_scores")
    # Paths as text: objects that have just been listed are those of the listing.
    names = [str(file) for file in files]
    loader.load_files(names)
    frame = pd.read_parquet(io.BytesIO(read_bytes(files[1])))
    frame["points"] += 1000
    storage.save(frame, "box_scores", "20250102")
    if isinstance(files[1], Path):
        status = files[1].stat()
        os.utime(files[1], ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
    assert_same(loader.load_files(names), original.load_files(names))
    remove(files[2])
    with pytest.raises(ParquetFileError, match="does not exist"):
        loader.load_files(names)


def test_a_new_file_is_read_beside_those_that_are_known(make, storage, assert_same):
    loader, original = make(storage), HistoricalDataLoader(storage)
    for days in (("20250101", "20250101"), ("20250101", "20250103"), ("20250102", "20250102")):
        assert_same_frames(
            loader.load_historical_data(*days), original.load_historical_data(*days), assert_same
        )


def test_columns_come_in_the_order_asked_for(make, storage, assert_same):
    loader, original = make(storage), HistoricalDataLoader(storage)
    files = storage.files("box_scores")
    for columns in (["points"], ["tipoff", "player"], ["player", "tipoff"], [], None):
        for _ in range(2):
            assert_same(loader.load_files(files, columns), original.load_files(files, columns))
    assert list(loader.load_files(files, ["tipoff", "player"]).columns) == ["tipoff", "player"]


def test_a_column_that_some_files_lack_is_missing_there(make, storage, assert_same):
    late = storage.save(pd.DataFrame({"bonus": [1], "player": ["new"]}), "box_scores", "20250104")
    files = storage.files("box_scores")
    assert files[-1] == late
    loader = make(storage)
    with pytest.warns(FeedrateWarning, match="column 'bonus' is missing in .* but number in"):
        frame = loader.load_files(files, ["player", "bonus"])
    expected = HistoricalDataLoader(storage).load_files(files, ["player", "bonus"])
    assert_same(frame, expected)
    assert list(expected["bonus"].isna()) == [True] * 12 + [False]


def test_a_column_that_no_file_has_is_an_error_that_names_those_there_are(make, storage):
    with pytest.raises(
        ColumnError, match="no file has a column 'goals'; the columns are: gameDate"
    ):
        make(storage).load_files(storage.files("box_scores"), ["points", "goals"])


@pytest.mark.filterwarnings("ignore::feedrate.loaders.base.errors.FeedrateWarning")
def test_what_pandas_makes_an_index_cannot_be_chosen_as_a_column(make, storage):
    frame = pd.DataFrame({"points": [1]}, index=pd.Index([7], name="row"))
    write_bytes(storage.base_dir / "box_scores" / "20250104.parquet", frame.to_parquet())
    files = storage.files("box_scores")
    assert "row" not in make(storage).load_files(files)
    with pytest.raises(
        ColumnError, match="column 'row' is in the files, but pandas makes it an in"
    ):
        make(storage).load_files(files, ["points", "row"])


def test_one_name_in_place_of_a_list_is_an_error_that_shows_the_list(make, storage):
    files = storage.files("box_scores")
    with pytest.raises(ColumnError, match=r"columns is 'points'; give a list, \['points'\]"):
        make(storage).load_files(files, "points")
    for path in (files[0], str(files[0])):
        with pytest.raises(
            InputError, match=r"the files are '.*01\.parquet'; give a list of paths"
        ):
            make(storage).load_files(path)


def test_paths_may_be_text_or_paths_of_any_iterable_and_repeat(make, storage, assert_same):
    files = storage.files("box_scores")
    expected = HistoricalDataLoader(storage).load_files([files[1], files[0], files[1]])
    loader = make(storage)
    assert_same(loader.load_files([files[1], files[0], files[1]]), expected)
    assert_same(loader.load_files([str(files[1]), files[0], str(files[1])]), expected)
    assert_same(loader.load_files(files[number] for number in (1, 0, 1)), expected)


def test_relative_paths_are_those_of_the_current_folder(make, storage, monkeypatch, assert_same):
    files = storage.files("box_scores")
    monkeypatch.chdir(files[0].parent)
    expected = HistoricalDataLoader(storage).load_files(files)
    assert_same(make(storage).load_files([file.name for file in files]), expected)


def test_no_files_give_an_empty_frame(make, storage, assert_same):
    assert_same(make(storage).load_files([]), pd.DataFrame())
    assert_same(make(storage).load_files([], ["a"]), pd.DataFrame())


def test_files_without_rows_keep_their_columns(make, empty, assert_same):
    frame = pd.DataFrame({"a": [1], "b": ["x"], "c": pd.Categorical(["u"]), "d": [True]})
    for day, part in (("20250101", frame[:0]), ("20250102", frame), ("20250103", frame[:0])):
        empty.save(part, "box_scores", day)
    files = empty.files("box_scores")
    loader, original = make(empty), HistoricalDataLoader(empty)
    for subset in (files, files[:1], files[::2]):
        for _ in range(2):
            assert_same(loader.load_files(subset), original.load_files(subset))


def spoil(path, how):
    whole = read_bytes(path)
    if how == "missing":
        remove(path)
    else:
        write_bytes(
            path,
            {
                "empty": b"",
                "tiny": b"PAR1",
                "truncated": whole[: len(whole) // 2],
                "not Parquet": b"gameDate,points\n" * 100,
                "footer damaged": whole[:-40] + b"\xff" * 32 + whole[-8:],
                "pages damaged": whole[:4] + b"\xff" * 96 + whole[100:],
                "notes that are no JSON": noted(whole, b'{"index\x02'),
                "notes that are no text": noted(whole, b'{"in\xff'),
                "notes without columns": noted(whole, b'{"index_columns": []}'),
                "a day far away": far_away(whole),
            }[how],
        )


def noted(file, note):
    """The file with other notes for pandas."""
    return as_parquet(pq.read_table(io.BytesIO(file)).replace_schema_metadata({b"pandas": note}))


def far_away(file):
    """The file with a column of days that Python's dates cannot tell."""
    table = pq.read_table(io.BytesIO(file))
    days = pa.array([18_000_000] * len(table), pa.int32()).cast(pa.date32())
    return as_parquet(table.append_column("day", days))


DAMAGES = {
    "missing": "does not exist",
    "empty": "it is empty",
    "tiny": "it is not a Parquet file, or its end is missing",
    "truncated": "it is not a Parquet file, or its end is missing",
    "not Parquet": "it is not a Parquet file, or its end is missing",
    "footer damaged": "",
    "pages damaged": "",
    "notes that are no JSON": "its stored schema for pandas is damaged (JSONDecodeError",
    "notes that are no text": "its stored schema for pandas is damaged (UnicodeDecodeError",
    "notes without columns": "its stored schema for pandas is damaged (KeyError: 'columns'",
    "a day far away": "it cannot be read (ValueError",
}


@pytest.mark.filterwarnings("ignore::feedrate.loaders.base.errors.FeedrateWarning")
@pytest.mark.parametrize("how", DAMAGES)
def test_a_file_that_cannot_be_read_is_an_error_that_says_why_or_is_skipped(
    make, storage, how, assert_same
):
    files = storage.files("box_scores")
    spoil(files[1], how)
    with pytest.raises(ParquetFileError) as caught:
        make(storage).load_files(files)
    assert caught.value.path == str(files[1])
    assert str(files[1]) in str(caught.value)
    assert DAMAGES[how] in caught.value.reason
    assert "\n" not in str(caught.value)
    loader = make(storage, on_error="skip")
    others = HistoricalDataLoader(storage).load_files(files[::2])
    for _ in range(2):
        assert_same(loader.load_files(files), others)
        assert list(loader.stats()["skipped"]) == [str(files[1])]


def test_of_several_files_that_cannot_be_read_the_first_is_named(make, storage):
    files = storage.files("box_scores")
    spoil(files[0], "truncated")
    spoil(files[2], "empty")
    with pytest.raises(ParquetFileError) as caught:
        make(storage).load_files(files[::-1])
    assert caught.value.path == str(files[2])


def test_a_folder_in_place_of_a_file_is_an_error_that_names_it(make, storage):
    for folder in (storage.base_dir / "box_scores", storage.base_dir):
        with pytest.raises(InputError, match="is a folder; name the files in it") as caught:
            make(storage).load_files([folder])
        assert str(folder) in str(caught.value)


def test_unreadable_files_may_be_skipped_and_are_named(make, storage, caplog, assert_same):
    files = storage.files("box_scores")
    spoil(files[0], "truncated")
    spoil(files[2], "empty")
    loader = make(storage, on_error="skip")
    with caplog.at_level(logging.WARNING, logger="feedrate.loaders"):
        for _ in range(2):
            frame = loader.load_files(files)
            assert_same(frame, HistoricalDataLoader(storage).load_files([files[1]]))
    assert list(loader.stats()["skipped"]) == [str(files[0]), str(files[2])]
    assert loader.stats()["skipped"][str(files[2])] == "it is empty (0 bytes)"
    logged = caplog.records[0].getMessage()
    assert "skipped 2 unreadable files" in logged
    assert str(files[0]) in logged
    assert str(files[2]) in logged


def test_when_every_file_is_skipped_the_frame_is_empty(make, storage, assert_same):
    files = storage.files("box_scores")
    for file in files:
        spoil(file, "not Parquet")
    loader = make(storage, on_error="skip")
    assert_same(loader.load_files(files), pd.DataFrame())
    assert len(loader.stats()["skipped"]) == len(files)


def test_batches_are_of_a_frame_or_files_in_order_when_not_shuffled(make, storage):
    loader = make(storage)
    files = storage.files("box_scores")
    frame = loader.load_files(files)
    for data, rows in ((frame, 12), (files, 12), (map(str, files), 12), (files[0], 4)):
        batches = list(
            loader.batches(data, ["points", "minutes"], "starter", batch_size=5, shuffle=False)
        )
        x, y = (np.concatenate(part) for part in zip(*batches, strict=True))
        assert [len(batch[0]) for batch in batches] == [5] * (rows // 5) + [rows % 5]
        assert x.dtype == y.dtype == np.float32
        assert x.tolist() == frame[["points", "minutes"]][:rows].fillna(0).to_numpy().tolist()
        assert y.tolist() == frame["starter"][:rows].tolist()


def test_streams_are_of_files_in_order_when_not_shuffled(make, storage):
    loader = make(storage)
    files = storage.files("box_scores")
    frame = loader.load_files(files)
    for data, rows in ((files, 12), (map(str, files), 12), (files[0], 4)):
        stream = loader.stream(
            data, ["points", "minutes"], "starter", batch_size=4, shuffle=False, null_value=-1.0
        )
        for _ in range(2):  # epochs
            batches = list(stream)
            x, y = (np.concatenate(part) for part in zip(*batches, strict=True))
            assert [len(batch[0]) for batch in batches] == [4] * (rows // 4)
            assert x.dtype == y.dtype == np.float32
            assert x.tolist() == frame[["points", "minutes"]][:rows].fillna(-1).to_numpy().tolist()
            assert y.tolist() == frame["starter"][:rows].tolist()


def test_a_shuffled_stream_holds_each_row_once_in_an_order_that_the_seed_repeats(make, storage):
    files = storage.files("box_scores")
    frame = HistoricalDataLoader(storage).load_files(files)
    orders = []
    for _ in range(2):
        stream = make(storage).stream(
            files, ["points", "minutes"], batch_size=3, shuffle=True, seed=7, shuffle_window=2
        )
        orders.append(np.concatenate([np.asarray(x) for x in stream]).tolist())
    assert orders[0] == orders[1]
    rows = frame[["points", "minutes"]].fillna(0).to_numpy().tolist()
    assert sorted(orders[0]) == sorted(rows)


def test_a_stream_leaves_out_a_last_batch_that_is_not_full_if_asked(make, storage):
    files = storage.files("box_scores")
    for drop_last, sizes in ((True, [3]), (False, [3, 1])):
        stream = make(storage).stream(
            files[0], ["points"], batch_size=3, shuffle=False, drop_last=drop_last
        )
        assert [len(x) for x in stream] == sizes


def test_a_stream_refuses_no_files_other_columns_and_sizes_below_one(make, storage):
    loader, files = make(storage), storage.files("box_scores")
    with pytest.raises(InputError, match="file_paths is empty; name at least one"):
        loader.stream([], ["points"])
    with pytest.raises(ColumnError, match="no file has a column 'goals'"):
        loader.stream(files, ["goals"])
    for name in ("batch_size", "shuffle_window"):
        with pytest.raises(InputError, match=f"{name} is 0"):
            loader.stream(files, ["points"], **{name: 0})


def test_the_settings_of_a_stream_are_explained(make, storage):
    loader = make(storage)
    assert f"Stream job: backend={loader.settings_for('stream').backend}, " in (
        loader.explain("stream")
    )


def test_live_figures_count_loads_files_and_rows(make, storage):
    loader = make(storage)
    files = storage.files("box_scores")
    loader.load_files(files)
    loader.load_files(files[:1])
    stats = loader.stats()
    assert (stats["loads"], stats["files"], stats["rows"]) == (2, 4, 16)
    assert stats["rows_per_s"] == stats["rows"] / stats["seconds"]
    cached = loader.settings.cache != "none"
    assert (stats["cache_hits"], stats["cache_misses"]) == ((1, 3) if cached else (0, 0))


def test_threads_may_share_a_loader(make, mixed, box_scores, assert_same):
    loader = make(mixed)
    files, expected = box_scores
    with ThreadPoolExecutor(4) as pool:
        for frame in pool.map(loader.load_files, [files] * 8):
            assert_same(frame, expected)


def test_a_pickled_loader_works_as_the_one_it_was_made_of(make, mixed, box_scores, assert_same):
    loader = make(mixed)
    files, expected = box_scores
    loader.load_files(files)
    copy = pickle.loads(pickle.dumps(loader))  # noqa: S301 - it is our own
    assert_same(copy.load_files(files), expected)
    assert copy.settings == loader.settings
    assert copy.explain() == loader.explain()


def test_a_forked_child_can_use_a_loader_that_was_used_before(make, mixed, box_scores, tmp_path):
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("there is no fork here")
    loader = make(mixed)
    files, expected = box_scores
    loader.load_files(files)
    answer = tmp_path / "answer"

    def work():
        loader.load_files(files).to_pickle(answer)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads
        child = multiprocessing.get_context("fork").Process(target=work)
        child.start()
    child.join(PATIENCE_S)
    alive = child.is_alive()
    if alive:
        child.kill()
        child.join()
    assert not alive, "the child hangs"
    assert child.exitcode == 0
    pd.testing.assert_frame_equal(pd.read_pickle(answer), expected)  # noqa: S301


@pytest.mark.parametrize("backend", ["original", "tensorflow", "pytorch"])
@pytest.mark.slow
def test_a_fresh_process_can_use_a_loader_that_it_is_sent(backend, mixed, box_scores, tmp_path):
    if not find_backend(backend).installed:
        pytest.skip(f"{find_backend(backend).module} is not installed")
    loader = OptimizedHistoricalDataLoader(mixed, backend, 2, enable_cache=False, profile=None)
    files, expected = box_scores
    loader.load_files(files)
    (tmp_path / "loader").write_bytes(pickle.dumps((loader, files)))
    code = (
        "import pickle, sys, pathlib\n"
        "loader, files = pickle.loads(pathlib.Path('loader').read_bytes())\n"
        "loader.load_files(files).to_pickle('answer')\n"
        "others = {'torch', 'tensorflow'} - {loader.active_backend}\n"
        "assert not others & set(sys.modules), 'it imports what it does not need'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=PATIENCE_S)
    pd.testing.assert_frame_equal(pd.read_pickle(tmp_path / "answer"), expected)  # noqa: S301


def test_a_storage_that_moved_is_read_where_it_is(make, storage, tmp_path, assert_same):
    loader = make(storage)
    expected = loader.load_files(storage.files("box_scores"))
    moved = ParquetStorage(shutil.copytree(storage.base_dir, tmp_path / "moved"))
    shutil.rmtree(storage.base_dir)
    assert_same(loader.load_files(moved.files("box_scores")), expected)


@pytest.mark.parametrize("kind", [HistoricalDataLoader, OptimizedHistoricalDataLoader])
def test_a_folder_stands_for_its_storage(kind, tmp_path):
    ParquetStorage(tmp_path).save(pd.DataFrame({"a": [1]}), "games", "20250101")
    for folder in (tmp_path, str(tmp_path)):
        loader = kind(folder)
        assert isinstance(loader.storage, ParquetStorage)
        assert loader.load_files(loader.storage.files("games"))["a"].tolist() == [1]
    for other in (None, 5, b"data"):
        with pytest.raises(InputError, match="give a ParquetStorage, or the folder of one"):
            kind(other)


@pytest.mark.parametrize("kind", [HistoricalDataLoader, OptimizedHistoricalDataLoader])
@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (None, "the files are None; give a list of paths"),
        (5, "the files are 5; give a list of paths"),
        ("a.parquet", "the files are 'a.parquet'; give a list of paths, or a list of one"),
        ([5], "the files hold 5, which is no path"),
        ([b"a.parquet"], "the files hold b'a.parquet', which is no path"),
        (["s3://ID:KEY@bucket/a.parquet"], r"s3://\*\*\*@bucket/a.parquet: a URL may not contain"),
    ],
)
def test_what_is_no_file_is_a_clear_error(kind, paths, message, tmp_path):
    options = {} if kind is HistoricalDataLoader else {"profile": None, "on_error": "skip"}
    with pytest.raises(InputError, match=message):
        kind(ParquetStorage(tmp_path), **options).load_files(paths)


def test_batches_and_streams_of_no_files_are_clear_errors(tmp_path):
    loader = OptimizedHistoricalDataLoader(ParquetStorage(tmp_path), profile=None)
    for make in (loader.batches, loader.stream):
        with pytest.raises(InputError, match="name at least one Parquet file"):
            make([], ["x"])
        with pytest.raises(InputError, match="hold 5, which is no path"):
            make([5], ["x"])
