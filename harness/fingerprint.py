"""Fingerprints of delivered rows: equal if and only if the rows are (but for hash collisions)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from .consumption import parts

_DIMENSIONS = (1, 2)  # of an array in a batch: rows, or rows and columns
CHUNK_ROWS = 65_536  # batches are hashed together up to so many rows, since a call costs more


def frame_fingerprint(frame: pd.DataFrame) -> str:
    """A digest of a frame: column names, dtypes, and all values in row order."""
    digest = hashlib.blake2b(digest_size=16)
    for name, dtype in zip(frame.columns, frame.dtypes, strict=True):
        digest.update(f"{name!r}\t{dtype}\n".encode())
    for position in range(frame.shape[1]):
        digest.update(_column_hashes(frame.iloc[:, position]).tobytes())
    return digest.hexdigest()


def _column_hashes(column: pd.Series) -> np.ndarray:
    """One 64-bit hash a value; missing values of all kinds count as one."""
    try:
        hashes: np.ndarray = pd.util.hash_pandas_object(column, index=False).to_numpy()
    except TypeError:  # cells that hold lists or dicts
        text = column.map(lambda value: repr(_plain(value)))
        hashes = pd.util.hash_pandas_object(text, index=False).to_numpy()
    return hashes


def _plain(value: Any) -> Any:
    """A cell as plain Python values, since numpy leaves out the middle when it prints."""
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value.tolist()]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in sorted(value.items())}
    return value


class BatchFingerprint:
    """A digest of float32 batches, whatever their sizes.

    Args:
        ordered: whether the order of the rows counts; shuffled rows are compared without it.
    """

    def __init__(self, *, ordered: bool) -> None:
        self.ordered = ordered
        self.rows = 0
        self._sum = 0
        self._digest = hashlib.blake2b(digest_size=16)

    def update(self, rows: np.ndarray) -> None:
        """Add rows, float32 of shape (rows, features and target)."""
        hashes = row_hashes(rows)
        self.rows += len(rows)
        if self.ordered:
            self._digest.update(hashes.tobytes())
        else:
            # Sums wrap around at 64 bits, and do not depend on the order.
            self._sum = (self._sum + int(hashes.sum(dtype=np.uint64))) % (1 << 64)

    def hexdigest(self) -> str:
        """The digest of what was added so far."""
        if self.ordered:
            return f"{self.rows}:{self._digest.hexdigest()}"
        return f"{self.rows}:{self._sum:016x}"


def row_hashes(rows: np.ndarray) -> np.ndarray:
    """One 64-bit hash a row; +0 and -0 are the same value, and all NaN are.

    Each value is multiplied by an odd number of its column's own, and the sum goes through
    splitmix64's finaliser (Steele, Lea and Flood 2014).
    """
    clean = rows.astype(np.float32) + np.float32(0)
    clean[np.isnan(clean)] = np.nan
    bits = np.ascontiguousarray(clean).view(np.uint32).astype(np.uint64)
    random = np.random.default_rng(0x5EED)
    factors = random.integers(0, 1 << 63, size=rows.shape[1], dtype=np.uint64) * 2 + 1
    mixed: np.ndarray = (_finalise(bits + factors) * factors).sum(axis=1, dtype=np.uint64)
    return _finalise(mixed)


def _finalise(values: np.ndarray) -> np.ndarray:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: np.ndarray = values ^ (values >> np.uint64(31))
    return result


def fingerprint_batches(batches: Iterable[Any], *, ordered: bool) -> str:
    """The digest of an epoch of `(X, y)` or `X` batches of any framework."""
    result = BatchFingerprint(ordered=ordered)
    for rows in _chunks(as_rows(batch) for batch in batches):
        result.update(rows)
    return result.hexdigest()


class UnverifiableError(Exception):
    """Batches whose rows cannot be compared with the original's."""


def as_rows(batch: Any) -> np.ndarray:
    """A batch as one float32 matrix, the target as its last column.

    Raises:
        UnverifiableError: it is no matrix of numbers, nor a tuple or list of them.
    """
    held = parts(batch)
    arrays = [np.asarray(part) for part in held]
    if not all(array.ndim in _DIMENSIONS and array.dtype.kind in "fiub" for array in arrays):
        kinds = ", ".join(sorted({type(part).__name__ for part in held}))
        raise UnverifiableError(
            f"a batch holds {kinds}, not matrices of numbers; its rows cannot be compared"
        )
    return np.column_stack(arrays).astype(np.float32, copy=False)


def _chunks(batches: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    waiting: list[np.ndarray] = []
    for batch in batches:
        waiting.append(batch)
        if sum(map(len, waiting[-1:])) and sum(map(len, waiting)) >= CHUNK_ROWS:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)
