"""Requests of this process: repeated after faults, and counted."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, NoReturn, TypeVar

from ..base.errors import ParquetFileError, StorageError
from .faults import AGAIN, BAD_NAME, NO_RANGES, Fault
from .options import options_for
from .store import Body, Span, Store
from .stores import reopen, store_of
from .urls import split_url

FIRST_WAIT_S, MOST_WAIT_S = 0.1, 20.0
UNANSWERED_RETRIES = 2
"""Repetitions of a request to a store that has never answered: its address may be wrong."""
_EXPIRED_RETRIES = 1  # with fresh credentials; a second refusal is final

Result = TypeVar("Result")


class Counts(NamedTuple):
    """What this process has asked of stores."""

    requests: int = 0
    """Requests sent, repetitions included."""
    bytes: int = 0
    """Bytes of objects received, without answers that were cut."""
    retries: int = 0
    """Requests that were sent again."""
    throttled_s: float = 0.0
    """Time for which requests waited because the store asked for fewer, summed over requests."""

    def since(self, earlier: Counts) -> Counts:
        """The difference to earlier counts."""
        return Counts(
            self.requests - earlier.requests,
            self.bytes - earlier.bytes,
            self.retries - earlier.retries,
            self.throttled_s - earlier.throttled_s,
        )


class ChangedError(ParquetFileError):
    """An object was replaced while it was being read."""

    def __init__(self, path: str, reason: str, skippable: bool = False) -> None:
        super().__init__(path, reason, skippable)
        self.args = (f"cannot read {path}: {reason}",)  # nothing is to be repaired


_lock = threading.Lock()
_counts = Counts()
_answered: set[str] = set()


def counts() -> Counts:
    """The requests of this process so far."""
    return _counts


def get(path: str, span: Span | None = None, version: str | None = None) -> Body:
    """Read an object, or a part of it.

    Args:
        path: its URL.
        span: which bytes; all by default.
        version: the ETag that it must have.

    Raises:
        ChangedError: it has another version.
        ParquetFileError: it does not exist.
        StorageError: the store refuses, or does not answer within the limits.
    """
    key = split_url(path).key

    def ask(store: Store) -> Body:
        body = store.get(key, span, version)
        _count(bytes=len(body.data))
        return body

    try:
        return repeated(path, ask)
    except Fault as fault:
        if fault.code in {"InvalidRange", NO_RANGES} and span is not None and span.start <= 0:
            return get(path, None, version)  # it is empty, or the server sends no parts of it
        raise_for(path, fault)


def repeated(path: str, ask: Callable[[Store], Result]) -> Result:
    """Send a request, and again after faults that may pass, with longer and longer waits.

    The waits double from 0.1 s to 20 s and vary by a half at random, so that many clients do not
    come back together. Stores may name a time to wait (`Retry-After`); their client hides it.

    Raises:
        Fault: it fails finally.
    """
    attempts = _Attempts(path)
    while True:
        _count(requests=1, retries=int(attempts.failed > 0))
        try:
            result = ask(store_of(path))
        except Fault as fault:
            if not attempts.again_after(fault):
                raise
        else:
            _answered.add(attempts.place)
            return result


class _Attempts:
    """The attempts of one request, and the pauses between them."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.place = split_url(path).root
        self.failed = self._expired = 0
        self._limits = options_for(path).limits
        self._start = time.monotonic()
        self._wait_s = FIRST_WAIT_S

    def again_after(self, fault: Fault) -> bool:
        """Pause, and return whether to send the request again."""
        self.failed += 1
        self._expired += fault.kind == "expired"
        if fault.kind != "network":
            _answered.add(self.place)
        pause = self._wait_s * random.uniform(0.5, 1.5)  # noqa: S311 - not for secrets
        if (
            fault.kind not in AGAIN
            or self.failed > self._most_retries()
            or self._expired > _EXPIRED_RETRIES
            or time.monotonic() + pause - self._start > self._limits.retry_s
        ):
            if fault.kind == "denied":
                reopen(self._path)  # the user may correct the credentials in a file
            return False
        if fault.kind == "expired":
            reopen(self._path)
        if fault.kind == "throttled":
            _count(throttled_s=pause)
        self._wait_s = min(2 * self._wait_s, MOST_WAIT_S)
        return not _is_stopped(pause)

    def _most_retries(self) -> int:
        limit = self._limits.retries
        return limit if self.place in _answered else min(limit, UNANSWERED_RETRIES)


_thread = threading.local()


def stop_with(event: threading.Event) -> None:
    """Let this thread repeat no request once the event is set: nobody waits for it any more."""
    _thread.stop = event


def _is_stopped(pause_s: float) -> bool:
    """Pause; return whether this thread was stopped meanwhile."""
    event: threading.Event | None = getattr(_thread, "stop", None)
    if event is not None:
        return event.wait(pause_s)
    time.sleep(pause_s)
    return False


def raise_for(path: str, fault: Fault, what: str = "read") -> NoReturn:
    """Raise the error that tells a user about a fault, and what to do."""
    url = split_url(path)
    if fault.code == "NoSuchBucket" or (fault.kind == "missing" and not url.key):
        raise StorageError(f"there is no bucket {url.root}; check its name and the endpoint")
    if fault.kind == "changed":
        raise ChangedError(path, f"{fault.reason}; load again")
    if fault.kind == "missing":
        raise ParquetFileError(path, "the object does not exist (deleted meanwhile?)")
    raise StorageError(f"cannot {what} {path}: {fault.reason}; {_remedy(fault, url.scheme)}")


_BY_CODE = {
    BAD_NAME: "rename that object",
    NO_RANGES: "use a server that answers them, or copy the files",
}


def _remedy(fault: Fault, scheme: str) -> str:
    if fault.code in _BY_CODE:
        return _BY_CODE[fault.code]
    if fault.kind in {"denied", "expired"}:
        names = {
            "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or a role",
            "gs": "GOOGLE_APPLICATION_CREDENTIALS",
            "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
            "abfs": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
        }
        return f"check the credentials ({names.get(scheme, 'storage_options')}) and their rights"
    if fault.kind == "throttled":
        return "set fewer requests in flight, or try later"
    if fault.kind == "network":
        variable = " (AWS_ENDPOINT_URL)" if scheme == "s3" else ""
        return f"check the network and the endpoint{variable}"
    if fault.kind == "server":
        return "try later"
    return "check the address and the options of the store"


def _count(**more: float) -> None:
    """Add to the counts of this process."""
    global _counts  # noqa: PLW0603 - counts of the process
    with _lock:
        _counts = _counts._replace(
            **{name: getattr(_counts, name) + value for name, value in more.items()}
        )


def _renew_lock() -> None:
    global _lock  # noqa: PLW0603 - another thread may have held it when the process forked
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)
