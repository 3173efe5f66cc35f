"""A measured object store: its latency and rates, in a file that `--emulate-storage` reads."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from ...loaders.base.atomic import replacing
from ...loaders.base.errors import UNREADABLE, DocumentError, StorageError, shown
from ...loaders.base.machine import Machine
from ...loaders.remote.emulation import Emulation

FORMAT: Final = "feedrate-storage"
# 1: quantiles of the latency, rates by requests in flight, where throttling begins.
VERSION = 1
QUANTILES = 21
"""Kept of the latency: the shortest, the longest and those between at steps of 5%."""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """The rates with some requests in flight."""

    in_flight: int
    requests_per_s: float
    bytes_per_s: float
    seconds: float
    throttled: int = 0
    """Requests that the store refused because there were too many."""


class MeasuredStore(msgspec.Struct, frozen=True, kw_only=True):
    """What `feedrate doctor` measured of a store.

    `format` and `version` come first, so that a file's first bytes identify it.
    """

    format: str = FORMAT
    version: int = VERSION
    created: str = msgspec.field(default_factory=_now)
    """UTC, ISO 8601."""
    url: str
    """Of the bucket."""
    machine: Machine
    """That measured it: its network and CPUs are part of all rates."""
    latency_s: list[float]
    """To the first byte, with one request in flight: quantiles at even steps, the shortest time
    first."""
    p50_s: float
    p95_s: float
    p99_s: float
    latencies: int
    """The number of requests that were timed for them."""
    connection_bytes_per_s: float | None
    """Of one request, after its first byte."""
    bytes_per_s: float | None
    """The highest rate of all requests together."""
    requests_per_s: float | None
    """The highest rate of small requests."""
    throttled_per_s: float | None
    """The rate of requests at which the store began to refuse some."""
    throttled_in_flight: int | None
    """The requests in flight then."""
    reasons: dict[str, str] = {}
    """By field: why it is null, or what limits it."""
    small: list[Step] = []
    """Requests for one byte."""
    large: list[Step] = []
    """Requests for large parts of the largest objects."""
    objects: int
    """That were read."""
    requests: int
    """That were sent."""
    bytes: int
    """That were received."""
    seconds: float
    """That measuring took."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as one JSON object, replacing an older file atomically.

        Raises:
            StorageError: the file cannot be written.
        """
        text = msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"
        try:
            with replacing(Path(path)) as temporary:
                temporary.write_bytes(text)
        except OSError as error:
            raise StorageError(
                f"cannot write {path}: {error.strerror or error}; name another file"
            ) from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> MeasuredStore:
        """Read a file that `save` wrote.

        Raises:
            DocumentError: the file is missing, damaged, newer than this version, or another kind.
        """
        try:
            text = Path(path).read_bytes()
        except OSError as error:
            raise DocumentError(
                f"cannot read measured store {path}: {error.strerror or error}; make one with: "
                "feedrate doctor s3://BUCKET/FOLDER --write-storage FILE"
            ) from error
        return _decode(text, path)

    def emulation(self, path: str | os.PathLike[str]) -> Emulation:
        """Its times, to replay; no faster than was measured."""
        return Emulation(
            latency_s=self.latency_s,
            bytes_per_s=self.bytes_per_s,
            connection_bytes_per_s=self.connection_bytes_per_s,
            requests_per_s=self.requests_per_s,
            throttled_per_s=self.throttled_per_s,
            source=f"{Path(path).name}, measured at {self.url} on {self.created[:10]}",
        )


class _Envelope(msgspec.Struct):
    """The fields that identify the format of a document."""

    format: str = ""
    version: int = 0


def _decode(text: bytes, path: object) -> MeasuredStore:
    """Decode a file; the error differs for damage, other formats and newer versions."""
    try:
        head = msgspec.json.decode(text, type=_Envelope)
    except UNREADABLE as error:
        raise DocumentError(f"{path} is no measured store of feedrate: {error}") from error
    if head.format != FORMAT:
        kind = shown(head.format or "not given")
        raise DocumentError(f"{path} is no measured store of feedrate: its format is {kind}")
    if head.version > VERSION:
        raise DocumentError(
            f"{path} is a measured store of version {shown(head.version)}, and this feedrate reads "
            f"up to {VERSION}; upgrade feedrate"
        )
    if head.version != VERSION:
        raise DocumentError(
            f"{path} is no measured store of feedrate: its version is {shown(head.version)}"
        )
    try:
        found = msgspec.json.decode(text, type=MeasuredStore)
        found.emulation(str(path))  # raises for values that no store has
    except UNREADABLE as error:
        raise DocumentError(f"{path} is a damaged measured store: {error}") from error
    return found
