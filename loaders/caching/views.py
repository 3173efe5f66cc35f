"""Memory that frames are views of: read-only, watched, and copied by pandas before it writes."""

from __future__ import annotations

import weakref
from typing import Protocol

import numpy as np
import pandas as pd

from ..parquet.layout import Layout
from .checksums import Checksums
from .pages import PAGE, WatchedPages, blank_memory

COPIED_BYTES = 1 << 20  # numbers of smaller frames are copied, so they keep no segment alive


class Watch(Protocol):
    """Detects writes to a block's rows."""

    def extend(self, rows: int) -> bool:
        """Take the first `rows` rows as final: they will not be written again.

        Returns:
            False if rows taken before are found to have changed; `is_unchanged` finds all other
            changes.
        """
        ...

    def is_unchanged(self, start: int, stop: int) -> bool:
        """Whether rows are unchanged; other rows may be checked, too."""
        ...


def shared_room(
    layout: Layout, rows: int, *, grows: bool
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Memory for numbers: arrays to write to, and read-only arrays of it for everyone else.

    If rows will be added, each column begins with a page, so that full pages can be watched.
    """
    if rows * layout.row_bytes <= COPIED_BYTES:
        blocks = [np.empty((len(positions), rows), dtype) for dtype, positions in layout.numbers]
        return blocks, blocks
    blocks, views = [], []
    for dtype, positions in layout.numbers:
        stride = rows * dtype.itemsize
        stride += -stride % PAGE if grows else 0
        shape, strides = (len(positions), rows), (stride, dtype.itemsize)
        written, seen = blank_memory(stride * len(positions))
        blocks.append(np.ndarray(shape, dtype, written, 0, strides))
        views.append(np.ndarray(shape, dtype, seen, 0, strides))
    return blocks, views


def watch(block: np.ndarray, rows: int, *, grows: bool) -> Watch:
    """Detect writes to rows that are final: by the kernel if it can, else by checksums."""
    found: Watch
    try:
        found = WatchedPages(block, grows=grows)
        found.extend(rows)
    except OSError:
        found = Checksums(block)
        found.extend(rows)
    return found


def copied_before_writing(frame: pd.DataFrame) -> pd.DataFrame:
    """Make pandas copy a frame's shared memory before it writes to it.

    pandas copies if it knows of other blocks with the same values. Here it is given the array
    that owns the memory as such a block; that array lives as long as any view of it.
    """
    try:
        for block in frame._mgr.blocks:  # noqa: SLF001 - nothing public has them
            values = getattr(block.values, "_ndarray", block.values)
            if isinstance(values, np.ndarray) and not values.flags.writeable:
                owner = values
                while isinstance(owner.base, np.ndarray):
                    owner = owner.base
                block.refs.referenced_blocks.append(weakref.ref(owner))
    except AttributeError:  # a pandas that tracks references differently
        return frame.copy()
    return frame
