"""Which parts of an object to request: neighbours together, long ones divided."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import NamedTuple


class Range(NamedTuple):
    """Bytes from `start` to before `stop`."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """The number of bytes."""
        return self.stop - self.start


def merged(ranges: Iterable[Range], gap_bytes: int) -> list[Range]:
    """The ranges in order; those with at most `gap_bytes` between them are one.

    >>> merged([Range(10, 20), Range(0, 5), Range(100, 120)], 8)
    [Range(start=0, stop=20), Range(start=100, stop=120)]
    """
    out: list[Range] = []
    for start, stop in sorted(ranges):
        if stop <= start:
            continue
        if out and start - out[-1].stop <= gap_bytes:
            out[-1] = Range(out[-1].start, max(out[-1].stop, stop))
        else:
            out.append(Range(start, stop))
    return out


def divided(whole: Range, split_bytes: int) -> list[Range]:
    """A range in parts of nearly equal size, of at most `split_bytes`.

    >>> divided(Range(0, 10), 4)
    [Range(start=0, stop=3), Range(start=3, stop=6), Range(start=6, stop=10)]
    """
    count = max(1, -(-whole.size // split_bytes))
    edges = [whole.start + whole.size * step // count for step in range(count + 1)]
    return [Range(*edge) for edge in itertools.pairwise(edges)]
