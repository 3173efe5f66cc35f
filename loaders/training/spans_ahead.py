"""Request the spans of an epoch ahead of those who decode them, within a bound of bytes."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Sequence

from ..base.stages import stage
from ..parquet.reader import open_parquet, reading
from ..parquet.wanted_ranges import wanted_ranges
from ..remote.ahead import Begun, RequestPool
from ..remote.options import LIMITS
from ..remote.ranges import Range
from ..remote.source import RemoteSource, open_source
from ..remote.urls import is_url
from .spans import Span, check_groups


class SpansAhead:
    """Requests spans of objects in the order in which they will be read.

    Spans are requested while those that nobody has taken yet have at most `ahead_bytes` bytes; so
    memory does not grow with the number or the size of the objects. A span with more bytes than
    that is read on demand. The bytes of a span are estimated by its share of the object's rows, and
    by the share of wanted columns in the spans that were requested before.

    Args:
        spans: in the order of an epoch.
        requests: requests in flight.
        ahead_bytes: of spans that were requested and not taken.
    """

    def __init__(
        self, spans: Iterable[Span], requests: int, ahead_bytes: int = LIMITS.ahead_bytes
    ) -> None:
        by_id = {id(span): span for span in spans if is_url(span.path)}
        self._spans = list(by_id.values())
        self._number = {key: number for number, key in enumerate(by_id)}
        self._ahead_bytes = ahead_bytes
        self._lock = threading.Lock()
        self._begun: dict[int, tuple[Begun, float]] = {}
        self._next = 0
        self._waiting_bytes = 0.0
        self._wanted_bytes, self._stored_bytes = 1.0, 1.0
        self._pool = RequestPool(requests)
        weakref.finalize(self, self._pool.close)

    def take(self, span: Span) -> RemoteSource | None:
        """A span's object with the wanted parts; None for a file, and for a span taken before.

        Raises:
            ParquetFileError: the object does not exist, or was replaced.
            StorageError: the store refuses, or does not answer.
        """
        number = self._number.get(id(span))
        if number is None:
            return None
        with self._lock:
            self._begin_up_to(number)
            begun, size = self._begun.pop(number, (None, 0.0))
            self._waiting_bytes -= size
            self._begin_more()
        if begun is None:
            return None
        with stage("read"):
            return begun.result()

    def close(self) -> None:
        """Drop the requests that have not begun."""
        self._pool.close()

    def _begin_up_to(self, number: int) -> None:
        while self._next <= number:
            self._begin()

    def _begin_more(self) -> None:
        while self._next < len(self._spans) and self._fits(self._spans[self._next]):
            self._begin()

    def _fits(self, span: Span) -> bool:
        return not self._begun or self._waiting_bytes + self._estimate(span) <= self._ahead_bytes

    def _estimate(self, span: Span) -> float:
        share = min(1.0, self._wanted_bytes / self._stored_bytes)
        return _stored(span) * share

    def _begin(self) -> None:
        span = self._spans[self._next]
        size = self._estimate(span)
        self._begun[self._next] = self._pool.begin(lambda: self._plan(span)), size
        self._waiting_bytes += size
        self._next += 1

    def _plan(self, span: Span) -> tuple[RemoteSource, Sequence[Range]]:
        source = open_source(span.path)
        with reading(span.path), open_parquet(span.path, source) as file:
            check_groups(span, file.metadata)
            parts = list(wanted_ranges(file.metadata, span.names, span.groups))
        wanted = sum(part.size for part in parts)
        with self._lock:
            self._wanted_bytes += wanted
            self._stored_bytes += _stored(span)
        return source, parts if wanted <= self._ahead_bytes else []


def _stored(span: Span) -> float:
    """The bytes of all columns of a span, by its share of the object's rows."""
    return span.file_bytes * span.rows / max(1, span.file_rows)
