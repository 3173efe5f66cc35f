"""Layouts tell numbers from all else, polars' columns from Arrow's, and files apart or together."""

import pandas as pd
import pyarrow as pa
import pytest
from feedrate.loaders.parquet.footers import FileSchema
from feedrate.loaders.parquet.layout import Layouts, alike, make_layout, wanted

NUMBERS = [
    pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(),
    pa.uint64(), pa.float32(), pa.float64(), pa.bool_(), pa.timestamp("ms"), pa.timestamp("us"),
    pa.timestamp("ns"),
]  # fmt: skip
BOTH_DECODE = [
    *NUMBERS, pa.string(), pa.large_string(), pa.string_view(), pa.date32(), pa.decimal128(10, 2),
    pa.timestamp("us", "UTC"), pa.list_(pa.int64()), pa.large_list(pa.string()),
    pa.struct([("x", pa.int64()), ("y", pa.bool_())]),
]  # fmt: skip
ARROW_DECODES = [
    pa.float16(), pa.timestamp("s"), pa.binary(), pa.large_binary(), pa.binary(3), pa.date64(),
    pa.time32("ms"), pa.time64("us"), pa.duration("ns"), pa.decimal256(50, 2), pa.null(),
    pa.dictionary(pa.int8(), pa.string()),
]  # fmt: skip
PANDAS_READS = [
    pa.list_(pa.list_(pa.int64())), pa.struct([("x", pa.list_(pa.int64()))]),
    pa.map_(pa.string(), pa.int64()), pa.list_(pa.date32()), pa.struct([]),
]  # fmt: skip


def of(*fields, metadata=None, columns=None, backend="numpy", physical=()):
    return make_layout(FileSchema(pa.schema(fields, metadata), physical), columns, backend)


def noted(frame):
    return FileSchema(pa.Schema.from_pandas(frame), ())


@pytest.mark.parametrize("kind", [*BOTH_DECODE, *ARROW_DECODES], ids=str)
def test_each_type_is_held_and_decoded_in_its_way(kind):
    layout = of(("a", kind))
    number = kind in NUMBERS or kind in (pa.float16(), pa.timestamp("s"))
    assert [at for _, ats in layout.numbers for at in ats] == ([0] if number else [])
    assert layout.others == (() if number else (0,))
    assert layout.by_polars == ((0,) if kind in BOTH_DECODE else ())
    assert layout.dtypes == ({0: layout.template.dtypes.iloc[0]} if number else {})
    assert layout.row_bytes == (layout.dtypes[0].itemsize if number else 0)
    assert layout.together
    assert layout.has_categories == pa.types.is_dictionary(kind)


@pytest.mark.parametrize("kind", PANDAS_READS, ids=str)
def test_what_is_deeply_nested_is_read_by_pandas(kind):
    assert of(("a", kind)) is None
    assert of(("a", kind), ("b", pa.int64())) is None
    assert of(("a", kind), ("b", pa.int64()), columns=["b"]).numbers


def test_the_template_is_the_frame_that_no_rows_give():
    frame = pd.DataFrame({"a": [1], "b": ["x"], "c": pd.array([True], "boolean")})
    for labels, chosen in (("abc", None), ([7, 8, 9], None), ("abc", ["c", "a"])):
        expected = frame.set_axis(list(labels), axis="columns")
        layout = make_layout(noted(expected), chosen, "numpy")
        expected = expected if chosen is None else expected[chosen]
        pd.testing.assert_series_equal(layout.template.dtypes, expected.dtypes)
        assert layout.template.shape == (0, expected.shape[1])


def test_a_number_that_pandas_noted_as_one_that_may_be_missing_is_left_to_arrow():
    frame = pd.DataFrame({"a": pd.array([1], "Int64"), "b": [1]})
    layout = make_layout(noted(frame), None, "numpy")
    assert layout.others == (0,)
    assert list(layout.dtypes) == [1]


def test_frames_backed_by_arrow_hold_no_numbers():
    layout = of(("a", pa.int64()), ("b", pa.float64()), backend="pyarrow")
    assert layout.numbers == ()
    assert layout.others == (0, 1)
    assert layout.template.dtypes.tolist() == [
        pd.ArrowDtype(pa.int64()), pd.ArrowDtype(pa.float64()),
    ]  # fmt: skip


def test_columns_come_in_the_wanted_order_and_once_and_only_those_there_are():
    schema = pa.schema([("a", "int64"), ("b", "string"), ("c", "int64")], {"x": "y"})
    assert wanted(schema, None) is schema
    assert wanted(schema, ["c", "z", "a", "c"]).names == ["c", "a"]
    assert wanted(schema, ["c"]).metadata == schema.metadata
    assert wanted(schema, []).names == []
    layout = of(*schema, columns=["c", "b", "a"])
    ((dtype, positions),) = layout.numbers
    assert (dtype, positions) == ("int64", (0, 2))


def test_names_that_occur_twice_stored_indexes_and_attributes_are_left_to_pandas():
    assert of(("a", pa.int64()), ("a", pa.int64())) is None
    assert of(("a", pa.int64()), ("a", pa.int64()), ("b", pa.int64()), columns=["b"]) is not None
    assert make_layout(noted(pd.DataFrame({"a": [1]}, index=["x"])), None, "numpy") is None
    assert of(("a", pa.int64()), metadata={"PANDAS_ATTRS": "{}"}) is None


def test_int96_times_and_files_without_columns_are_left_to_arrow():
    times = ("a", pa.timestamp("ns"))
    assert of(times, physical=("INT64",)).by_polars
    assert not of(times, ("b", pa.int64()), physical=("INT96", "INT64")).by_polars
    assert not of().by_polars
    assert not of().together


def test_polars_decodes_what_it_may_and_arrow_the_columns_beside_it():
    text, numbers = pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int8(), pa.int64())
    layout = of(
        ("a", text), ("b", pa.int64()), ("c", pa.binary()), ("d", pa.string()), ("e", numbers)
    )
    assert layout.by_polars == (1, 3)
    assert layout.coded == (0,)
    assert list(layout.polars_types) == [0, 1, 3]


def test_the_same_schema_and_columns_have_the_same_layout():
    layouts = Layouts()
    schema = FileSchema(pa.schema([("a", pa.int64())]), ("INT64",))
    first = layouts.of(schema, None)
    assert layouts.of(schema, None) is first
    assert layouts.of(schema, ["a"]) is layouts.of(schema, ["a"]) is not first
    lists = FileSchema(pa.schema([("a", pa.list_(pa.list_(pa.int64())))]), ("INT64",))
    assert layouts.of(lists, None) is layouts.of(lists, None) is None
    for at in range(100):  # schemas that are gone do not lend their identity to others
        name = f"column {at}"
        passing = FileSchema(pa.schema([(name, pa.int64())]), ())
        assert layouts.of(passing, None).schema.names == [name]


def test_files_are_converted_at_once_where_that_changes_nothing():
    one, same = of(("a", pa.int64())), of(("a", pa.int64()), metadata={"written by": "me"})
    assert alike([one])
    assert alike([one, same, one])
    assert not alike([one, of(("a", pa.int32()))])
    assert not alike([one, of(("b", pa.int64()))])
    text, number = (pa.dictionary(pa.int8(), kind) for kind in (pa.string(), pa.int8()))
    assert alike([of(("a", text))])
    assert not alike([of(("a", number))])
    assert not alike([of(("a", text), backend="pyarrow")])
    assert not alike([of()])
    plain, nullable = pd.DataFrame({"a": [1]}), pd.DataFrame({"a": pd.array([1], "Int64")})
    plain, nullable = (make_layout(noted(frame), None, "numpy") for frame in (plain, nullable))
    assert not alike([plain, nullable])


def test_of_the_numbers_some_may_be_held_as_arrow_has_them():
    layout = of(("a", pa.int64()), ("b", pa.string()), ("c", pa.int64()), ("d", pa.float64()))
    assert layout.with_numbers((0, 2, 3)) is layout
    some = layout.with_numbers((2,))
    assert [(str(dtype), ats) for dtype, ats in some.numbers] == [("int64", (2,))]
    assert some.others == (0, 1, 3)
    assert (some.row_bytes, layout.row_bytes) == (8, 24)
    assert list(some.dtypes) == [2]
    assert layout.with_numbers(()).numbers == ()
