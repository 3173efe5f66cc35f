"""The memory of cached rows: frames see it read-only, writes are detected, pandas copies first."""

from __future__ import annotations

import weakref
from typing import Protocol

import numpy as np
import pandas as pd

from ..parquet.layout import Layout
from .checksums import Checksums
from .pages import PAGE, WatchedPages, blank_memory

COPIED_BYTES = 1 << 20  # smaller frames get copies of the numbers, and keep no segment alive


class Watch(Protocol):
    """Detects writes to a block's rows."""

    def extend(self, rows: int) -> bool:
        """Record the first `rows` rows as final: they will not be written again.

        Returns:
            False if earlier rows are found changed. It checks only some of them: `is_unchanged`
            finds all changes.
        """
        ...

    def is_unchanged(self, start: int, stop: int) -> bool:
        """Whether rows are unchanged; may also check other rows."""
        ...


def shared_room(
    layout: Layout, rows: int, *, grows: bool
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Memory for numbers: an array per dtype to write to, and a read-only array of the same bytes.

    If rows will be added, each column begins at a page boundary, so that full pages can be watched.
    """
    if rows * layout.row_bytes <= COPIED_BYTES:
        blocks = [np.empty((len(positions), rows), dtype) for dtype, positions in layout.numbers]
        return blocks, blocks
    blocks, views = [], []
    for dtype, positions in layout.numbers:
        stride = rows * dtype.itemsize
        stride += -stride % PAGE if grows else 0
        shape, strides = (len(positions), rows), (stride, dtype.itemsize)
        writable, read_only = blank_memory(stride * len(positions))
        blocks.append(np.ndarray(shape, dtype, writable, 0, strides))
        views.append(np.ndarray(shape, dtype, read_only, 0, strides))
    return blocks, views


def watch(block: np.ndarray, rows: int, *, grows: bool) -> Watch:
    """Detect writes to final rows: by the kernel if it can, else by checksums."""
    watching: Watch
    try:
        watching = WatchedPages(block, grows=grows)
        watching.extend(rows)
    except OSError:
        watching = Checksums(block)
        watching.extend(rows)
    return watching


def copied_before_writing(frame: pd.DataFrame) -> pd.DataFrame:
    """Make pandas copy a frame's shared memory before it writes to it.

    pandas copies if another block refers to the same values. The array that owns the memory is
    recorded as such a block, since it lives as long as any view of it.
    """
    try:
        for block in frame._mgr.blocks:  # noqa: SLF001 - no public name has them
            values = getattr(block.values, "_ndarray", block.values)
            if isinstance(values, np.ndarray) and not values.flags.writeable:
                owner = values
                while isinstance(owner.base, np.ndarray):
                    owner = owner.base
                block.refs.referenced_blocks.append(weakref.ref(owner))
    except AttributeError:  # a pandas that tracks references differently
        return frame.copy()
    return frame
