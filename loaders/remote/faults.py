"""What went wrong with a request, from what a store says.

The texts of stores are never shown: they may contain a signature, the URL of a request with its
token, or the id of a key.
"""

from __future__ import annotations

import re
from typing import Literal

Kind = Literal["missing", "denied", "expired", "changed", "throttled", "network", "server", "other"]
AGAIN: tuple[Kind, ...] = ("throttled", "network", "server", "expired")
"""Kinds of faults after which a request is repeated."""

_STATUS = re.compile(r"status code: (\d{3})")
_NAME = re.compile(r'[Pp]ath ("[^"]{1,200}")')
NO_RANGES, BAD_NAME = "NoRanges", "BadName"
"""Our codes for a server that sends no parts of objects, and for names that cannot be read."""
_CODE = re.compile(r"<Code>([A-Za-z0-9]{1,64})</Code>")
_BY_CODE: dict[str, Kind] = {
    **dict.fromkeys(("ExpiredToken", "ExpiredTokenException", "RequestExpired"), "expired"),
    **dict.fromkeys(("TokenRefreshRequired",), "expired"),
    **dict.fromkeys(("SlowDown", "Throttling", "ThrottlingException"), "throttled"),
    **dict.fromkeys(("RequestLimitExceeded", "ServerBusy"), "throttled"),
    "RequestTimeout": "server",
}
_BY_STATUS: dict[int, Kind] = {
    401: "denied", 403: "denied", 404: "missing", 408: "server", 412: "changed", 429: "throttled",
    500: "server", 502: "server", 503: "throttled", 504: "server",
}  # fmt: skip
_BY_TYPE: dict[str, Kind] = {
    "FileNotFoundError": "missing", "NotFoundError": "missing", "PreconditionError": "changed",
    "PermissionDeniedError": "denied", "UnauthenticatedError": "denied",
    "PermissionError": "denied", "TimeoutError": "network", "ConnectionError": "network",
}  # fmt: skip
_REASONS: dict[Kind, str] = {
    "missing": "it does not exist",
    "denied": "access is denied",
    "expired": "the credentials have expired",
    "changed": "it was replaced while it was being read",
    "throttled": "the store asks for fewer requests",
    "server": "the store failed",
    "network": "no connection",
    "other": "the store refuses the request",
}
_NETWORK = {
    # Each text of obstore names its `retry_timeout`.
    "no answer in time": ("timed out", "timedout", "kind: timeout"),
    "no connection": ("error sending request", "dns error", "connect error"),
    "the connection ended in the middle of an answer": (
        "body", "end of file", "incomplete", "connection closed", "connection reset",
    ),
}  # fmt: skip


_PLAIN = ("missing", "changed", "network")
"""Kinds whose reason needs no status."""


class Fault(Exception):  # noqa: N818 - what happened to one request, not yet an error
    """A request that failed.

    Args:
        kind: what kind of failure.
        reason: in words, without secrets.
        code: the store's own word for it, such as `NoSuchBucket`.
    """

    def __init__(self, kind: Kind, reason: str, code: str = "") -> None:
        super().__init__(reason)
        self.kind: Kind = kind
        self.reason = reason
        self.code = code

    def __reduce__(self) -> tuple[type[Fault], tuple[Kind, str, str]]:
        return type(self), (self.kind, self.reason, self.code)


def fault_of(error: BaseException) -> Fault:
    """Classify the error of a store by its code, its HTTP status and its type."""
    text, _, source = str(error).partition("Debug source:")
    status, code, name = _found(_STATUS, text), _found(_CODE, text), type(error).__name__
    kind = _BY_CODE.get(code) or _BY_STATUS.get(int(status or 0)) or _BY_TYPE.get(name)
    is_open = kind in {None, "network"} and not status
    if is_open and (reason := _network_reason(text + source)):
        return Fault("network", reason)
    if name == "InvalidPathError":
        which = _found(_NAME, text) or "an object's name"
        return Fault("other", f"{which} has an empty part (//) or '..'", BAD_NAME)
    if name == "NotSupportedError" or "non-partial response" in text.lower():
        return Fault("other", "the server sends no parts of objects (HTTP ranges)", NO_RANGES)
    said = f"{status} {code}".strip() if status else name
    plain = _REASONS[kind or "other"]
    return Fault(kind or "other", plain if kind in _PLAIN else f"{plain} ({said})", code)


def _found(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1] if found else ""


def _network_reason(text: str) -> str | None:
    lower = text.lower()
    for reason, signs in _NETWORK.items():
        if any(sign in lower for sign in signs):
            return reason
    return None
