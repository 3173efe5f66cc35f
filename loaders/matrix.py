"""Columns to the float32 matrix that training batches are gathered from."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from .errors import ColumnError, FeedrateWarning


@dataclass(frozen=True)
class Columns:
    """What becomes of a table's columns on the way to a model.

    NaN and null are the same and become `null_value`; infinities pass. Nulls in the target are
    warned about once per instance.

    Raises:
        ColumnError: no feature column, one named twice, or (on conversion) one that is missing
            or holds text.
    """

    features: tuple[str, ...]
    target: str | None = None
    null_value: float = 0.0
    _warned: set[str] = field(default_factory=set, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.features:
            raise ColumnError("feature_columns is empty; name at least one numeric column")
        if len(set(self.features)) < len(self.features):
            twice = next(name for name in self.features if self.features.count(name) > 1)
            raise ColumnError(f"column {twice!r} stands twice in feature_columns; name it once")

    @classmethod
    def of(
        cls, features: Sequence[str], target: str | None = None, null_value: float = 0.0
    ) -> Columns:
        """The columns as users give them; a single name in place of a list is an error."""
        if isinstance(features, str):
            raise ColumnError(f"feature_columns is {features!r}; give a list, [{features!r}]")
        return cls(tuple(features), target, float(null_value))

    @property
    def names(self) -> list[str]:
        """The columns to read: features, then the target unless it is one of them."""
        extra = [self.target] if self.target is not None else []
        return list(dict.fromkeys([*self.features, *extra]))

    def matrix(self, data: pd.DataFrame | pa.Table) -> tuple[np.ndarray, np.ndarray | None]:
        """Convert to float32.

        Returns:
            X of shape (rows, features), C-contiguous, and y of shape (rows,), or None without
            a target. Both own their memory.
        """
        rows = len(data)
        x = np.empty((rows, len(self.features)), dtype=np.float32)
        for position, name in enumerate(self.features):
            self._fill(x[:, position], data, name)
        if self.target is None:
            return x, None
        y = np.empty(rows, dtype=np.float32)
        nulls = self._fill(y, data, self.target)
        if nulls and self.target not in self._warned:
            self._warned.add(self.target)
            warnings.warn(
                f"target {self.target!r} has {nulls} nulls among {rows} rows, the first read that "
                f"hold any; nulls become {self.null_value:g} (null_value). Drop those rows first "
                "if that is not meant",
                FeedrateWarning,
                stacklevel=2,
            )
        return x, y

    def _fill(self, out: np.ndarray, data: pd.DataFrame | pa.Table, name: str) -> int:
        """Write a column into `out`; how many values were null or NaN."""
        values = _numeric(data, name)
        with np.errstate(over="ignore"):  # beyond float32 is infinite, as numpy has it
            out[:] = values
        missing = np.isnan(out)
        count = int(np.count_nonzero(missing))
        if count:
            out[missing] = self.null_value
        return count


def _numeric(data: pd.DataFrame | pa.Table, name: str) -> np.ndarray:
    """A column as a numeric numpy array, nulls as NaN."""
    if isinstance(data, pa.Table):
        return _numeric_arrow(data, name)
    if name not in data.columns:
        raise _missing(name, list(data.columns))
    column = data[name]
    if isinstance(column, pd.DataFrame):
        raise ColumnError(f"there are several columns {name!r}; give each a name of its own")
    if column.dtype.kind in "iufb" and isinstance(column.dtype, np.dtype):
        return column.to_numpy()
    try:
        values = pa.array(column, from_pandas=True)
    except pa.ArrowException as error:  # values of several kinds, or of none that Arrow has
        raise _not_numeric(name, column.dtype) from error
    return _numeric_arrow(pa.table({name: values}), name)


def _numeric_arrow(table: pa.Table, name: str) -> np.ndarray:
    if name not in table.column_names:
        raise _missing(name, table.column_names)
    column = table.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_boolean(kind) or pa.types.is_null(kind):
        column = pc.cast(column, pa.float32())
    elif pa.types.is_decimal(kind):
        column = pc.cast(column, pa.float64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise _not_numeric(name, kind)
    values: np.ndarray = column.to_numpy()
    return values


def _not_numeric(name: str, kind: object) -> ColumnError:
    return ColumnError(
        f"column {name!r} is {kind}, not numeric; leave it out of the features or turn it "
        "into numbers first (codes for text, days or seconds for dates)"
    )


def _missing(name: str, known: Sequence[str]) -> ColumnError:
    shown = ", ".join(map(str, list(known)[:20])) + (", …" if len(known) > 20 else "")  # noqa: PLR2004 - a screenful
    return ColumnError(f"there is no column {name!r}; the columns are: {shown}")
