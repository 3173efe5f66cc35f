"""Filters give the rows that pandas gives, whichever files need not be read for them."""

import datetime as dt
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from feedrate.loaders.base.errors import ColumnError, FeedrateWarning, InputError, ParquetFileError
from feedrate.loaders.choosing.registry import find_backend
from feedrate.loaders.frames import parts
from feedrate.loaders.historical_loader import HistoricalDataLoader
from feedrate.loaders.optimized_historical_loader import OptimizedHistoricalDataLoader
from feedrate.loaders.parquet.filters import RowFilter
from feedrate.loaders.storage import ParquetStorage
from feedrate.loaders.training.epochs import Order
from feedrate.loaders.training.matrix import Columns
from feedrate.loaders.training.parquet_rows import ParquetRows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

DAY = dt.date(2025, 1, 1)


@pytest.fixture(
    params=[("original", 0), ("pytorch", 0), ("pytorch", 2), ("tensorflow", 2)], ids=str
)
def make(request):
    """Makes a loader of one backend and number of workers."""
    backend, workers = request.param
    if not find_backend(backend).installed:
        pytest.skip(f"{find_backend(backend).module} is not installed")

    def make_loader(storage, **options):
        return OptimizedHistoricalDataLoader(storage, backend, workers, profile=None, **options)

    return make_loader


@pytest.fixture
def files(tmp_path):
    """Four files of ten rows, each with numbers of its own."""
    found = []
    for number in range(4):
        rows = range(10 * number, 10 * number + 10)
        frame = pd.DataFrame(
            {
                "n": rows,
                "name": [f"player {row % 3}" for row in rows],
                "half": [None if row % 4 == 0 else row / 2 for row in rows],
                "day": [DAY + dt.timedelta(days=row) for row in rows],
                "team": pd.Categorical([f"team {number}"] * 10),
                "starter": [row % 2 == 0 for row in rows],
            }
        )
        path = tmp_path / "box_scores" / f"{number}.parquet"
        path.parent.mkdir(exist_ok=True)
        frame.to_parquet(path, row_group_size=4)
        found.append(path)
    return found


@pytest.fixture
def storage(files):
    return ParquetStorage(files[0].parent.parent)


def by_pandas(files, filters, columns=None):
    frames = [
        pd.read_parquet(path, columns=columns, filters=filters, partitioning=None) for path in files
    ]
    return pd.concat(frames, ignore_index=True)


FILTERS = [
    [("n", ">=", 12), ("n", "<", 23)],
    [("n", "==", 17)],
    [("n", "!=", 17), ("starter", "=", True)],
    [[("n", "<", 3)], [("n", ">", 36), ("name", "==", "player 1")]],
    [("name", "in", ["player 0", "player 2"])],
    [("half", "not in", {1.5, 2.5})],
    [("half", "<", 4.0)],
    [("day", "<=", DAY)],
    [("team", "==", "team 2")],
    [("n", ">", 1000)],
    [("n", "in", [])],
    ([("n", "<", 2)], [("n", "==", 35)]),
]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("columns", [None, ["half", "name"]], ids=str)
def test_filtered_files_are_those_of_pandas(make, storage, files, filters, columns, assert_same):
    given = list(filters)
    right = by_pandas(files, given, columns)
    assert_same(HistoricalDataLoader(storage).load_files(files, columns, filters), right)
    loader = make(storage)
    for _ in range(2):
        assert_same(loader.load_files(files, columns, filters=filters), right)
    everything = HistoricalDataLoader(storage).load_files(files)
    assert_same(loader.load_files(files), everything)  # no cache has the rows of a filter


def test_files_whose_statistics_allow_no_row_are_not_read(storage, files, monkeypatch):
    plain = ["n", "name", "half"]
    for path in files:
        pd.read_parquet(path)[plain].to_parquet(path)
    read, read_file = [], parts.read_file

    def noted(path, *arguments):
        read.append(Path(path).stem)
        return read_file(path, *arguments)

    monkeypatch.setattr(parts, "read_file", noted)
    for backend, expected in (("pytorch", ["0", "2"]), ("original", ["0", "1", "2", "3"])):
        read.clear()
        loader = OptimizedHistoricalDataLoader(storage, backend, 0, profile=None)
        frame = loader.load_files(files, filters=[("n", ">=", 20), ("n", "<", 30)])
        assert list(frame["n"]) == list(range(20, 30))
        assert read == expected  # the first of a schema tells its dtypes


def test_a_column_that_no_file_has_is_named(make, storage, files):
    for loader in (make(storage), HistoricalDataLoader(storage)):
        with pytest.raises(ColumnError, match="no file has a column 'goals'; the columns are: n, "):
            loader.load_files(files, filters=[("goals", ">", 1)])


def test_a_file_without_the_column_is_named(make, storage, files):
    pd.read_parquet(files[2]).drop(columns="n").to_parquet(files[2])
    for loader in (make(storage), HistoricalDataLoader(storage)):
        with pytest.raises(ColumnError, match=r"'n', '>', 1\): .*2\.parquet has no such column"):
            loader.load_files(files, filters=[("n", ">", 1)])


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ([("n", "=>", 1)], r"'=>', 1\): unknown operator '=>'; did you mean '>'\?"),
        (
            [("n", "==", "x")],
            r"column 'n' is int64 in .*0\.parquet and cannot be compared with 'x'",
        ),
        (
            [("name", ">", 5)],
            r"column 'name' is .*string in .*cannot be compared with 5; give a val",
        ),
        ([("n", "==", 2**70)], r"\('n', '==', 1180591620717411303424\): Arrow has no such value"),
        ([("n", "in", 3)], r"'in' takes a list of values, not 3"),
        ([("n", "in", "text")], r"'in' takes a list of values, not 'text'"),
        ([("n", "==", [3])], r"'==' takes one value, not \[3\]"),
        ([("n", ">")], r"\('n', '>'\); a condition is \(column, operator, value\), as in"),
        ([(1, ">", 1)], r"\(1, '>', 1\): column 1 is no text"),
        ([], r"filters is \[\]; give a list of conditions"),
        ([[]], r"filters is \[\[\]\]; a list in it has no conditions"),
        ("n > 1", r"filters is 'n > 1'; give a list of conditions, \[\('points', '>=', 10\)\]"),
        ([("n", None, 1)], r"unknown operator None; the choices are"),
        ([("n", "in", np.array(5))], r"Arrow has no such value"),
        ([("n", "in", b"12")], r"'in' takes a list of values, not b'12'"),
        ([5], r"filters has 5; "),
    ],
)
def test_filters_that_do_not_fit_are_one_clear_error(storage, files, filters, message):
    loaders = OptimizedHistoricalDataLoader(storage, profile=None), HistoricalDataLoader(storage)
    for loader in loaders:
        with pytest.raises(InputError, match=message):
            loader.load_files(files, filters=filters)


@pytest.mark.parametrize(
    "filters",
    [
        [("n", "in", np.array([3, 14]))],
        [("n", "in", pd.Series([3, 14]))],
        [("n", "not in", range(5, 40))],
        [("n", "in", {3: "a", 14: "b"})],
        [("name", "in", pd.unique(pd.Series(["player 1", "player 2"])))],
        [["n", ">", 12], ["starter", "==", True]],
        [[["n", ">", 31]], [["n", "<", 3]]],
        (("n", ">", 31),),
        pc.field("n") > 31,
        (pc.field("n") > 31) | (pc.field("name") == "player 1"),
        ~pc.field("half").is_null(),
    ],
    ids=str,
)
def test_whatever_pandas_takes_as_a_filter_gives_its_rows(
    make, storage, files, filters, assert_same
):
    assert_same(make(storage).load_files(files, filters=filters), by_pandas(files, filters))


def test_an_iterator_of_values_is_asked_once(make, storage, files, assert_same):
    found = make(storage).load_files(files, filters=[("n", "in", iter([3, 14]))])
    assert_same(found, by_pandas(files, [("n", "in", [3, 14])]))


def test_rows_by_an_expression_are_streamed_and_batched(make, storage, files):
    loader, wanted = make(storage), pc.field("n") > 31
    for found in (
        loader.batches(files, ["n"], filters=wanted, shuffle=False),
        loader.stream(files, ["n"], filters=wanted, shuffle=False),
    ):
        assert sorted(np.concatenate([np.ravel(X) for X in found])) == list(range(32, 40))


def test_an_expression_that_does_not_fit_is_a_clear_error(make, storage, files):
    loader = make(storage, on_error="skip")
    with pytest.raises(ColumnError, match=r"0\.parquet must have each of their columns once"):
        loader.load_files(files, filters=pc.field("goals") > 1)
    with pytest.raises(InputError, match=r"does not fit .*0\.parquet"):
        loader.load_files(files, filters=pc.field("n") == "text")


ZONED = pa.array([1, 2], pa.timestamp("us", "UTC"))
ODD_VALUES = {
    "a zone and none": (ZONED, [("x", ">", dt.datetime(2024, 12, 1))]),  # noqa: DTZ001 - without a zone
    "none and a zone": (
        ZONED.cast(pa.timestamp("us")), [("x", ">", dt.datetime(2024, 12, 1, tzinfo=dt.UTC))],
    ),
    "large integers": (pa.array([2**63 + 1, 5], pa.uint64()), [("x", ">", 0)]),
    "NaN of booleans": (pa.array([True, None]), [("x", "not in", [float("nan")])]),
    "NaN of bytes": (pa.array([b"a", None]), [("x", "in", [float("nan")])]),
}  # fmt: skip


@pytest.mark.parametrize("what", ODD_VALUES)
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_value_that_does_not_fit_never_makes_a_good_file_unreadable(
    make, storage, tmp_path, what, on_error, assert_same
):
    column, filters = ODD_VALUES[what]
    paths = [tmp_path / f"{number}.parquet" for number in range(3)]
    for path in paths:
        pq.write_table(pa.table({"n": [1, 2], "x": column}), path)
    loader = make(storage, on_error=on_error)
    try:
        expected = by_pandas(paths, filters)
    except (pa.ArrowException, TypeError, ValueError):
        with pytest.raises(InputError, match=r"filters? "):
            loader.load_files(paths, filters=filters)
        with pytest.raises(InputError, match=r"filters? "):
            list(loader.stream(paths, ["n"], filters=filters))
        with pytest.raises(InputError, match=r"filters? "):
            HistoricalDataLoader(storage).load_files(paths, filters=filters)
    else:
        assert_same(loader.load_files(paths, filters=filters), expected)
    assert loader.stats()["skipped"] == {}


def test_a_file_that_only_pandas_refuses_is_not_the_filters_fault(make, storage, files):
    table = pq.read_table(files[1])
    notes = {**table.schema.metadata, b"pandas": b'{"columns" '}
    pq.write_table(table.replace_schema_metadata(notes), files[1])
    loader = make(storage, on_error="skip")
    assert loader.load_files(files, filters=[("n", ">", 0)])["n"].min() == 1
    assert list(loader.stats()["skipped"]) == [str(files[1])]


def test_columns_of_one_name_are_the_error_with_filters_too(make, storage, files):
    table = pq.read_table(files[0])
    pq.write_table(table.append_column("name", table["name"]), files[0])
    for wanted in ([("n", ">", 0)], pc.field("n") > 0):
        with pytest.raises(ColumnError, match="several columns 'name'"):
            HistoricalDataLoader(storage).load_files(files[:1], filters=wanted)
        assert len(make(storage).load_files(files, ["n"], filters=wanted)) == 39


def test_the_first_file_without_the_column_is_named(storage, files):
    with pytest.raises(ColumnError, match=r"0\.parquet"):
        HistoricalDataLoader(storage).load_files(files, filters=pc.field("goals") == 1)


def test_filters_are_known_by_all_their_values():
    few, other = list(range(100)), [*range(50), 777, *range(51, 100)]
    for of in (lambda values: pc.field("n").isin(values), lambda values: [("n", "in", values)]):
        digests = {RowFilter.of(of(values)).digest() for values in (few, list(few), other)}
        assert len(digests) == 2


def test_unreadable_files_are_errors_or_skipped(make, storage, files, assert_same):
    files[1].write_bytes(b"PAR1 damaged PAR1")
    filters = [("n", "<", 25)]
    with pytest.raises(ParquetFileError, match=r"1\.parquet"):
        make(storage).load_files(files, filters=filters)
    loader = make(storage, on_error="skip")
    others = [files[0], *files[2:]]
    assert_same(loader.load_files(files, filters=filters), by_pandas(others, filters))
    assert list(loader.stats()["skipped"]) == [str(files[1])]


def test_batches_are_of_the_rows_that_match_also_by_columns_that_are_no_features(
    make, storage, files
):
    batches = make(storage).batches(
        files, ["half"], "n", filters=[("name", "==", "player 1")], batch_size=4, shuffle=False
    )
    x, y = (np.concatenate(part) for part in zip(*batches, strict=True))
    rows = [row for row in range(40) if row % 3 == 1]
    assert x[:, 0].tolist() == [0 if row % 4 == 0 else row / 2 for row in rows]
    assert y.tolist() == rows


@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_streams_are_of_the_rows_that_match(make, storage, files, filters):
    right = by_pandas(files, list(filters), ["n", "half"]).fillna(-1).to_numpy()
    if not len(right):
        return
    loader = make(storage)
    stream = loader.stream(
        files, ["n", "half"], batch_size=1, shuffle=False, null_value=-1.0, filters=filters
    )
    for _ in range(2):
        assert np.concatenate([np.asarray(x) for x in stream]).tolist() == right.tolist()
    mixed = loader.stream(
        files, ["n", "half"], batch_size=1, shuffle=True, null_value=-1.0, filters=filters
    )
    found = np.concatenate([np.asarray(x) for x in mixed]).tolist()
    assert sorted(found) == sorted(right.tolist())
    if loader.active_backend != "original":
        assert len(stream) == len(mixed) == len(right)


def test_a_stream_that_no_row_matches_is_empty_and_says_what_others_say(storage, files):
    loader = OptimizedHistoricalDataLoader(storage, "pytorch", 0, profile=None)
    assert list(loader.stream(files, ["n"], filters=[("n", ">", 1000)])) == []
    with pytest.raises(ColumnError, match="no file has a column 'goals'"):
        loader.stream(files, ["n"], filters=[("goals", ">", 1000)])
    with pytest.raises(InputError, match="cannot be compared with 'x'"):
        loader.stream(files, ["n"], filters=[("n", ">", "x")])


def test_row_groups_of_many_rows_are_filtered_in_parts(files):
    frame = pd.DataFrame({"n": np.arange(5000), "odd": np.arange(5000) % 2})
    frame.to_parquet(files[0], row_group_size=2000)
    rows = ParquetRows([str(files[0])], Columns.of(["n"]), 300, RowFilter.of([("odd", "==", 1)]))
    assert len(rows) == 2500
    for workers in (0, 2):
        found = [x[:, 0] for (x,) in rows.chunks(Order(), num_workers=workers)]
        assert np.concatenate(found).tolist() == list(range(1, 5000, 2))
        assert max(map(len, found)) <= 300
    some = rows.take(np.array([0, 7, 2499]))[0]
    assert some[:, 0].tolist() == [1, 15, 4999]


def test_a_file_of_which_other_rows_match_by_now_is_an_error(files):
    rows = ParquetRows([str(files[0])], Columns.of(["half"]), 100, RowFilter.of([("n", "<", 3)]))
    frame = pd.read_parquet(files[0])
    frame["n"] += 1
    frame.to_parquet(files[0], row_group_size=4)
    with pytest.raises(ParquetFileError, match="its number of rows has changed since"):
        list(rows.chunks(Order()))


def test_a_state_of_one_filter_is_none_of_another(storage, files):
    pytest.importorskip("torch")
    loader = OptimizedHistoricalDataLoader(storage, "pytorch", 0, profile=None)
    one, same, other = (
        loader.stream(files, ["n"], batch_size=2, seed=1, filters=[("name", "==", name)])
        for name in ("player 1", "player 1", "player 2")
    )
    assert len(one) == len(other)
    batches = iter(one)
    first = next(batches)
    state = one.state_dict()
    same.load_state_dict(state)
    assert len(list(same)) == len(one) - 1
    assert first is not None
    with pytest.raises(InputError):
        other.load_state_dict(state)


def test_filters_of_a_frame_are_refused(make, storage, files):
    loader = make(storage)
    with pytest.raises(InputError, match=r"are for files; select rows of a frame by frame\[cond"):
        loader.batches(loader.load_files(files), ["n"], filters=[("n", ">", 1)])


# --- any files ---------------------------------------------------------------------------------

VALUES = {
    "int64": st.integers(-3, 3),
    "uint8": st.integers(0, 3),
    "float64": st.sampled_from([-1.5, 0.0, 2.0, float("nan")]),
    "bool": st.booleans(),
    "string": st.sampled_from(["a", "b", ""]),
    "date32": st.dates(DAY, DAY + dt.timedelta(days=3)),
    "category": st.sampled_from(["u", "v"]),
}


@st.composite
def loads(draw):
    """The tables of some files, and filters that fit them."""
    kinds = {
        name: draw(st.sampled_from(sorted(VALUES)))
        for name in draw(st.lists(st.sampled_from("xyz"), unique=True, min_size=1))
    }
    tables = []
    for _ in range(draw(st.integers(1, 5))):
        rows = draw(st.integers(0, 5))
        nulls = draw(st.booleans())
        columns = {}
        for name, kind in kinds.items():
            values = st.none() | VALUES[kind] if nulls else VALUES[kind]
            column = draw(st.lists(values, min_size=rows, max_size=rows))
            text = kind == "category"
            array = pa.array(column, "string" if text else kind)
            columns[name] = array.dictionary_encode() if text else array
        tables.append(pa.table(columns))
    filters = draw(
        st.lists(st.lists(_conditions(kinds), min_size=1, max_size=2), min_size=1, max_size=2)
    )
    return tables, filters


@st.composite
def _conditions(draw, kinds):
    name = draw(st.sampled_from(sorted(kinds)))
    few = kinds[name] in {"bool", "category"}
    operator = draw(st.sampled_from(["==", "!=", "in", "not in", *([] if few else ["<", ">="])]))
    value = VALUES[kinds[name]]
    if operator in {"in", "not in"}:
        return name, operator, draw(st.lists(value, max_size=2))
    return name, operator, draw(value)


@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(load=loads(), group=st.sampled_from([1, 2, 100]), chosen=st.booleans())
def test_rows_of_any_filter_are_those_of_pandas(load, group, chosen, assert_same):
    tables, filters = load
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", FeedrateWarning)
        paths = [Path(folder) / f"{number}.parquet" for number in range(len(tables))]
        for table, path in zip(tables, paths, strict=True):
            pq.write_table(table, path, row_group_size=group)
        columns = tables[0].column_names[:1] if chosen else None
        loader = OptimizedHistoricalDataLoader(ParquetStorage(folder), "pytorch", 0, profile=None)
        try:
            right = by_pandas(paths, filters, columns)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
            with pytest.raises(InputError, match="cannot be compared with"):
                loader.load_files(paths, columns, filters)
            return
        assert_same(loader.load_files(paths, columns, filters), right)
