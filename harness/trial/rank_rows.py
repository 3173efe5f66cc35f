"""The rows that a rank's loader delivers, recorded step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from .fingerprint import CHUNK_ROWS, UnverifiableError, as_rows
from .row_index import UNKNOWN, RowIndex

HELD = 2  # batches of an epoch that are kept, to see whether they change
SHOWN = 3  # unknown rows whose values are kept


def rows_of(batch: Any, names: Sequence[str]) -> np.ndarray:
    """The rows of a batch, float32 of shape (rows, columns), in the order of `names`.

    Args:
        batch: `X` or `(X, y)` of any framework, or columns by name: a mapping, a DataFrame or an
            Arrow table.
        names: the features, and then the target if there is one.

    Raises:
        UnverifiableError: a batch of another kind, or without one of the columns.
    """
    if isinstance(batch, pa.Table | pa.RecordBatch):
        batch = batch.to_pandas()
    if isinstance(batch, Mapping | pd.DataFrame):
        missing = [name for name in names if name not in batch]
        if missing:
            raise UnverifiableError(f"a batch has no column {missing[0]!r}")
        batch = tuple(_floats(name, batch[name]) for name in names)
    rows = as_rows(batch)
    if rows.shape[1] != len(names):
        raise UnverifiableError(
            f"a batch has {rows.shape[1]} columns, where {len(names)} were asked for: "
            f"{', '.join(names)}"
        )
    return rows


def _floats(name: str, values: Any) -> np.ndarray:
    try:
        return np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError):
        raise UnverifiableError(f"column {name!r} of a batch does not hold numbers") from None


class CannotVerifyError(Exception):
    """A loader that cannot be verified as its user asked; the message says what to change."""


class EpochRecord:
    """Which rows one epoch of a rank delivers.

    Args:
        index: the rows of the files.
        names: the columns of the rows.
    """

    def __init__(self, index: RowIndex, names: Sequence[str]) -> None:
        self._index = index
        self._names = names
        self._pending: list[np.ndarray] = []
        self._pending_rows = 0
        self._classes: list[np.ndarray] = []
        self._held: list[tuple[Any, np.ndarray]] = []
        self.steps: list[int] = []
        """The number of rows of each step."""
        self.unknown: list[list[float]] = []
        """The values of the first few rows that the files do not have."""

    def add(self, batch: Any) -> int:
        """Record the batch of the next step; return its number of rows."""
        # A loader may reuse the memory of a batch, so rows that wait are copies.
        rows = rows_of(batch, self._names).copy()
        if len(self._held) < HELD:
            self._held.append((batch, rows))
        self._pending.append(rows)
        self._pending_rows += len(rows)
        self.steps.append(len(rows))
        if self._pending_rows >= CHUNK_ROWS:
            self._classify()
        return len(rows)

    def changed(self) -> int:
        """The number of held batches whose values have changed since they were delivered."""
        return sum(
            not np.array_equal(rows_of(batch, self._names), rows, equal_nan=True)
            for batch, rows in self._held
        )

    def save(self, path: Path) -> None:
        """Write the class of each row and the rows of each step, for `load_record`."""
        self._classify()
        classes = np.concatenate(self._classes) if self._classes else np.zeros(0, np.int64)
        np.savez(path, classes=classes, steps=np.array(self.steps, np.int64))

    def _classify(self) -> None:
        if not self._pending:
            return
        rows = np.concatenate(self._pending)
        self._pending, self._pending_rows = [], 0
        classes = self._index.classes(rows)
        self._classes.append(classes)
        strange = rows[classes == UNKNOWN][: SHOWN - len(self.unknown)]
        self.unknown += [[float(value) for value in row] for row in strange]


def load_record(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """What `EpochRecord.save` wrote: the class of each row, and the rows of each step; int64."""
    with np.load(path) as arrays:
        return arrays["classes"], arrays["steps"]
