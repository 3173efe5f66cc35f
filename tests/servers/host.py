"""Accept connections, read requests, record them and have a service answer them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

import msgspec

from .record import Figures, Log, Request
from .wire import BUFFER, Head, body_of_request, read_head

if TYPE_CHECKING:
    from .running import Service

LOG = "/__server__/log"  # GET: the figures as JSON; DELETE: forget the requests


@dataclass(slots=True)
class Call:
    """A request, and the connection on which to answer it."""

    request: Request
    head: Head
    body: AsyncIterator[bytes]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        """Send a part of the body."""
        self.request.sent += len(data)
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, status: int, head: bytes, body: bytes) -> None:
        """Send all of a small answer."""
        self.request.status = status
        self.writer.write(head)
        await self.send(body)


class Host:
    """One service on one loop."""

    def __init__(self, service: Service) -> None:
        self.failures: list[Exception] = []
        self._service = service
        self._log = Log()
        self._connections: set[asyncio.Task[None]] = set()

    async def serve(self, announce: Callable[[str, Callable[[], None]], None]) -> None:
        """Serve until stopped.

        Args:
            announce: called with the URL, and with a function that stops the server and must be
                called in its loop.
        """
        stopped = asyncio.Event()
        server = await asyncio.start_server(
            self._accept, "127.0.0.1", 0, backlog=1024, limit=BUFFER
        )
        host, port = server.sockets[0].getsockname()
        announce(f"http://{host}:{port}", stopped.set)
        await stopped.wait()
        server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._service.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._connection(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (head := await read_head(reader)) is not None:
                if not await self._one(head, reader, writer):
                    break
        except (OSError, EOFError):
            pass  # the client gave up
        except Exception as error:  # noqa: BLE001 - raised again when the server ends
            self.failures.append(error)
        finally:
            writer.close()

    async def _one(
        self, head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        method, target, _ = head.first
        if target == LOG:
            writer.write(self._figures(method))
            return True
        path, _, query = target.partition("?")
        request = Request(
            method, unquote(path), query, head.headers.get("range"), head.headers.get("if-match"),
            started=time.monotonic(),
        )  # fmt: skip
        if "expect" in head.headers:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = head.without("expect")
        call = Call(request, head, body_of_request(reader, head), reader, writer)
        self._log.begin(request)
        try:
            stays = await self._service.answer(call)
            if stays:
                async for _ in call.body:
                    pass  # what nobody read
        finally:
            self._log.end(request)
        return stays and head.keeps_alive

    def _figures(self, method: str) -> bytes:
        if method == "DELETE":
            self._log.clear()
        found = Figures(self._log.requests, self._log.most_at_once, self._service.hits())
        body = msgspec.json.encode(found)
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
