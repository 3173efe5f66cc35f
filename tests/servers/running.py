"""Run a server on loopback: in a thread with its own loop, or in a process of its own."""

from __future__ import annotations

import asyncio
import http.client
import importlib
import os
import signal
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import msgspec

from .host import LOG, Call, Host
from .record import Figures, Request

if TYPE_CHECKING:
    from .s3 import Endpoint

STOP_S = 5.0  # then a child process is killed
ASK_S = 30.0

_TETHER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""
_CHILD = """
import importlib, sys
sys.path.insert(0, sys.argv[1])
importlib.import_module(sys.argv[2]).serve_as_child()
"""


def start_child(command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
    """Start a process that the kernel kills when the starting thread ends, even by SIGKILL.

    Args:
        command: of the process.
        **options: of `subprocess.Popen`.
    """
    tether = [sys.executable, "-I", "-S", "-c", _TETHER, str(os.getpid())]
    return subprocess.Popen([*tether, *command], text=True, **options)


class Service(ABC):
    """A kind of server: how it answers. All answers run in one thread."""

    @abstractmethod
    async def answer(self, call: Call) -> bool:
        """Answer a request; whether the connection stays open."""

    async def close(self) -> None:  # noqa: B027 - most need nothing
        """Close what the answers opened."""

    def hits(self) -> list[int]:
        """How often each fault happened."""
        return []

    def adopt(self, hits: Sequence[int]) -> None:  # noqa: B027 - most have no faults
        """Take over the counts of a copy in another process."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Settings for a copy in another process, as JSON types."""

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Self:
        """A copy with these settings."""
        return cls(**settings)

    @contextmanager
    def running(self, *, own_process: bool = False) -> Iterator[Running]:
        """Serve on a free port of loopback.

        Args:
            own_process: take no time from the caller's interpreter, and use no sockets of its
                process: forks of a process keep its connections open, so that closing them shows
                late. Later changes of the settings have no effect.
        """
        start = _in_process if own_process else _in_thread
        with start(self) as url:
            server = Running(url, self)
            try:
                yield server
            finally:
                server.keep()


class Running:
    """A running server and its record of requests, which can still be read when it has ended."""

    def __init__(self, url: str, service: Service) -> None:
        self.url = url
        self._service = service
        self._last: Figures | None = None

    def endpoint(self, like: Endpoint) -> Endpoint:
        """The same keys at this server."""
        return replace(like, url=self.url)

    def figures(self) -> Figures:
        """The figures of now, or the last ones of a server that has ended."""
        if self._last is not None:
            return self._last
        found = msgspec.json.decode(self._ask("GET"), type=Figures)
        self._service.adopt(found.hits)
        return found

    @property
    def requests(self) -> list[Request]:
        """In order of arrival."""
        return self.figures().requests

    @property
    def most_at_once(self) -> int:
        """Most requests that were in progress at the same time."""
        return self.figures().most_at_once

    def count(self, method: str | None = None, contains: str | None = None) -> int:
        """Number of requests with a method and a text in `path?query`; None: any."""
        return sum(request.matches(method, contains) for request in self.requests)

    def reset(self) -> None:
        """Forget all requests. Faults keep their counts."""
        self._ask("DELETE")

    def keep(self) -> None:
        """Read the figures for the last time."""
        with suppress(OSError, http.client.HTTPException):  # the server may have ended before
            self._last = self.figures()

    def _ask(self, method: str) -> bytes:
        return asked(self.url + LOG, method)[1]


def asked(url: str, method: str = "GET") -> tuple[int, bytes]:
    """Status and body of an answer. Ignores the HTTP proxy of the environment."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=ASK_S)
    try:
        connection.request(method, f"{parts.path or '/'}?{parts.query}".removesuffix("?"))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@contextmanager
def _in_thread(service: Service) -> Iterator[str]:
    host = Host(service)
    started: Future[tuple[str, Callable[[], object]]] = Future()

    def announce(url: str, stop: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        started.set_result((url, lambda: loop.call_soon_threadsafe(stop)))

    thread = threading.Thread(
        target=lambda: asyncio.run(host.serve(announce)), name="server", daemon=True
    )
    thread.start()
    url, stop = started.result(timeout=30)
    try:
        yield url
    finally:
        stop()
        thread.join()
    for failure in host.failures:
        raise failure


@contextmanager
def _in_process(service: Service) -> Iterator[str]:
    here = Path(__file__).parent
    name = type(service).__module__.rpartition(".")[2]
    order = {"module": name, "service": type(service).__name__, "settings": service.settings()}
    child = start_child(
        [sys.executable, "-c", _CHILD, str(here.parent), f"{here.name}.{Path(__file__).stem}"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(msgspec.json.encode(order).decode() + "\n")
            child.stdin.flush()
            url = child.stdout.readline().strip()
            if not url:
                raise RuntimeError("the server did not start; see stderr")
            yield url
            child.stdin.close()
            if child.wait(STOP_S) != 0:
                raise RuntimeError("the server failed; see stderr")
        finally:
            child.kill()


def serve_as_child() -> None:
    """Serve until stdin ends. Its first line names the service; the URL is printed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    order = msgspec.json.decode(sys.stdin.buffer.readline())
    module = importlib.import_module(f"{__package__}.{order['module']}")
    host = Host(getattr(module, order["service"]).of(order["settings"]))

    def announce(url: str, stop: Callable[[], None]) -> None:
        asyncio.get_running_loop().add_reader(0, stop)
        print(url, flush=True)  # noqa: T201 - the parent reads it

    asyncio.run(host.serve(announce))
    for failure in host.failures:
        raise failure
