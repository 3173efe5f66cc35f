"""Reading objects alone: the same bytes, by as many requests in flight, without decoding them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ...loaders.parquet.reader import open_parquet, reading
from ...loaders.parquet.wanted_ranges import wanted_ranges
from ...loaders.remote.ahead import map_ahead
from ...loaders.remote.options import LIMITS, options_for
from ...loaders.remote.ranges import Range, divided, merged
from ...loaders.remote.requests import get
from ...loaders.remote.store import Span
from .alone import size_of

MOST_REQUESTS = 256  # in flight, of the least time that reading takes


class _Piece(NamedTuple):
    """A part of an object, or all of it."""

    path: str
    span: Span | None
    size: int


def objects_reader(
    paths: Sequence[str], columns: Sequence[str] | None, requests: int
) -> Callable[[], object]:
    """Return a function that requests the bytes of columns, `requests` parts at a time.

    Args:
        paths: objects.
        columns: their names; None means all bytes.
        requests: in flight.
    """
    pieces = [piece for path in paths for piece in _pieces(path, columns)]

    def read(piece: _Piece) -> int:
        return len(get(piece.path, piece.span).data)

    def read_all() -> int:
        return sum(map_ahead(read, pieces, requests, lambda piece: piece.size, LIMITS.ahead_bytes))

    return read_all


def _pieces(path: str, columns: Sequence[str] | None) -> list[_Piece]:
    """The requests for some columns of an object, as loaders divide them."""
    size, limits = size_of(path), options_for(path).limits
    if size <= limits.whole_bytes:
        return [_Piece(path, None, size)]
    with reading(path), open_parquet(path) as file:
        wanted = [Range(0, size)]
        if columns is not None:
            end = Range(max(0, size - limits.tail_bytes), size)
            wanted = [*wanted_ranges(file.metadata, columns), end]
    return [
        _Piece(path, Span(part.start, part.stop), part.size)
        for whole in merged(wanted, limits.gap_bytes)
        for part in divided(whole, limits.split_bytes)
    ]


def contents(paths: Sequence[str], requests: int) -> list[bytes]:
    """The bytes of objects."""
    return list(
        map_ahead(lambda path: get(path).data, paths, requests, size_of, LIMITS.ahead_bytes)
    )


def copied(paths: Sequence[str], folder: Path, requests: int) -> list[str]:
    """Copy objects into a folder; return the paths of the copies."""
    copies = [folder / f"{number:06}.parquet" for number in range(len(paths))]
    for copy, data in zip(copies, contents(paths, requests), strict=True):
        copy.write_bytes(data)
    return list(map(str, copies))
