"""Fingerprints of delivered rows: equal if names, dtypes and values are equal.

All missing values are equal, and so are 0.0 and -0.0; categories that no row has are ignored.
An object cell's kind counts: a date is not its ISO text, and 1 is neither 1.0 nor "1".
"""

from __future__ import annotations

import hashlib
import numbers
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from ..system.units import counted
from .consumption import parts

VERSION = "v3"  # of the algorithm; each digest begins with it
_KINDS = (
    (bool, "bool"), (np.bool_, "bool"), (numbers.Integral, "int"), (np.floating, "float"),
    (float, "float"), (str, "str"), (bytes, "bytes"), (datetime, "datetime"),
    (list, "list"), (np.ndarray, "list"),
)  # fmt: skip
"""The kinds of object cells, by type; any other type is a separate kind."""
_DIMENSIONS = (1, 2)  # of an array in a batch: rows, or rows and columns
SHOWN_COLUMNS = 3  # of those that differ
SHOWN_CHARS = 60  # of a name or a dtype
CHUNK_ROWS = 65_536  # batches are hashed together up to this many rows, since calls are costly


class Column(msgspec.Struct, frozen=True, array_like=True):
    """A summary of a column."""

    name: str
    """Its `repr` in Python, so that 0 and '0' are two names."""
    dtype: str
    unordered: int
    """A digest of the values, independent of their order."""
    ordered: str
    """A digest of the values in row order."""


def comparable(*digests: str) -> bool:
    """Whether digests come from the same version of the algorithm."""
    return len({digest.partition(":")[0] for digest in digests}) == 1


class Fingerprint(msgspec.Struct, frozen=True):
    """A digest of delivered rows, with the details to say how other rows differ."""

    digest: str
    rows: int = 0
    columns: tuple[Column, ...] = ()
    """Of a frame by name, of batches by position."""
    plain_index: bool = True
    """Whether a frame's index counts its rows from 0."""


def difference(found: Fingerprint, expected: Fingerprint) -> str:
    """How rows differ from those expected, in a few words; empty if that is unknown."""
    if found.rows != expected.rows:
        return f"{counted(found.rows, 'row')} instead of {expected.rows:,}"
    if [column.name for column in found.columns] != [column.name for column in expected.columns]:
        return _other_columns(found.columns, expected.columns)
    if found.plain_index != expected.plain_index:
        return "the index does not count the rows from 0: reset_index(drop=True)"
    values = _other_values(list(zip(found.columns, expected.columns, strict=True)))
    return values or ("each column has the right values, in other rows" if found.columns else "")


def _other_columns(found: Sequence[Column], expected: Sequence[Column]) -> str:
    names = {column.name: None for column in found}
    expected_names = {column.name: None for column in expected}
    if missing := [name for name in expected_names if name not in names]:
        return f"without {_listed(missing)}"
    if added := [name for name in names if name not in expected_names]:
        return f"with {_listed(added)}, which the files do not have"
    return "the columns come in another order, or more than once"


def _other_values(pairs: Sequence[tuple[Column, Column]]) -> str:
    """How columns of the same names differ, given as pairs of found and expected."""
    if cast := [(got, want) for got, want in pairs if got.dtype != want.dtype]:
        got, want = cast[0]
        more = f", and {len(cast) - 1} more of another dtype" if cast[1:] else ""
        return f"{_listed([got.name])} is {_cut(got.dtype)} instead of {_cut(want.dtype)}{more}"
    if changed := [got.name for got, want in pairs if got.unordered != want.unordered]:
        return f"other values in {_listed(changed)}"
    moved = [got.name for got, want in pairs if got.ordered != want.ordered]
    return f"the same values in another order: {_listed(moved)}" if moved else ""


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(_cut, names[:SHOWN_COLUMNS]))
    more = len(names) - SHOWN_COLUMNS
    return f"column{'s' * (len(names) > 1)} {shown}" + (f" and {more} more" if more > 0 else "")


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"


def frame_fingerprint(frame: pd.DataFrame) -> Fingerprint:
    """A digest of a frame: column names, dtypes, and all values in row order."""
    digest = hashlib.blake2b(digest_size=16)
    columns = []
    plain = isinstance(frame.index, pd.RangeIndex) and frame.index.equals(pd.RangeIndex(len(frame)))
    if not plain:
        hashes = _column_hashes(frame.index.to_series())
        digest.update(f"index {frame.index.dtype}\n".encode() + hashes.tobytes())
    for position, (name, dtype) in enumerate(zip(frame.columns, frame.dtypes, strict=True)):
        hashes = _column_hashes(frame.iloc[:, position])
        ordered = hashlib.blake2b(hashes.tobytes(), digest_size=16).hexdigest()
        digest.update(f"{name!r}\t{dtype}\t{ordered}\n".encode())
        columns.append(Column(repr(name), str(dtype), int(hashes.sum(dtype=np.uint64)), ordered))
    return Fingerprint(
        f"{VERSION}:{digest.hexdigest()}", len(frame), tuple(columns), plain_index=plain
    )


def _column_hashes(column: pd.Series) -> np.ndarray:
    """One 64-bit hash per value; missing values of all kinds are equal."""
    try:
        hashes: np.ndarray = pd.util.hash_pandas_object(column, index=False).to_numpy()
    except TypeError:  # cells that hold lists or dicts
        text = column.map(lambda value: repr(_plain(value)))
        hashes = pd.util.hash_pandas_object(text, index=False).to_numpy()
    if column.dtype == object:  # pandas hashes cells of several types by their text
        hashes = _finalise(hashes + _kind_hashes(column.to_numpy()))
    return hashes


def _kind_hashes(cells: np.ndarray) -> np.ndarray:
    """A 64-bit hash of each object cell's kind; 0 for missing values."""
    by_type = {kind: _kind_hash(kind) for kind in set(map(type, cells))}
    hashes = np.fromiter((by_type[type(cell)] for cell in cells), np.uint64, len(cells))
    missing: np.ndarray = pd.isna(cells)
    hashes[missing] = 0
    return hashes


def _kind_hash(kind: type) -> int:
    name = next((name for base, name in _KINDS if issubclass(kind, base)), kind.__qualname__)
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def _plain(value: Any) -> Any:
    """A cell as plain Python values, since numpy prints long arrays without their middle."""
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value.tolist()]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in sorted(value.items())}
    return value


class BatchFingerprint:
    """A digest of float32 batches, independent of their sizes.

    Args:
        ordered: whether the order of the rows counts; shuffled rows are compared without it.
    """

    def __init__(self, *, ordered: bool) -> None:
        self.ordered = ordered
        self.rows = 0
        self._sum = 0
        self._sums: list[int] = []
        self._digest = hashlib.blake2b(digest_size=16)

    def update(self, rows: np.ndarray) -> None:
        """Add rows, float32 of shape (rows, features and target)."""
        values = value_hashes(rows)
        hashes = row_hashes(values)
        self.rows += len(rows)
        if self.ordered:
            self._digest.update(hashes.tobytes())
        else:
            self._sum = _wrapped(self._sum, hashes)
        if len(self._sums) != rows.shape[1]:  # another width: restart the sums
            self._sums = [0] * rows.shape[1]
        self._sums = [_wrapped(total, values[:, i]) for i, total in enumerate(self._sums)]

    def result(self) -> Fingerprint:
        """The fingerprint of the rows added so far."""
        digest = self._digest.hexdigest() if self.ordered else f"{self._sum:016x}"
        columns = [Column(str(i), "", total, "") for i, total in enumerate(self._sums)]
        return Fingerprint(f"{VERSION}:{self.rows}:{digest}", self.rows, tuple(columns))


def value_hashes(rows: np.ndarray) -> np.ndarray:
    """One 64-bit hash per value; it differs between columns for the same value.

    +0 and -0 are the same value, and all NaN are.
    """
    clean = rows.astype(np.float32) + np.float32(0)
    clean[np.isnan(clean)] = np.nan
    bits = np.ascontiguousarray(clean).view(np.uint32).astype(np.uint64)
    return _finalise(bits + _factors(rows.shape[1]))


def row_hashes(values: np.ndarray) -> np.ndarray:
    """One 64-bit hash per row of hashed values.

    Each value is multiplied by its column's odd factor, and the sum goes through splitmix64's
    finaliser (Steele, Lea and Flood 2014).
    """
    mixed: np.ndarray = (values * _factors(values.shape[1])).sum(axis=1, dtype=np.uint64)
    return _finalise(mixed)


def _factors(columns: int) -> np.ndarray:
    random = np.random.default_rng(0x5EED)
    factors: np.ndarray = random.integers(0, 1 << 63, size=columns, dtype=np.uint64) * 2 + 1
    return factors


def _wrapped(total: int, hashes: np.ndarray) -> int:
    """Add hashes to a sum that wraps at 64 bits, independent of their order."""
    return (total + int(hashes.sum(dtype=np.uint64))) % (1 << 64)


def _finalise(values: np.ndarray) -> np.ndarray:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: np.ndarray = values ^ (values >> np.uint64(31))
    return result


def fingerprint_batches(batches: Iterable[Any], *, ordered: bool) -> Fingerprint:
    """The fingerprint of an epoch of `(X, y)` or `X` batches of any framework."""
    result = BatchFingerprint(ordered=ordered)
    for rows in _chunks(as_rows(batch) for batch in batches):
        result.update(rows)
    return result.result()


class UnverifiableError(Exception):
    """Batches whose rows cannot be compared with the original's."""


def as_rows(batch: Any) -> np.ndarray:
    """A batch as one float32 matrix, the target as its last column.

    Raises:
        UnverifiableError: it is not a matrix of numbers, nor a tuple or list of such matrices.
    """
    members = parts(batch)
    arrays = [np.asarray(part) for part in members]
    if not all(array.ndim in _DIMENSIONS and array.dtype.kind in "fiub" for array in arrays):
        kinds = ", ".join(sorted({type(part).__name__ for part in members}))
        raise UnverifiableError(
            f"a batch holds {kinds}, not matrices of numbers; its rows cannot be compared"
        )
    return np.column_stack(arrays).astype(np.float32, copy=False)


def _chunks(batches: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    pending: list[np.ndarray] = []
    rows = 0
    for batch in batches:
        pending.append(batch)
        rows += len(batch)
        if rows >= CHUNK_ROWS:
            yield np.concatenate(pending)
            pending, rows = [], 0
    if pending:
        yield np.concatenate(pending)
