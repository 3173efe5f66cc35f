"""Faults that a proxy shows instead of an answer, and errors as S3 words them."""

from __future__ import annotations

import random
from http import HTTPStatus
from typing import Literal, get_args
from xml.sax.saxutils import escape

import msgspec

from .record import Request

Kind = Literal["timeout", "reset", "reset_in_body", "cut", "status", "trickle"]

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_CODES = {
    400: ("InvalidRequest", "The request is not valid."),
    403: ("AccessDenied", "Access Denied"),
    404: ("NoSuchKey", "The specified key does not exist."),
    412: ("PreconditionFailed", "At least one of the pre-conditions you specified did not hold"),
    429: ("TooManyRequests", "Please reduce your request rate."),
    500: ("InternalError", "We encountered an internal error. Please try again."),
    501: ("NotImplemented", "A header or query you provided is not implemented."),
    503: ("SlowDown", "Please reduce your request rate."),
}


class Fault(msgspec.Struct):
    """What goes wrong with some requests.

    - `timeout`: no answer until the client gives up
    - `reset`: RST before the answer
    - `reset_in_body`: RST after half of the body
    - `cut`: the connection closes after half of the announced body
    - `status`: an error of S3 instead of the answer
    - `trickle`: the body leaves slowly
    """

    kind: Kind
    matches: str | None = None
    """a part of `path?query`: the path decoded, the query as sent"""
    times: int | None = None
    """None: every time"""
    probability: float = 1.0
    method: str | None = "GET"
    after: int = 0
    """so many matching requests pass first"""
    status: int = 503
    """of the answer, for `status`"""
    retry_after_s: int | None = None
    """a Retry-After header, for `status`"""
    bytes_per_s: float = 100.0
    """for `trickle`"""
    hits: int = 0
    """how often it happened; of a server in its own process, updated when its figures are read"""
    seen: int = 0
    """how many requests matched"""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"unknown kind {self.kind!r}; kinds are {', '.join(get_args(Kind))}")

    def happens(self, request: Request, chance: random.Random) -> bool:
        """Whether this request meets it; counts the request."""
        if not request.matches(self.method, self.matches):
            return False
        self.seen += 1
        if self.seen <= self.after or self.hits == self.times:
            return False
        if chance.random() >= self.probability:
            return False
        self.hits += 1
        return True


def error_answer(
    request: Request, status: int, *, retry_after_s: int | None = None
) -> tuple[bytes, bytes]:
    """Head and body of an answer that refuses a request."""
    phrase = HTTPStatus(status).phrase
    code, message = _CODES.get(status, (phrase.title().replace(" ", ""), phrase))
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message>"
        f"<Resource>{escape(request.path)}</Resource><RequestId>0000000000000000</RequestId></Error>"
    ).encode()
    lines = [
        f"HTTP/1.1 {status} {phrase}",
        "Content-Type: application/xml",
        f"Content-Length: {len(body)}",
        *([] if retry_after_s is None else [f"Retry-After: {retry_after_s}"]),
    ]
    return "\r\n".join([*lines, "", ""]).encode(), b"" if request.method == "HEAD" else body
