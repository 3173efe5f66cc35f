"""A reverse proxy before an object store: delay, bandwidth, faults, and a record of requests."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, fields
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec

from .faults import Fault, error_answer
from .host import Call
from .record import Request
from .running import Service
from .wire import BUFFER, PIECE, Head, Pace, body_of_answer, leaves_open, read_head, reset, until


@dataclass(slots=True)
class _Upstream:
    """A connection to the store."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    used: bool = False

    @property
    def open(self) -> bool:
        return not (self.reader.at_eof() or self.writer.is_closing())


@dataclass
class Proxy(Service):
    """Passes requests on unchanged, with their Host, which signatures cover.

    Corrects two errors of `rclone serve s3` in answers: a part of an object gets status 206, and
    `If-Match` with another ETag than the object's gets 412.
    """

    upstream: str
    """URL of the store"""
    delay_s: float = 0.0
    """from a request's head to the first byte of its answer, if the store is not slower"""
    jitter_s: float = 0.0
    """added to the delay, evenly from zero to this"""
    bandwidth: float | None = None
    """bytes/s of each answer's body. None: no limit"""
    total_bandwidth: float | None = None
    """bytes/s of all bodies together"""
    faults: Sequence[Fault] = ()
    """a request meets the first one that applies"""
    on_request: Callable[[Request], None] | None = None
    """called in the proxy's thread before a request is passed on; must not use the proxy"""
    seed: int = 0
    """of jitter and probabilities"""

    _random: random.Random = field(init=False, repr=False)
    _idle: list[_Upstream] = field(init=False, repr=False, default_factory=list)
    _total: Pace | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311 - repeatable faults
        if self.total_bandwidth is not None:
            self._total = Pace(self.total_bandwidth)

    async def answer(self, call: Call) -> bool:
        """Pass a request on and its answer back, or let a fault happen."""
        self._announce(call.request)
        due = call.request.started + self.delay_s + self._random.uniform(0.0, self.jitter_s)
        fault = next((one for one in self.faults if one.happens(call.request, self._random)), None)
        match fault:
            case Fault(kind="timeout"):
                await call.reader.read()
                return False
            case Fault(kind="reset"):
                await until(due)
                reset(call.writer)
                return False
            case Fault(kind="status", status=status, retry_after_s=retry_after_s):
                await until(due)
                refusal = error_answer(call.request, status, retry_after_s=retry_after_s)
                await call.answer(status, *refusal)
                return True
        try:
            upstream, head = await self._pass_on(call)
        except (OSError, EOFError):
            await call.answer(502, *error_answer(call.request, 502))
            return False
        stays = False
        try:
            whole = await self._pass_back(call, upstream, head, due, fault)
            stays = whole and leaves_open(head, call.request.method)
        finally:
            if stays:
                self._idle.append(upstream)
            else:
                upstream.writer.close()
        return stays

    def _announce(self, request: Request) -> None:
        if self.on_request is not None:
            try:
                self.on_request(request)
            except Exception as error:  # an OSError would pass for a client that gave up
                raise RuntimeError(f"on_request failed at {request.path}") from error

    async def _pass_on(self, call: Call) -> tuple[_Upstream, Head]:
        """Send a request to the store; its answer's head."""
        while True:
            upstream = await self._connection()
            try:
                return upstream, await _asked(upstream, call)
            except (OSError, EOFError):
                upstream.writer.close()
                if not upstream.used or call.head.length or call.head.chunked:
                    raise
            # The store closed an idle connection: another one will do.

    async def _connection(self) -> _Upstream:
        while self._idle:
            upstream = self._idle.pop()
            if upstream.open:
                upstream.used = True
                return upstream
            upstream.writer.close()
        parts = urlsplit(self.upstream)
        return _Upstream(*await asyncio.open_connection(parts.hostname, parts.port, limit=BUFFER))

    async def _pass_back(
        self, call: Call, upstream: _Upstream, head: Head, due: float, fault: Fault | None
    ) -> bool:
        """Send an answer to the client; whether all of it was sent."""
        request = call.request
        body = body_of_answer(upstream.reader, head, request.method)
        await until(due)
        if _has_changed(request, head):
            async for _ in body:
                pass
            await call.answer(412, *error_answer(request, 412))
            return True
        raw, request.status = _corrected(request, head)
        call.writer.write(raw)
        if fault is not None and fault.kind in ("cut", "reset_in_body"):
            await _send_half(call, body, then_reset=fault.kind == "reset_in_body")
            return False
        rates = [self.bandwidth, None if fault is None else fault.bytes_per_s]
        paces = [Pace(rate) for rate in rates if rate is not None]
        await _send(call, body, paces if self._total is None else [*paces, self._total])
        return True

    async def close(self) -> None:
        """Close the connections to the store."""
        for upstream in self._idle:
            upstream.writer.close()

    def hits(self) -> list[int]:
        """How often each fault happened."""
        return [fault.hits for fault in self.faults]

    def adopt(self, hits: Sequence[int]) -> None:
        """Take over the counts of a copy in another process."""
        for fault, count in zip(self.faults, hits, strict=False):
            fault.hits = count

    def settings(self) -> dict[str, Any]:
        """Settings for a copy in another process, as JSON types."""
        if self.on_request is not None:
            raise ValueError("on_request is a function of this process: use own_process=False")
        given = (one.name for one in fields(self) if one.init and one.name != "on_request")
        return {name: msgspec.to_builtins(getattr(self, name)) for name in given}

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Self:
        """A copy with these settings."""
        faults = msgspec.convert(settings["faults"], list[Fault])
        return cls(**{**settings, "faults": faults})


async def _asked(upstream: _Upstream, call: Call) -> Head:
    upstream.writer.write(call.head.raw)
    async for piece in call.body:
        upstream.writer.write(piece)
        await upstream.writer.drain()
    while (head := await read_head(upstream.reader)) is not None:
        if head.status >= HTTPStatus.OK:
            return head
    raise EOFError("the store closed the connection before it answered")


def _has_changed(request: Request, head: Head) -> bool:
    """Whether the request has an `If-Match` that lacks the object's ETag."""
    tag = head.headers.get("etag")
    if request.if_match is None or tag is None or request.method not in ("GET", "HEAD"):
        return False
    wanted = [one.strip().strip('"') for one in request.if_match.split(",")]
    return head.status < HTTPStatus.MULTIPLE_CHOICES and not {"*", tag.strip('"')} & set(wanted)


def _corrected(request: Request, head: Head) -> tuple[bytes, int]:
    """The head to send, and its status."""
    if head.status == HTTPStatus.OK and request.range and "content-range" in head.headers:
        return head.raw.replace(b" 200 OK", b" 206 Partial Content", 1), 206
    return head.raw, head.status


async def _send(call: Call, body: AsyncIterator[bytes], paces: Sequence[Pace]) -> None:
    step = min((pace.step for pace in paces), default=PIECE)
    async for piece in body:
        for start in range(0, len(piece), step):
            part = piece[start : start + step]
            await until(max((pace.due(len(part)) for pace in paces), default=0.0))
            await call.send(part)


async def _send_half(call: Call, body: AsyncIterator[bytes], *, then_reset: bool) -> None:
    whole = b"".join([piece async for piece in body])
    call.writer.transport.set_write_buffer_limits(high=0)  # `drain` waits until all has left
    await call.send(whole[: len(whole) // 2])
    if then_reset:
        reset(call.writer)
