"""How the columns of files of one schema are held: as numbers in numpy, or in Arrow.

Numbers are columns to which pandas gives the same numpy dtype for all values, with NaN or NaT for
null. All others stay in Arrow until a frame is made: text, objects, dtypes from the pandas
metadata, and integers and booleans if a file turns out to have nulls.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.pandas_compat  # else the first load imports it, in 5 ms
import pyarrow.types as pt

from ..base.settings import DtypeBackend
from .footers import FileSchema
from .reader import PANDAS_DAMAGE
from .schema import converts_plainly, converts_together, first_leaves, is_shallow, is_text

# Types that polars decodes to the same values as Arrow. INT96 timestamps are left to Arrow.
_SAME_IN_POLARS = (
    pt.is_integer, pt.is_float32, pt.is_float64, pt.is_boolean, pt.is_date32, pt.is_decimal128,
    pt.is_string, pt.is_large_string, pt.is_string_view,
)  # fmt: skip

KNOWN = 4096  # layouts remembered before starting over


@dataclass(frozen=True, eq=False)
class Layout:
    """The columns of files of one schema, in order."""

    schema: pa.Schema
    template: pd.DataFrame
    """A frame without rows, for labels, dtypes and attributes."""
    numbers: tuple[tuple[np.dtype[Any], tuple[int, ...]], ...]
    """Positions of the columns held as numbers, by dtype."""
    others: tuple[int, ...]
    """Positions of the columns held in Arrow."""
    by_polars: tuple[int, ...]
    """Positions of the columns that polars may decode; Arrow decodes the others."""
    coded: tuple[int, ...]
    """Positions of categories, which polars may decode if their dictionaries are available."""
    together: bool
    """Whether rows of several files may be converted at once."""
    leaves: tuple[int, ...]
    """The position of each column's first leaf among the leaf columns of the files."""

    @cached_property
    def names(self) -> list[str]:
        """The columns' names, cached because a schema makes a new list each time."""
        return list(self.schema.names)

    @cached_property
    def types(self) -> list[pa.DataType]:
        """Their types in Arrow."""
        return list(self.schema.types)

    @cached_property
    def dtypes(self) -> dict[int, np.dtype[Any]]:
        """The dtype of each column held as numbers, by position."""
        return {position: dtype for dtype, positions in self.numbers for position in positions}

    @cached_property
    def nullable(self) -> frozenset[int]:
        """Positions of the columns that may hold nulls."""
        return frozenset(at for at, column in enumerate(self.schema) if column.nullable)

    @cached_property
    def nested(self) -> frozenset[int]:
        """Positions of lists and structs."""
        return frozenset(at for at, kind in enumerate(self.types) if pt.is_nested(kind))

    @cached_property
    def has_categories(self) -> bool:
        """Whether there are categories, whose dtype depends on the values of each file."""
        return any(map(pt.is_dictionary, self.types))

    @cached_property
    def pandas_dtypes(self) -> tuple[Any, ...]:
        """The dtype of each column in a frame without rows."""
        return tuple(self.template.dtypes)

    @cached_property
    def arrow_types(self) -> tuple[pa.DataType, ...]:
        """The type of each column when it is held in Arrow."""
        return tuple(
            pa.large_string() if isinstance(dtype, pd.StringDtype) else kind
            for kind, dtype in zip(self.types, self.pandas_dtypes, strict=True)
        )

    @cached_property
    def polars_types(self) -> dict[int, Any]:
        """The polars types of the columns that polars may decode, by position."""
        import polars as pl

        positions = sorted((*self.by_polars, *self.coded))
        frame = pl.DataFrame(self.schema.empty_table().select(positions))
        return dict(zip(positions, frame.dtypes, strict=True))

    @property
    def row_bytes(self) -> int:
        """Bytes of a row's numbers."""
        return sum(dtype.itemsize * len(positions) for dtype, positions in self.numbers)

    def with_numbers(self, positions: Collection[int]) -> Layout:
        """The same layout, with only the columns at these positions held as numbers."""
        if len(positions) == len(self.dtypes):
            return self
        kept = ((dtype, tuple(at for at in old if at in positions)) for dtype, old in self.numbers)
        numbers = tuple((dtype, new) for dtype, new in kept if new)
        others = tuple(at for at in range(len(self.schema)) if at not in positions)
        return dataclasses.replace(self, numbers=numbers, others=others)


@dataclass
class Layouts:
    """Makes layouts, one for each schema and list of columns.

    Args:
        dtype_backend: `numpy`, or `pyarrow`, which leaves all columns to Arrow.
    """

    dtype_backend: DtypeBackend = "numpy"
    _known: dict[tuple[int, tuple[str, ...] | None], tuple[FileSchema, Layout | None]] = field(
        default_factory=dict
    )

    def of(self, schema: FileSchema, columns: Sequence[str] | None) -> Layout | None:
        """The layout of a file's wanted columns; None if pandas has to read the file."""
        key = (id(schema), None if columns is None else tuple(columns))
        if key not in self._known:
            if len(self._known) >= KNOWN:
                self._known.clear()
            try:
                layout = make_layout(schema, columns, self.dtype_backend)
            except PANDAS_DAMAGE:  # bad pandas metadata: pandas reads the file, or raises the error
                layout = None
            # Keep the schema with its layout, so that no other object gets its id.
            self._known[key] = (schema, layout)
        return self._known[key][1]


def make_layout(
    stored: FileSchema, columns: Sequence[str] | None, dtype_backend: DtypeBackend
) -> Layout | None:
    """Like `Layouts.of`, without its cache."""
    schema = wanted(stored.arrow, columns)
    if not converts_plainly(stored.arrow if columns is None else schema):
        return None
    mapper = pd.ArrowDtype if dtype_backend == "pyarrow" else None
    template = schema.empty_table().to_pandas(types_mapper=mapper)
    if len(template.columns) != len(schema.names):
        return None
    numbers: dict[np.dtype[Any], list[int]] = {}
    others = []
    leaves = dict(zip(stored.arrow.names, first_leaves(stored.arrow), strict=True))
    for position, (kind, dtype) in enumerate(zip(schema.types, template.dtypes, strict=True)):
        if _is_number(kind) and isinstance(dtype, np.dtype) and dtype == kind.to_pandas_dtype():
            numbers.setdefault(dtype, []).append(position)
        else:
            others.append(position)
    return Layout(
        schema,
        template.reset_index(drop=True),
        tuple((dtype, tuple(positions)) for dtype, positions in numbers.items()),
        tuple(others),
        by_polars=() if "INT96" in stored.physical else _positions(schema, _suits_polars),
        coded=() if "INT96" in stored.physical else _positions(schema, _is_coded),
        together=converts_together([schema, schema])
        and not (mapper and any(map(pt.is_dictionary, schema.types))),
        leaves=tuple(leaves[name] for name in schema.names),
    )


def wanted(schema: pa.Schema, columns: Sequence[str] | None) -> pa.Schema:
    """The fields of the wanted columns that exist, in the wanted order."""
    if columns is None:
        return schema
    positions = (at for name in dict.fromkeys(columns) for at in schema.get_all_field_indices(name))
    return pa.schema([schema.field(at) for at in positions], schema.metadata)


def alike(layouts: Iterable[Layout]) -> bool:
    """Whether rows of all these layouts may be converted at once."""
    first, *others = dict.fromkeys(layouts)
    if not first.together:
        return False
    return not others or converts_together([first.schema, *(other.schema for other in others)])


def held_alike(one: Layout, other: Layout) -> bool:
    """Whether a segment of one layout may hold rows of the other."""
    if one is other:
        return True
    same_dtypes = one.numbers == other.numbers and one.pandas_dtypes == other.pandas_dtypes
    return same_dtypes and alike([one, other])


def _is_number(kind: pa.DataType) -> bool:
    return (
        pt.is_integer(kind)
        or pt.is_floating(kind)
        or pt.is_boolean(kind)
        or (pt.is_timestamp(kind) and kind.tz is None)
    )


def _positions(schema: pa.Schema, matches: Callable[[pa.DataType], bool]) -> tuple[int, ...]:
    return tuple(at for at, kind in enumerate(schema.types) if matches(kind))


def _is_coded(kind: pa.DataType) -> bool:
    return bool(pt.is_dictionary(kind)) and is_text(kind.value_type)


def _suits_polars(kind: pa.DataType) -> bool:
    if pt.is_timestamp(kind):
        suits: bool = kind.unit != "s"
        return suits
    if pt.is_nested(kind):
        return is_shallow(kind)
    return any(matches(kind) for matches in _SAME_IN_POLARS)
