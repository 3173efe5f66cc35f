"""HTTP/1.1 messages on asyncio streams: heads, bodies and the rate at which bodies leave."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Self

BUFFER = 1 << 18  # bytes that a stream reads ahead
PIECE = 1 << 16  # bytes of a body that are handled together
STEP_S = 0.005  # a body with a limited rate leaves in pieces of this time
CATCH_UP_S = 0.005  # timers are late by a millisecond; a rate may catch up that much


@dataclass(frozen=True, slots=True)
class Head:
    """A message before its body."""

    raw: bytes
    first: tuple[str, str, str]
    """method, target, version of a request; version, status, reason of an answer"""
    headers: dict[str, str]
    """names in lower case"""

    @classmethod
    def parsed(cls, raw: bytes) -> Self:
        """The head that these bytes are, the empty line included."""
        first, *lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
        one, two, three = [*first.split(" ", 2), ""][:3]
        pairs = (line.partition(":") for line in lines)
        return cls(raw, (one, two, three), {name.lower(): text.strip() for name, _, text in pairs})

    @property
    def status(self) -> int:
        """Of an answer."""
        return int(self.first[1])

    @property
    def length(self) -> int | None:
        """Bytes of the body, if announced."""
        text = self.headers.get("content-length")
        return None if text is None else int(text)

    @property
    def chunked(self) -> bool:
        """Whether the body comes in chunks, each with its length."""
        return "chunked" in self.headers.get("transfer-encoding", "").lower()

    @property
    def keeps_alive(self) -> bool:
        """Whether the sender leaves the connection open."""
        asked = self.headers.get("connection", "").lower()
        return "close" not in asked and ("HTTP/1.1" in self.first or "keep-alive" in asked)

    def without(self, name: str) -> Head:
        """The head less one header."""
        pattern = rb"(?im)^" + re.escape(name.encode()) + rb":.*\r\n"
        return Head.parsed(re.sub(pattern, b"", self.raw))


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """The next head; None where the sender has closed the connection instead."""
    try:
        return Head.parsed(await reader.readuntil(b"\r\n\r\n"))
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None


async def body_of_request(reader: asyncio.StreamReader, head: Head) -> AsyncIterator[bytes]:
    """The body in pieces as they arrive, with the framing of chunks."""
    async for piece in _chunks(reader) if head.chunked else _counted(reader, head.length or 0):
        yield piece


async def body_of_answer(
    reader: asyncio.StreamReader, head: Head, method: str
) -> AsyncIterator[bytes]:
    """The same of an answer to a request with `method`."""
    if _is_bare(head, method):
        return
    pieces = _chunks(reader) if head.chunked else _counted(reader, head.length)
    async for piece in pieces:
        yield piece


def leaves_open(head: Head, method: str) -> bool:
    """Whether an answer ends before the connection does."""
    marked = head.chunked or head.length is not None or _is_bare(head, method)
    return head.keeps_alive and marked


def _is_bare(head: Head, method: str) -> bool:
    """Whether an answer has no body, whatever length it announces."""
    return method == "HEAD" or head.status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)


async def _counted(reader: asyncio.StreamReader, length: int | None) -> AsyncIterator[bytes]:
    """`length` bytes; None: all until the sender closes the connection."""
    left = PIECE if length is None else length
    while left:
        piece = await reader.read(min(left, PIECE))
        if not piece:
            if length is None:
                return
            raise EOFError(f"the sender closed the connection {left} bytes before a body's end")
        if length is not None:
            left -= len(piece)
        yield piece


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    size = 1
    while size:
        line = await reader.readuntil(b"\r\n")
        size = int(line.partition(b";")[0], 16)
        yield line
        if size:
            yield await reader.readexactly(size + 2)
    while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
        yield line  # trailers
    yield line


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST: the peer sees "connection reset"."""
    linger_none = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_none)
    writer.transport.abort()


async def until(moment: float) -> None:
    """Sleep until a moment of `time.monotonic`."""
    left = moment - time.monotonic()
    if left > 0:
        await asyncio.sleep(left)  # by the same clock


class Pace:
    """When bytes may leave so that they keep a rate; connections may share one.

    Args:
        rate: bytes/s.
    """

    def __init__(self, rate: float) -> None:
        self.step = max(1, min(PIECE, int(rate * STEP_S)))
        self._rate = rate
        self._free = 0.0

    def due(self, size: int) -> float:
        """The moment at which the last of the next `size` bytes would have left."""
        self._free = max(self._free, time.monotonic() - CATCH_UP_S) + size / self._rate
        return self._free
