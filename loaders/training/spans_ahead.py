"""Request the objects of an epoch ahead of those who decode their spans."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from ..base.deferred_cleanup import CLOSING
from ..base.stages import stage
from ..parquet.reader import open_parquet, reading
from ..parquet.wanted_ranges import wanted_ranges
from ..remote.ahead import RequestPool, ahead_bytes_of
from ..remote.options import options_for
from ..remote.ranges import Range
from ..remote.requests import ChangedError
from ..remote.source import RemoteSource, open_source, source_of_version
from ..remote.urls import is_url
from ..remote.window import Planned, Wanted, Window
from .spans import Span, check_groups


class SpansAhead:
    """Requests spans of objects in the order in which they will be read.

    Args:
        spans: in the order of an epoch.
        requests: requests in flight.
    """

    def __init__(self, spans: Iterable[Span], requests: int) -> None:
        by_id = {id(span): span for span in spans if is_url(span.path)}
        self._spans = list(by_id.values())  # so that no other span gets the id of one
        pool = RequestPool(requests, ahead_bytes_of(span.path for span in self._spans))
        CLOSING.run_after(self, pool.close)
        self._window = Window(pool)
        numbers = self._window.add(
            [Wanted(partial(_plan, span), _stored(span)) for span in self._spans]
        )
        self._number = dict(zip(by_id, numbers, strict=True))

    def take(self, span: Span) -> RemoteSource | None:
        """A span's object with the wanted parts; None for a file, and for a span taken before.

        Raises:
            ParquetFileError: the object does not exist, or was replaced.
            StorageError: the store refuses, or does not answer.
        """
        number = self._number.get(id(span))
        if number is None:
            return None
        with stage("read"):
            return self._window.take(number)


def _plan(span: Span) -> Planned:
    is_small = span.file_bytes <= options_for(span.path).limits.whole_bytes
    if is_small and span.version is not None:
        source = source_of_version(span.path, span.file_bytes, span.version)
        return source, [Range(0, span.file_bytes)]
    source = open_source(span.path)
    if (source.size, source.version) != (span.file_bytes, span.version):
        raise ChangedError(span.path, "it was replaced since it was first opened; load again")
    with reading(span.path), open_parquet(span.path, source) as file:
        check_groups(span, file.metadata)
        return source, list(wanted_ranges(file.metadata, span.names, span.groups))


def _stored(span: Span) -> float:
    """The bytes of all columns of a span, by its share of the object's rows."""
    return span.file_bytes * span.rows / max(1, span.file_rows)
