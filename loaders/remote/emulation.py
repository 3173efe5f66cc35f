"""Storage that is not here: its times, by which local files are read as if they were objects.

The URL of such an object is `emulated://ID/PATH`. An environment variable holds what ID stands for,
so that processes find it however they are started.
"""

from __future__ import annotations

import atexit
import hashlib
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ..base.errors import UNREADABLE, InputError
from .urls import RemotePath, split_url

SCHEME = "emulated"
VARIABLE = "FEEDRATE_EMULATED"
"""The environment variable: a JSON object of what each ID stands for."""
_ID_CHARS = 8


class Emulation(msgspec.Struct, frozen=True, kw_only=True):
    """The times of a store.

    Raises:
        InputError: a time below zero, a rate that is not above zero, or quantiles out of order.
    """

    latency_s: list[float]
    """From a request to the first byte of its answer: quantiles at even steps, from the shortest
    time to the longest."""
    bytes_per_s: float | None = None
    """In all; None: no limit."""
    connection_bytes_per_s: float | None = None
    """Of one request."""
    requests_per_s: float | None = None
    """In all; further requests wait."""
    throttled_per_s: float | None = None
    """Requests beyond this rate are refused, as by a 503."""
    source: str = ""
    """Where these values come from: the user's text, or a measured store."""

    def __post_init__(self) -> None:
        if not self.latency_s or not all(0 <= one < math.inf for one in self.latency_s):
            raise InputError(f"latency_s is {self.latency_s}; give times of 0 s or more")
        if self.latency_s != sorted(self.latency_s):
            raise InputError("latency_s is not in order; the shortest time comes first")
        for name in (
            "bytes_per_s", "connection_bytes_per_s", "requests_per_s", "throttled_per_s",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name} is {value}; give a rate above 0")

    def latency(self, share: float) -> float:
        """The latency that this share of the requests stays below.

        >>> Emulation(latency_s=[0.02, 0.03, 0.05]).latency(0.75)
        0.04
        """
        position = share * (len(self.latency_s) - 1)
        low = min(int(position), len(self.latency_s) - 1)
        high = min(low + 1, len(self.latency_s) - 1)
        step = self.latency_s[high] - self.latency_s[low]
        return self.latency_s[low] + (position - low) * step


class Published(msgspec.Struct, frozen=True):
    """An emulation as other processes find it."""

    emulation: Emulation
    clock: str
    """The file by which processes share its rates."""


def publish(emulation: Emulation) -> str:
    """Let this process, and those that it starts, use an emulation; return its root URL.

    A small file in the temporary folder is removed when this process ends.
    """
    identifier = hashlib.sha256(msgspec.json.encode(emulation)).hexdigest()[:_ID_CHARS]
    known = _known()
    if identifier not in known:
        descriptor, clock = tempfile.mkstemp(prefix="feedrate-emulated-")
        os.close(descriptor)
        atexit.register(_remove, clock, os.getpid())
        known[identifier] = Published(emulation, clock)
        os.environ[VARIABLE] = msgspec.json.encode(known).decode()
    return f"{SCHEME}://{identifier}"


def published(root: str) -> Published:
    """The emulation of a root URL.

    Raises:
        InputError: this process, or one that started it, has not published it.
    """
    found = _known().get(split_url(root).place)
    if found is None:
        raise InputError(
            f"{root} is emulated storage, which only the process that began it knows; read the "
            "local files, or run feedrate tune DATA --emulate-storage"
        )
    return found


def _known() -> dict[str, Published]:
    try:
        return msgspec.json.decode(os.environ.get(VARIABLE, "{}"), type=dict[str, Published])
    except UNREADABLE:
        return {}


def emulated_paths(root: str, paths: Sequence[str]) -> list[str]:
    """The URLs of local files, with their sizes and versions as from a listing."""
    return [emulated_path(root, Path(path)) for path in paths]


def emulated_path(root: str, path: Path) -> RemotePath:
    """The URL of a local file; without size and version if it does not exist."""
    name = path.absolute().as_posix().lstrip("/")
    try:
        status = path.stat()
    except OSError:
        return RemotePath(f"{root}/{name}")
    return RemotePath(f"{root}/{name}", status.st_size, version_of(status), status.st_mtime_ns)


def version_of(status: os.stat_result) -> str:
    """The ETag of a local file."""
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"


def _remove(clock: str, process: int) -> None:
    if os.getpid() == process:  # not by a fork
        Path(clock).unlink(missing_ok=True)
