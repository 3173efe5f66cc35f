"""Records of requests."""

from __future__ import annotations

import time

import msgspec


class Request(msgspec.Struct):
    """A request and its answer. Times are of `time.monotonic`, which all processes share."""

    method: str
    path: str
    """decoded"""
    query: str
    """as sent, so that it holds no slashes"""
    range: str | None
    if_match: str | None
    started: float
    """when the head had arrived"""
    status: int | None = None
    """None: never answered"""
    sent: int = 0
    """bytes of the body that were answered, the framing of chunks included"""
    ended: float | None = None
    """None: not yet"""

    def matches(self, method: str | None, contains: str | None) -> bool:
        """Whether it has the method, and `path?query` holds the text. None: any."""
        return method in (None, self.method) and (
            contains is None or contains in f"{self.path}?{self.query}"
        )


class Figures(msgspec.Struct):
    """The figures of a server at one moment."""

    requests: list[Request]
    """in order of arrival"""
    most_at_once: int
    """most requests that were in progress at the same time"""
    hits: list[int]
    """of each fault"""


class Log:
    """The requests of one server. Only the thread of the server's loop may use it."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.most_at_once = 0
        self._in_progress = 0

    def begin(self, request: Request) -> None:
        """Record a request whose head has arrived."""
        self.requests.append(request)
        self._in_progress += 1
        self.most_at_once = max(self.most_at_once, self._in_progress)

    def end(self, request: Request) -> None:
        """Record that a request is over, answered or not."""
        request.ended = time.monotonic()
        self._in_progress -= 1

    def clear(self) -> None:
        """Forget all requests. Those in progress still count as such."""
        self.requests.clear()
        self.most_at_once = self._in_progress
