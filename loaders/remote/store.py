"""The interface of a store of objects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from .urls import RemotePath

PAGE = 1000  # objects in one answer to a listing: S3 and GCS return no more


class Body(NamedTuple):
    """Bytes of an object."""

    data: bytes
    start: int
    """The offset of the first byte in the object."""
    size: int
    """Of the whole object."""
    version: str | None
    """The ETag."""
    modified_ns: int


class Span(NamedTuple):
    """A range of bytes: from `start` to before `stop`; the last `-start` bytes if negative."""

    start: int
    stop: int | None = None


def bounds(span: Span | None, size: int) -> tuple[int, int]:
    """The first offset and that after the last, in an object of some size.

    >>> bounds(Span(-3), 10), bounds(Span(2, 20), 10), bounds(None, 10)
    ((7, 10), (2, 10), (0, 10))
    """
    if span is None:
        return 0, size
    start = max(0, size + span.start) if span.start < 0 else span.start
    return start, size if span.stop is None else min(size, span.stop)


class Store(Protocol):
    """A bucket, as this process sees it."""

    pages: bool
    """Whether `page` may be used."""

    def get(self, key: str, span: Span | None, version: str | None) -> Body:
        """Read an object, or a part of it, by one request; if `version` is given, only that one.

        Raises:
            Fault: the request failed.
        """
        ...

    def page(self, prefix: str, after: str) -> list[RemotePath]:
        """Up to `PAGE` objects below a prefix, from the first after a key, by one request.

        Raises:
            Fault: the request failed.
        """
        ...

    def all(self, prefix: str) -> Iterator[list[RemotePath]]:
        """All objects below a prefix, some at a time.

        Raises:
            Fault: a request failed.
        """
        ...

    def folders(self, prefix: str) -> tuple[list[str], list[RemotePath]]:
        """The keys of the folders in a folder, and the objects in it.

        Raises:
            Fault: a request failed.
        """
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write an object.

        Raises:
            Fault: the request failed.
        """
        ...
