"""Convert columns to the matrix of floats from which training batches are gathered."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..base.errors import ColumnError, InputError
from ..base.stages import stage
from ..base.warn import warn
from .numeric import numbers

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from numpy.typing import DTypeLike

Make = Callable[[tuple[int, ...], np.dtype], np.ndarray]
"""Makes an array of a shape and dtype."""

DTYPES = ("float16", "float32", "float64")
FLOAT32 = np.dtype("float32")
# The matrix is filled column by column, in blocks of this many bytes, which are then searched for
# numbers that the dtype rounds. Blocks of 256 KiB, which stay in the CPU cache, were faster in one
# thread, but slower in two: every call releases the interpreter's lock.
BLOCK_BYTES = 4 << 20
COLUMNS_AT_ONCE = 16  # columns converted at once: as many float32 as fit in a cache line


@dataclass(frozen=True)
class Columns:
    """How a table's columns are converted for a model.

    NaN and null become `null_value`; infinities are kept, and numbers beyond the range of `dtype`
    become infinite. `numeric.numbers` lists the rule for each column type. Two problems cause a
    warning, once per column and instance: nulls in a target, and whole numbers (also decimals and
    times) beyond those that `dtype` holds exactly.

    Raises:
        ColumnError: no feature column, one named twice, or (on conversion) one that is missing
            or holds text.
    """

    features: tuple[str, ...]
    target: str | tuple[str, ...] | None = None
    """One name gives a vector, several names a matrix with a column each."""
    null_value: float = 0.0
    dtype: np.dtype = FLOAT32
    _warned: dict[tuple[str, str], object] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_names("feature_columns", self.features)
        if isinstance(self.target, tuple):
            _check_names("target_column", self.target)

    @classmethod
    def of(
        cls,
        features: Sequence[str],
        target: str | Sequence[str] | None = None,
        null_value: float = 0.0,
        dtype: DTypeLike = FLOAT32,
    ) -> Columns:
        """The columns for a user's arguments.

        Args:
            features: the columns of X; a single name in place of a list is an error.
            target: one name for y of shape (rows,), several for (rows, targets), None for no y.
            null_value: what NaN and null become.
            dtype: float16, float32 or float64, as a name or as numpy's, torch's or TensorFlow's.

        Raises:
            ColumnError: no column, or one named twice.
            InputError: an unsupported dtype.
        """
        if isinstance(features, str):
            raise ColumnError(f"feature_columns is {features!r}; give a list, [{features!r}]")
        several = isinstance(target, Iterable) and not isinstance(target, str)
        return cls(
            tuple(features),
            tuple(target) if several else target,  # type: ignore[arg-type]  # so it is iterable
            float(null_value),
            _float_dtype(dtype),
        )

    @property
    def targets(self) -> tuple[str, ...]:
        """The target columns: none, one or several."""
        if self.target is None:
            return ()
        return self.target if isinstance(self.target, tuple) else (self.target,)

    @property
    def names(self) -> list[str]:
        """The columns to read: features, then targets that are not features."""
        return list(dict.fromkeys([*self.features, *self.targets]))

    def empty(self, rows: int, make: Make = np.empty) -> tuple[np.ndarray, ...]:
        """X and, with a target, y of `rows` rows, made by `make` and not filled."""
        x = make((rows, len(self.features)), self.dtype)
        if self.target is None:
            return (x,)
        width = (len(self.target),) if isinstance(self.target, tuple) else ()
        return x, make((rows, *width), self.dtype)

    def matrix(self, data: pd.DataFrame | pa.Table) -> tuple[np.ndarray, np.ndarray | None]:
        """Convert to `dtype`.

        Returns:
            X of shape (rows, features), C-contiguous; y of shape (rows,), (rows, targets) for a
            sequence of targets, or None without a target. Both own their memory.

        Raises:
            ColumnError: a column that is missing or not numeric.
        """
        arrays = self.empty(len(data))
        self.fill(data, arrays)
        return arrays[0], arrays[1] if len(arrays) > 1 else None

    def fill(self, data: pd.DataFrame | pa.Table, arrays: Sequence[np.ndarray]) -> None:
        """As `matrix`, into arrays like those of `empty(len(data))`."""
        rows = len(data)
        with stage("convert"):
            for low in range(0, len(self.features), COLUMNS_AT_ONCE):
                columns = slice(low, low + COLUMNS_AT_ONCE)
                self._fill(arrays[0][:, columns], data, self.features[columns])
            if not self.targets:
                return
            targets = arrays[1].reshape(rows, len(self.targets))
            null_counts = self._fill(targets, data, self.targets)
        for name, nulls in zip(self.targets, null_counts, strict=True):
            if nulls and self._is_first("null", name):
                warn(
                    f"target {name!r} has {nulls} nulls among {rows} rows (later rows are not "
                    f"counted); nulls become {self.null_value:g} (null_value). To leave those rows "
                    "out, drop them first"
                )

    def _fill(
        self, out: np.ndarray, data: pd.DataFrame | pa.Table, names: Sequence[str]
    ) -> list[int]:
        """Write columns into `out`; return how many values of each were null or NaN."""
        columns = [numbers(data, name) for name in names]
        may_round = any(exact and self._may_round(values) for values, exact in columns)
        is_beyond = False
        step = max(1, BLOCK_BYTES // (out.strides[0] or 1))  # numpy has 0 without rows
        with np.errstate(over="ignore"):  # infinite beyond the dtype's range
            for low in range(0, len(out), step):
                block = out[low : low + step]
                for position, (values, _) in enumerate(columns):
                    block[:, position] = values[low : low + step]
                # A number beyond the limit may round to it; comparisons with NaN are false.
                if may_round and not (-self._limit < block.min() and block.max() < self._limit):
                    is_beyond = True
        nulls = [0] * len(names)
        for position, (name, (values, exact)) in enumerate(zip(names, columns, strict=True)):
            if values.dtype.kind == "f":
                missing = np.isnan(values)
                nulls[position] = int(np.count_nonzero(missing))
                if nulls[position]:
                    out[missing, position] = self.null_value
            if is_beyond and exact and self._may_round(values):
                self._check_rounding(name, values)
        return nulls

    @property
    def _limit(self) -> int:
        """The dtype holds every whole number up to this limit."""
        return int(2 ** (np.finfo(self.dtype).nmant + 1))

    def _may_round(self, values: np.ndarray) -> bool:
        return values.dtype.kind == "f" or np.iinfo(values.dtype).max > self._limit

    def _check_rounding(self, name: str, values: np.ndarray) -> None:
        # In floats NaN marks nulls; fmin and fmax ignore it.
        extremes = np.fmin.reduce(values), np.fmax.reduce(values)
        extreme = max((value.item() for value in extremes), key=abs)
        if abs(extreme) > self._limit and self._is_first("rounding", name):
            shown = int(extreme) if math.isfinite(extreme) else "numbers beyond float64"
            warn(
                f"column {name!r} holds {shown}, but {self.dtype} holds whole numbers "
                f"exactly only up to {self._limit}; larger ones are rounded. If that matters, take "
                "a wider dtype, subtract an offset first, or leave the column out"
            )

    def _is_first(self, problem: str, name: str) -> bool:
        # In one step, since several threads convert chunks.
        token = object()
        return self._warned.setdefault((problem, name), token) is token


def _check_names(argument: str, names: tuple[str, ...]) -> None:
    if not names:
        raise ColumnError(f"{argument} is empty; name at least one numeric column")
    if len(set(names)) < len(names):
        duplicate = next(name for name in names if names.count(name) > 1)
        raise ColumnError(f"column {duplicate!r} is in {argument} twice; name it once")


def _float_dtype(dtype: DTypeLike | None) -> np.dtype:
    """The numpy dtype of any spelling: TensorFlow's dtypes have a name, torch's a prefix."""
    for spelling in (dtype, getattr(dtype, "name", ""), str(dtype).removeprefix("torch.")):
        try:
            numpy_dtype = np.dtype(spelling)
        except TypeError:
            continue
        if dtype is not None and numpy_dtype.name in DTYPES:
            return numpy_dtype
    raise InputError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}")
