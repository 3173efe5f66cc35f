"""Memory that frames are views of: read-only, watched, and copied by pandas where it writes."""

from __future__ import annotations

import weakref
from typing import Protocol

import numpy as np
import pandas as pd

from ..parquet.layout import Layout
from .checksums import Checksums
from .pages import PAGE, WatchedPages, blank_memory

COPIED_BYTES = 1 << 20  # numbers of smaller frames are copied, lest they keep a segment alive


class Watch(Protocol):
    """Notices writes to a block's rows."""

    def extend(self, rows: int) -> bool:
        """Take the first so many rows, of which no more will be written to.

        Returns:
            False where rows that were taken before are noticed to have changed; `hold` notices
            all others.
        """
        ...

    def hold(self, start: int, stop: int) -> bool:
        """Whether rows are what they were; others may count, too."""
        ...


def shared_room(
    layout: Layout, rows: int, *, grows: bool
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Memory for numbers, once to be written and once as all others have it, read-only.

    Where rows are to come each column begins with a page, so that those that are full can be
    watched.
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
    """Something that notices writes to rows that are final: the kernel where it can."""
    found: Watch
    try:
        found = WatchedPages(block, grows=grows)
        found.extend(rows)
    except OSError:
        found = Checksums(block)
        found.extend(rows)
    return found


def copied_before_writing(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame of which pandas copies what it writes to, where others have the memory, too.

    pandas copies where it knows of other blocks of the same values. Here it is given the array
    that owns the memory to count as one, which lives for as long as any view of it.
    """
    try:
        for block in frame._mgr.blocks:  # noqa: SLF001 - nothing public has them
            values = getattr(block.values, "_ndarray", block.values)
            if isinstance(values, np.ndarray) and not values.flags.writeable:
                owner = values
                while isinstance(owner.base, np.ndarray):
                    owner = owner.base
                block.refs.referenced_blocks.append(weakref.ref(owner))
    except AttributeError:  # a pandas that counts otherwise
        return frame.copy()
    return frame
