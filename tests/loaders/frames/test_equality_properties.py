"""Whatever files hold, the fast paths give what pandas gives file by file, to the last dtype."""

import datetime as dt
import warnings
from contextlib import suppress
from decimal import Decimal
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feedrate.loaders.base.errors import FeedrateWarning
from feedrate.loaders.base.schedule import ThreadScheduler
from feedrate.loaders.caching import views
from feedrate.loaders.caching.disk import DiskCache
from feedrate.loaders.caching.memory import MemoryCache
from feedrate.loaders.frames import engine, parts
from feedrate.loaders.frames.original_frames import OriginalReader
from feedrate.loaders.frames.reader import FrameReader
from feedrate.loaders.parquet.footers import FileSchema
from feedrate.loaders.parquet.layout import make_layout
from feedrate.loaders.parquet.original import read_frame
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

bounded = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module", autouse=True)
def _polars_decodes_even_little():
    """Polars decodes whatever it may, several files at once, for every reader of two workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "POLARS_FROM_BYTES", 0)
        patch.setattr(engine, "IMPORT_S", 0)
        patch.setattr(parts, "PARTS_PER_WORKER", 1)
        patch.setattr(parts, "POLARS_PART_S", 1e-9)
        yield


NAMES = ("a", "b", "é", "d.e", "d", "0")
EXACT = 2**53  # integers beyond it have neighbours that no float64 can tell apart


def _integers(kind):
    signed = pa.types.is_signed_integer(kind)
    low = -(2 ** (kind.bit_width - 1)) if signed else 0
    high = low + 2**kind.bit_width - 1
    edges = [low, high, *(value for value in (EXACT + 1, EXACT + 3) if value <= high)]
    return st.sampled_from(edges) | st.integers(low, high)


def _timestamps(kind):
    """Whole counts of the unit since 1970, of days that every unit can hold."""
    a_day = 86_400 * 1000 ** ("s", "ms", "us", "ns").index(kind.unit)
    return st.integers(-20_000 * a_day, 20_000 * a_day)


SMALL = st.integers(-100, 100)
WORDS = st.sampled_from(["x", "y", "z", "w"])
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4) | st.sampled_from(
    ["", "twelve bytes", "thirteen byte", "é" * 300]
)
DATES = st.dates(dt.date(1900, 1, 1), dt.date(2100, 1, 1))
ALL_DATES = st.dates() | st.sampled_from([dt.date.min, dt.date(1970, 1, 1), dt.date.max])
DECIMALS = st.decimals(-999, 999, places=2)


def _decimals(precision, scale):
    """Of all sizes that a precision has, beyond 64 bits from 19 digits on."""
    top = 10**precision - 1
    edges = [number for number in (top, -top, 2**63 - 1, 2**63, -(2**63) - 1) if abs(number) <= top]
    whole = st.sampled_from(edges) | st.integers(-top, top) | st.integers(-min(top, 9), min(top, 9))
    return whole.map(
        lambda number: Decimal((number < 0, tuple(map(int, str(abs(number)))), -scale))
    )


# Arrow's types, with the values that a column of each may hold beside nulls.
ARROW = [
    *(
        (kind, _integers(kind))
        for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64(),
                     pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())
    ),
    (pa.float16(), st.floats(width=16)),
    (pa.float32(), st.floats(width=32)),
    (pa.float64(), st.floats()),
    (pa.bool_(), st.booleans()),
    (pa.string(), TEXT),
    (pa.large_string(), TEXT),
    (pa.string_view(), TEXT),
    (pa.binary(), st.binary(max_size=3)),
    (pa.large_binary(), st.binary(max_size=3)),
    (pa.binary(2), st.binary(min_size=2, max_size=2)),
    *(
        (kind, _timestamps(kind))
        for kind in (pa.timestamp("s"), pa.timestamp("ms"), pa.timestamp("us"),
                     pa.timestamp("ns"), pa.timestamp("us", "UTC"), pa.timestamp("s", "UTC"),
                     pa.timestamp("ns", "America/New_York"), pa.timestamp("ms", "+02:00"))
    ),
    (pa.timestamp("us"), st.integers(-(2**55), 2**55)),
    (pa.timestamp("ms"), st.integers(-(2**45), 2**45)),
    (pa.date32(), DATES),
    (pa.date32(), ALL_DATES),
    (pa.date64(), DATES),
    (pa.time32("s"), st.integers(0, 86_399)),
    (pa.time32("ms"), st.integers(0, 86_399_999)),
    (pa.time64("us"), st.integers(0, 86_399_999_999)),
    (pa.duration("s"), SMALL),
    (pa.duration("us"), SMALL),
    (pa.duration("ns"), SMALL),
    *(
        (pa.decimal128(precision, scale), _decimals(precision, scale))
        for precision, scale in ((1, 0), (10, 2), (18, 18), (19, 0), (38, 10))
    ),
    (pa.decimal128(30, 2), DECIMALS),
    (pa.decimal256(50, 2), _decimals(50, 2)),
    (pa.dictionary(pa.int32(), pa.string()), WORDS),
    (pa.dictionary(pa.int8(), pa.string(), ordered=True), WORDS),
    (pa.dictionary(pa.int32(), pa.int64()), SMALL),
    (pa.list_(pa.int64()), st.lists(SMALL | st.none(), max_size=2)),
    (pa.list_(pa.dictionary(pa.int32(), pa.string())), st.lists(WORDS, max_size=2)),
    (pa.map_(pa.string(), pa.int64()), st.lists(st.tuples(WORDS, SMALL), max_size=2)),
    (pa.struct([("x", pa.int64()), ("y", pa.string())]),
     st.fixed_dictionaries({"x": SMALL | st.none(), "y": WORDS})),
    (pa.null(), st.none()),
]  # fmt: skip

# pandas' types, with the values that a column of each may hold, and its missing value if any.
PANDAS = [
    ("int64", _integers(pa.int64()), ()),
    ("uint64", _integers(pa.uint64()), ()),
    ("float32", st.floats(width=32), (np.nan,)),
    ("float64", st.floats(), (np.nan,)),
    ("bool", st.booleans(), ()),
    ("str", TEXT, (None,)),
    ("object", st.booleans(), (None,)),
    ("object", TEXT, (None,)),
    ("object", DATES, (None,)),
    ("object", DECIMALS, (None,)),
    ("object", st.lists(SMALL, max_size=2), (None,)),
    ("Int64", _integers(pa.int64()), (pd.NA,)),
    ("UInt16", _integers(pa.uint16()), (pd.NA,)),
    ("Float64", st.floats(allow_nan=False), (pd.NA,)),
    ("boolean", st.booleans(), (pd.NA,)),
    ("string", TEXT, (pd.NA,)),
    ("int64[pyarrow]", SMALL, (pd.NA,)),
    ("datetime64[ns]", _timestamps(pa.timestamp("ns")), (pd.NaT,)),
    ("datetime64[ms]", _timestamps(pa.timestamp("ms")), (pd.NaT,)),
    ("datetime64[ns, Europe/Paris]", _timestamps(pa.timestamp("ns")), (pd.NaT,)),
    ("timedelta64[ns]", SMALL, (pd.NaT,)),
    ("category", WORDS, (None,)),
    ("category", SMALL, (None,)),
    (pd.CategoricalDtype(["z", "y", "x", "w"], ordered=True), WORDS, (None,)),
    ("period[D]", st.dates().map(lambda day: pd.Period(day, "D")), (pd.NaT,)),
]


def _with_attributes(frame, source="there"):
    frame = frame.copy()
    frame.attrs = {"source": source}
    return frame


# What a pandas frame may carry beside its columns: an index that is stored, names, attributes.
NOTES = {
    "a range with steps": lambda frame: frame.set_axis(range(7, 7 + 3 * len(frame), 3)),
    "a range with a name": lambda frame: frame.rename_axis("row"),
    "a named index": lambda frame: frame.set_axis(pd.Index(range(len(frame), 0, -1), name="row")),
    "text as index": lambda frame: frame.set_axis([f"row {n}" for n in range(len(frame))]),
    "two levels": lambda frame: frame.set_axis(
        pd.MultiIndex.from_product([["x"], range(len(frame))], names=["one", None])
    ),
    "numbers as names": lambda frame: frame.set_axis(range(len(frame.columns)), axis="columns"),
    "a name for the columns": lambda frame: frame.rename_axis(columns="all"),
    "attributes": _with_attributes,
}


@st.composite
def cells(draw, values, missing, rows):
    """Values, some missing, or all missing."""
    alone = [st.just(value) for value in missing]
    kinds = [values, values | st.one_of(alone), st.one_of(alone)] if alone else [values]
    return draw(st.lists(draw(st.sampled_from(kinds)), min_size=rows, max_size=rows))


@st.composite
def arrow_column(draw, kind, rows):
    return pa.array(draw(cells(kind[1], (None,), rows)), kind[0])


@st.composite
def pandas_column(draw, kind, rows):
    dtype, values, missing = kind
    drawn = draw(cells(values, missing, rows))
    if str(dtype).endswith("Paris]"):
        return pd.Series(drawn, dtype="datetime64[ns, UTC]").astype(dtype)
    return pd.Series(drawn, dtype=dtype)


@st.composite
def files(draw, kinds, column):
    """One to six files' columns by name: the same in each, or differing in kind and presence."""
    names = draw(st.permutations(NAMES))[: draw(st.sampled_from([2, 1, 3, 4, 5, 0]))]
    usual = {name: draw(st.sampled_from(kinds)) for name in names}
    alike = draw(st.booleans())
    made = []
    for _ in range(draw(st.sampled_from([2, 1, 3, 4, 6]))):
        rows = draw(st.sampled_from([2, 1, 0, 3, 6]))
        kept = names
        if not alike:
            kept = draw(st.permutations(names))[draw(st.sampled_from([0, 0, 1])) :]
        made.append({})
        for name in kept:
            other = not alike and draw(st.sampled_from([False, False, True]))
            kind = draw(st.sampled_from(kinds)) if other else usual[name]
            made[-1][name] = draw(column(kind, rows))
    return made


@st.composite
def arrow_writers(draw, kinds=ARROW):
    """Functions that write a file each, by pyarrow."""
    options = {
        "row_group_size": draw(st.sampled_from([4, 1, 2])),
        # Other writers leave out what only Arrow and pandas have types for.
        "store_schema": draw(st.sampled_from([True, True, True, False])),
    }
    return [
        partial(pq.write_table, pa.table(columns), **options)
        for columns in draw(files(kinds, arrow_column))
    ]


@st.composite
def pandas_writers(draw):
    """Functions that write a file each, by pandas."""
    writers = []
    notes = st.sampled_from([None] * len(NOTES) + sorted(NOTES))
    note = draw(notes)
    for columns in draw(files(PANDAS, pandas_column)):
        frame = pd.DataFrame(columns)
        if draw(st.sampled_from([False, False, False, True])):
            note = draw(notes)
        if note is not None:
            frame = NOTES[note](frame)
        writers.append(partial(frame.to_parquet, row_group_size=4))
    return writers


def _write(writers, folder):
    paths = [Path(folder, f"{number}.parquet") for number in range(len(writers))]
    for path, write in zip(paths, writers, strict=True):
        write(path)
    return paths


@pytest.fixture(autouse=True, scope="module")
def _views():
    """Let caches hand out views of the smallest frames, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(views, "COPIED_BYTES", 0)
        yield


def _readers(folder, **options):
    """Every fast path, and how often to load by it; the last finds on disk what was written."""
    none, memory = FrameReader(ThreadScheduler(0), **options), MemoryCache()
    disk, again = DiskCache(Path(folder, "cache")), DiskCache(Path(folder, "cache"))
    two = partial(FrameReader, ThreadScheduler(2), **options)
    return [(none, 1), (two(), 1), (two(cache=memory), 2), (two(cache=disk), 2),
            (two(cache=again), 1)]  # fmt: skip


def _check_each(readers, paths, columns, expected, assert_same):
    for reader, times in readers:
        if times > 1:  # so that the range grows
            with suppress(ValueError, TypeError):
                reader.load(paths[1:3], columns)
        for _ in range(times):
            if isinstance(expected, Exception):
                with pytest.raises(type(expected)):
                    reader.load(paths, columns)
            else:
                got = reader.load(paths, columns)
                assert_same(got, expected)
                _overwrite(got)


def _check(writers, assert_same, columns=None):
    """Load by every path and compare with the original."""
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", FeedrateWarning)
        paths = _write(writers, folder)
        try:
            expected = read_frame(paths, columns)
        except (ValueError, TypeError) as error:  # what pandas cannot put together, nobody can
            expected = error
        readers = [*_readers(folder), (OriginalReader(), 1)]
        _check_each(readers, paths, columns, expected, assert_same)


def _overwrite(frame):
    """Turn every column round in place: a frame must allow it, and no cache may notice."""
    for position in range(frame.shape[1]):
        column = frame.iloc[:, position]
        try:
            turned = column.iloc[::-1].array
        except pa.ArrowInvalid:  # Arrow itself cannot turn round chunks of differing dictionaries
            turned = pd.array(list(column.array)[::-1], dtype=column.dtype)
        plain = isinstance(column.dtype, np.dtype) and column.dtype.kind in "iufbO"
        frame.iloc[:, position] = turned.to_numpy() if plain else turned


@bounded
@given(writers=arrow_writers())
@pytest.mark.slow
def test_files_of_pyarrow_load_as_the_original_loads_them(writers, assert_same):
    _check(writers, assert_same)


@bounded
@given(writers=pandas_writers())
@pytest.mark.slow
def test_files_of_pandas_load_as_the_original_loads_them(writers, assert_same):
    _check(writers, assert_same)


@bounded
@given(
    writers=arrow_writers() | pandas_writers(),
    columns=st.lists(st.sampled_from([*NAMES, "row"]), max_size=4, unique=True),
)
@pytest.mark.slow
def test_chosen_columns_load_as_the_original_loads_them(writers, columns, assert_same):
    _check(writers, assert_same, columns)


# pandas keeps Arrow-backed views, but cannot compare them.
COMPARABLE = [kind for kind in ARROW if not pa.types.is_string_view(kind[0])]


@bounded
@given(writers=arrow_writers(COMPARABLE) | pandas_writers())
@pytest.mark.slow
def test_arrow_backed_frames_are_those_of_pandas(writers, assert_same):
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", FeedrateWarning)
        paths = _write(writers, folder)
        frames = [pd.read_parquet(path, dtype_backend="pyarrow") for path in paths]
        try:
            expected = pd.concat(frames, ignore_index=True)
        except (ValueError, TypeError) as error:
            expected = error
        readers = _readers(folder, dtype_backend="pyarrow")
        _check_each(readers, paths, None, expected, assert_same)


SHARED = [
    (kind, values)
    for kind, values in ARROW
    if make_layout(FileSchema(pa.schema([("a", kind)]), ("",)), None, "numpy")
    and make_layout(FileSchema(pa.schema([("a", kind)]), ("",)), None, "numpy").by_polars
]


def test_polars_may_decode_most_types():
    kinds = {str(kind) for kind, _ in SHARED}
    assert {"int8", "uint64", "float", "double", "bool", "string", "large_string"} < kinds
    assert {"date32[day]", "decimal128(10, 2)", "timestamp[us, tz=UTC]", "string_view"} < kinds


@settings(bounded, max_examples=5)
@given(data=st.data())
@pytest.mark.parametrize("kind", dict.fromkeys(kind for kind, _ in SHARED))
def test_polars_decodes_what_both_have_types_for(kind, data, assert_same):
    decoded = []

    def note(files, layout):
        pieces = engine.decode_with_polars(files, layout)
        decoded.append(len(files))
        return pieces

    cells_of = st.one_of([cells(values, (None,), 3) for one, values in SHARED if one == kind])
    writers = [partial(pq.write_table, pa.table({"a": pa.array(data.draw(cells_of), kind)}))
               for _ in range(6)]  # fmt: skip
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "decode_with_polars", note)
        paths = _write(writers, folder)
        assert_same(FrameReader(ThreadScheduler(2)).load(paths), read_frame(paths))
    assert decoded == [3, 3]


def _words(*words, ordered=False):
    return pa.DictionaryArray.from_arrays(
        pa.array(range(len(words)), "int8"), list(words), ordered=ordered
    )


def _times(kind):
    return pa.array([0, 1], kind)


INDEXED = pd.DataFrame({"a": [1, 2]})

# Where pandas has an outcome of its own, or a fast path once had another.
CORNERS = {
    "integers, with nulls in another file": [{"a": [EXACT + 1]}, {"a": pa.array([None, 1])}],
    "integers, with nothing but nulls in another": [{"a": [7]}, {"a": pa.nulls(1, pa.int64())}],
    "unsigned integers, with nulls in another": [
        {"a": pa.array([2**64 - 1], "uint64")},
        {"a": pa.array([None], "uint64")},
    ],
    "signed and unsigned": [{"a": pa.array([2**64 - 1], "uint64")}, {"a": [-1]}],
    "integers here, floats there": [{"a": [EXACT + 1]}, {"a": [0.5]}],
    "integers, and text": [{"a": [1]}, {"a": ["x"]}],
    "integers, and times": [{"a": [1]}, {"a": _times(pa.timestamp("ns"))}],
    "booleans, with nulls in another": [{"a": [True]}, {"a": [None, False]}],
    "booleans, and integers": [{"a": [True]}, {"a": [1]}],
    "text, and no type at all": [{"a": ["x"]}, {"a": pa.nulls(2)}],
    "no type at all": [{"a": pa.nulls(2)}, {"a": pa.nulls(1)}],
    "dictionaries that differ": [{"a": _words("x", "y")}, {"a": _words("z")}],
    "dictionaries alike": [{"a": _words("x", "y")}, {"a": _words("x", "y")}],
    "dictionaries in another order": [{"a": _words("x", "y")}, {"a": _words("y", "x")}],
    "ordered dictionaries": [{"a": _words("x", "y", ordered=True)}] * 2,
    "a dictionary, and text": [{"a": _words("x")}, {"a": ["x"]}],
    "units that differ": [{"a": _times(pa.timestamp("s"))}, {"a": _times(pa.timestamp("ns"))}],
    "zones that differ": [
        {"a": _times(pa.timestamp("us", "UTC"))},
        {"a": _times(pa.timestamp("us", "Asia/Tokyo"))},
    ],
    "a zone, and none": [{"a": _times(pa.timestamp("us", "UTC"))}, {"a": _times("timestamp[us]")}],
    "dates, and times": [{"a": _times(pa.date32())}, {"a": _times(pa.timestamp("us"))}],
    "lists, with nulls in another": [{"a": [[1, 2]]}, {"a": [[None, 1], None]}],
    "lists, with nulls in another row group": [{"a": [[1, 2]] * 5 + [[None, 1]]}] * 2,
    "lists of dictionaries, in row groups of their own": [
        {"a": pa.array([["x"], ["y"]] * 5, pa.list_(pa.dictionary(pa.int8(), pa.string())))}
    ],
    "missing in one": [{"a": [1], "b": ["x"]}, {"b": ["y"]}, {"c": [1.5], "a": [2]}],
    "another order": [{"a": [1], "b": ["x"]}, {"b": ["y"], "a": [2]}],
    "text as views, with nulls in another": [
        {"a": pa.array(["x", "far more than twelve bytes"], pa.string_view())},
        {"a": pa.array([None, "y"], pa.string_view())},
    ],
    "text as views, and text": [{"a": pa.array(["x"], pa.string_view())}, {"a": ["y"]}],
    "no rows in one": [{"a": [1], "b": [True], "c": ["x"]}, {"a": [], "b": [], "c": []}],
    "no rows at all": [{"a": pa.array([], "int64")}, {"a": pa.array([], "int64")}],
    "categories in order, and no rows between": [
        pd.DataFrame({"a": pd.Categorical(["x"], categories=list("zyx"), ordered=True)})[:rows]
        for rows in (1, 0, 1)
    ],
    "no columns": [{}, {}],
    "names with dots": [{"a.b": [1], "a": [2]}, {"a": [3], "a.b": [4]}],
    "a number that may be missing, and one that may not": [
        pd.DataFrame({"a": pd.array([1], "Int64")}),
        pd.DataFrame({"a": [2]}),
    ],
    "two kinds of text": [
        pd.DataFrame({"a": pd.array(["x"], "string")}),
        pd.DataFrame({"a": ["y"]}),
    ],
    "a named index": [INDEXED.rename_axis("row").set_axis(pd.Index([5, 6], name="row"))] * 2,
    "an index in one": [INDEXED, INDEXED.set_axis(["x", "y"])],
    "a range with steps": [INDEXED.set_axis(range(3, 7, 2))] * 2,
    "a range with a name": [INDEXED.rename_axis("row")],
    "a range with a name, without rows": [INDEXED[:0].rename_axis("row")] * 2,
    "attributes": [_with_attributes(INDEXED)] * 2,
    "attributes that differ": [_with_attributes(INDEXED), _with_attributes(INDEXED, "here")],
    "attributes that Arrow noted": [
        pa.Table.from_pandas(_with_attributes(INDEXED, source)) for source in ("there", "here")
    ],
    "attributes that only pandas noted": [
        pa.table({"a": [1]}).replace_schema_metadata({"PANDAS_ATTRS": '{"source": "there"}'})
    ]
    * 2,
    "a name for the columns": [INDEXED.rename_axis(columns="all")] * 2,
    "a name for the columns of one": [INDEXED.rename_axis(columns="all"), INDEXED],
    "numbers as names": [INDEXED.set_axis([7], axis="columns")] * 2,
    "numbers as names in one": [INDEXED.set_axis([7], axis="columns"), INDEXED],
    "two levels of names": [INDEXED.set_axis(pd.MultiIndex.from_tuples([("a", "b")]), axis=1)] * 2,
    "periods": [pd.DataFrame({"a": pd.period_range("2025", periods=2)})] * 2,
    "intervals": [pd.DataFrame({"a": pd.interval_range(0, 2)})] * 2,
    "spans of time": [pd.DataFrame({"a": [pd.Timedelta(days=1)]})] * 2,
}


def _writers(corner):
    return [
        partial(content.to_parquet, row_group_size=4)
        if isinstance(content, pd.DataFrame)
        else partial(pq.write_table, pa.table(content), row_group_size=4)
        for content in CORNERS[corner]
    ]


@pytest.mark.parametrize("corner", CORNERS)
def test_known_corners_load_as_the_original_loads_them(corner, assert_same):
    _check(_writers(corner), assert_same)
    _check(_writers(corner)[:1], assert_same)
    _check(_writers(corner), assert_same, ["a"])


@pytest.mark.parametrize(
    ("corner", "columns"),
    [
        ("no rows in one", []),
        ("missing in one", []),
        ("missing in one", ["c", "b"]),
        ("numbers as names", ["7"]),
        ("numbers as names in one", ["a", "7"]),
        ("a named index", ["row"]),
        ("a named index", ["a", "row"]),
        ("names with dots", ["a.b"]),
    ],
)
def test_odd_choices_of_columns_load_as_the_original_loads_them(corner, columns, assert_same):
    _check(_writers(corner), assert_same, columns)
    _check(_writers(corner)[:1], assert_same, columns)
