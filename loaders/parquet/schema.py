"""Compare schemas of files: which columns differ, and how pandas can convert them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

# Types whose conversion to pandas depends only on each value and on whether there are nulls, so
# that converting all files' rows at once equals converting file by file.
_PLAIN = (
    pt.is_integer, pt.is_floating, pt.is_boolean, pt.is_string, pt.is_large_string,
    pt.is_string_view, pt.is_date, pt.is_time, pt.is_decimal, pt.is_binary, pt.is_large_binary,
    pt.is_fixed_size_binary, pt.is_duration, pt.is_null,
)  # fmt: skip


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is text, in any of Arrow's layouts."""
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


_KINDS = (
    ("number", lambda t: pt.is_integer(t) or pt.is_floating(t)),
    ("boolean", pt.is_boolean),
    ("text", is_text),
    ("decimal", pt.is_decimal),
    ("date", pt.is_date),
    ("time", pt.is_time),
    ("timestamp", lambda t: pt.is_timestamp(t) and t.tz is None),
    ("timestamp with zone", lambda t: pt.is_timestamp(t) and t.tz is not None),
    ("category", pt.is_dictionary),
    ("nested", pt.is_nested),
)


# Before this version pyarrow gave pytz zones, which pandas converts in its own way.
_ZONEINFO_SINCE = 25


@dataclass(frozen=True)
class Difference:
    """A column that two files hold differently."""

    column: str
    first: str
    first_kind: str
    second: str
    second_kind: str

    def __str__(self) -> str:
        return (
            f"column {self.column!r} is {self.first_kind} in {self.first} but "
            f"{self.second_kind} in {self.second}"
        )


def kind_of(kind: pa.DataType) -> str | None:
    """A type's kind in user terms; None for all-null columns, which match any kind."""
    if pt.is_null(kind):
        return None
    return next((name for name, matches in _KINDS if matches(kind)), str(kind))


_PLURALS = {
    "number": "numbers", "boolean": "booleans", "text": "text", "decimal": "decimals",
    "date": "dates", "time": "times", "timestamp": "timestamps",
    "timestamp with zone": "timestamps with zone", "category": "categories", None: "nulls",
}  # fmt: skip


def in_words(kind: pa.DataType) -> str:
    """Name the values of a column of this type, in user terms.

    >>> in_words(pa.list_(pa.list_(pa.string()))), in_words(pa.decimal128(9, 2))
    ('lists of lists of text', 'decimals')
    >>> in_words(pa.struct([("a", pa.int8()), ("b", pa.list_(pa.int8()))]))
    'structs of lists of numbers'
    """
    if pt.is_list(kind) or pt.is_large_list(kind):
        return f"lists of {in_words(kind.value_type)}"
    if pt.is_fixed_size_list(kind):
        return f"lists of {kind.list_size} {in_words(kind.value_type)}"
    if pt.is_map(kind):
        return "maps"
    if pt.is_struct(kind):
        nested = [in_words(field.type) for field in kind if pt.is_nested(field.type)]
        return f"structs of {' and '.join(dict.fromkeys(nested))}" if nested else "structs"
    return _PLURALS.get(kind_of(kind)) or f"{kind} values"


def differences(
    paths: Sequence[str | os.PathLike[str]],
    schemas: Sequence[pa.Schema],
    columns: Sequence[str] | None = None,
) -> list[Difference]:
    """The columns that differ in kind, or are missing in some files; one entry per column.

    Args:
        paths: the files.
        schemas: their schemas.
        columns: the columns to compare; None means all.
    """
    if all(schema is schemas[0] or schema.equals(schemas[0]) for schema in schemas):
        return []
    firsts: dict[pa.Schema, int] = {}  # the position of the first file of each schema
    for position, schema in enumerate(schemas):
        firsts.setdefault(schema.remove_metadata(), position)
    kinds = [
        (position, {field.name: kind_of(field.type) for field in schema})
        for schema, position in firsts.items()
    ]
    found = []
    if columns is None:
        columns = list(dict.fromkeys(name for _, by_name in kinds for name in by_name))
    for column in columns:
        seen: dict[str, str] = {}  # kind to the first file that has it
        for position, by_name in kinds:
            kind = by_name.get(column, "missing")
            if kind is not None:
                seen.setdefault(kind, os.fspath(paths[position]))
        if len(seen) > 1:
            (first_kind, first), (second_kind, second) = list(seen.items())[:2]
            found.append(Difference(column, first, first_kind, second, second_kind))
    return found


def first_leaves(schema: pa.Schema) -> list[int]:
    """The position of each column's first leaf among the leaf columns of a Parquet file.

    Leaves are found by position, since a column's name may equal the path of another's field.

    >>> first_leaves(pa.schema([("a", pa.struct([("b", "i8"), ("c", "i8")])), ("a.b", "i8")]))
    [0, 2]
    """
    counts = [_leaves(kind) for kind in schema.types]
    return list(accumulate(counts[:-1], initial=0)) if counts else []


def _leaves(kind: pa.DataType) -> int:
    if isinstance(kind, pa.BaseExtensionType):
        return _leaves(kind.storage_type)
    if pt.is_nested(kind):
        return sum(_leaves(kind.field(at).type) for at in range(kind.num_fields))
    return 1


def is_shallow(kind: pa.DataType) -> bool:
    """Whether a type is a list of numbers, booleans or text, or a struct of such."""
    if pt.is_list(kind) or pt.is_large_list(kind):
        return _is_leaf(kind.value_type)
    if pt.is_struct(kind) and kind.num_fields:
        return all(_is_leaf(field.type) for field in kind)
    return False


def _is_leaf(kind: pa.DataType) -> bool:
    return (
        pt.is_integer(kind)
        or pt.is_float32(kind)
        or pt.is_float64(kind)
        or pt.is_boolean(kind)
        or is_text(kind)
    )


def nulls_change_types(chunk: pa.Array) -> bool:
    """Whether nulls within lists or structs change how other rows of the chunk are converted.

    One null makes all integers of all lists, or of a struct's field, floats; booleans become
    objects. A null struct has null fields.
    """
    if pt.is_struct(chunk.type):
        parts = [chunk.field(at) for at in range(chunk.type.num_fields)]
    else:
        start, stop = (chunk.offsets[at].as_py() for at in (0, -1))
        parts = [chunk.values.slice(start, stop - start)]  # also values under null lists
    parts = [part for part in parts if pt.is_integer(part.type) or pt.is_boolean(part.type)]
    has_null_structs = pt.is_struct(chunk.type) and chunk.null_count > 0
    return any(has_null_structs or part.null_count for part in parts)


def converts_plainly(schema: pa.Schema) -> bool:
    """Whether `Table.to_pandas` gives the same frame of a file as `pandas.read_parquet`."""
    return why_pandas_must_read(schema) is None


def why_pandas_must_read(schema: pa.Schema) -> str | None:
    """Why pandas has to read files of a schema, one by one; None if it need not.

    pandas handles duplicate names, attributes, a stored index, deeply nested columns and extension
    types in its own way.

    >>> why_pandas_must_read(pa.schema([("a", pa.list_(pa.list_(pa.int8())))]))
    "column 'a' holds lists of lists of numbers (list<item: list<item: int8>>)"
    """
    if len(set(schema.names)) < len(schema.names):
        return "several columns have one name"
    metadata = schema.metadata or {}
    if b"PANDAS_ATTRS" in metadata:
        return "the frame's attributes are stored"
    if _stores_index(metadata):
        return "an index is stored"
    for field in schema:
        if needs_pandas(field.type):
            return f"column {field.name!r} holds {in_words(field.type)} ({field.type})"
    return None


def needs_pandas(kind: pa.DataType) -> bool:
    """Whether pandas has to read a file because of a column of this type."""
    return not (_is_plain(kind) or pt.is_dictionary(kind) or is_shallow(kind))


def converts_together(schemas: Sequence[pa.Schema]) -> bool:
    """Whether files that convert plainly may be converted at once: equal types, pandas metadata.

    False for files without columns, since Arrow loses their number of rows, and for categories
    that are not text.
    """
    first = schemas[0]
    if not first.names or any(
        pt.is_dictionary(kind) and not is_text(kind.value_type) for kind in first.types
    ):
        return False
    expected = None
    for schema in schemas[1:]:
        if schema.equals(first, check_metadata=True):
            continue
        if not schema.equals(first):
            return False
        expected = _pandas_metadata(first) if expected is None else expected
        if _pandas_metadata(schema) != expected:
            return False
    return True


def _is_plain(kind: pa.DataType) -> bool:
    if pt.is_timestamp(kind):
        return kind.tz is None or int(pa.__version__.split(".")[0]) >= _ZONEINFO_SINCE
    return any(matches(kind) for matches in _PLAIN)


def _stores_index(metadata: dict[bytes, bytes]) -> bool:
    decoded = _decode(metadata)
    return any(not isinstance(index, dict) for index in decoded.get("index_columns", ()))


def _pandas_metadata(schema: pa.Schema) -> tuple[Any, Any, Any]:
    """The pandas metadata: extension dtypes, names of the column index, frame attributes."""
    decoded = _decode(schema.metadata or {})
    columns = decoded.get("columns")
    for column in columns or ():
        if isinstance(column, dict) and isinstance(details := column.get("metadata"), dict):
            details.pop("num_categories", None)  # the dictionaries have it
    return columns, decoded.get("column_indexes"), decoded.get("attributes")


def _decode(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    decoded = json.loads(metadata.get(b"pandas", b"{}"))
    return decoded if isinstance(decoded, dict) else {}
