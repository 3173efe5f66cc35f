"""How stores are reached: options of a user, and limits of requests.

Options may hold secrets. They stay in this process: no message shows them, and a pickle has only
those in `PUBLIC`. Another process takes credentials from its environment.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ..base.errors import InputError
from ..base.sizes import parse_size
from .urls import RemotePath, split_url

MIB = 1 << 20
PUBLIC = frozenset(
    {
        "endpoint", "region", "allow_http", "skip_signature", "virtual_hosted_style_request",
        "account_name", "use_emulator", "use_fabric_endpoint", "conditional_put", "imdsv1_fallback",
    }
)  # fmt: skip
"""Options that hold no secret."""
_FSSPEC = {
    "key": "access_key_id", "secret": "secret_access_key", "token": "session_token",
    "endpoint_url": "endpoint", "anon": "skip_signature",
}  # fmt: skip
"""Names of s3fs, which pandas takes too, and the names of obstore."""


@dataclass(frozen=True)
class Limits:
    """Sizes and times of requests; `storage_options` may set each by its name."""

    whole_bytes: int = 3 * MIB
    """Objects up to this size are read whole, by one request. At 50 MB/s a connection, 3 MiB take
    60 ms: about as long as two further round trips, for the footer and for the columns."""
    tail_bytes: int = 64 << 10
    """Read from the end of a larger object: enough for nearly every footer, and less than a round
    trip takes."""
    gap_bytes: int = MIB
    """Parts with at most this many bytes between them are read together. 1 MiB takes 20 ms, less
    than a round trip."""
    split_bytes: int = 8 * MIB
    """Longer parts are divided into parts of this size, each with a connection of its own."""
    ahead_bytes: int = 64 * MIB
    """Bytes that may be on their way or wait to be decoded."""
    connect_s: float = 5.0
    """To connect."""
    stall_s: float = 20.0
    """Without a byte, until a request is repeated."""
    request_s: float = 60.0
    """For a whole request: a part of 8 MiB then needs 140 kB/s."""
    retries: int = 8
    """Most repetitions of one request."""
    retry_s: float = 180.0
    """Since a request began; later it is not repeated."""


LIMITS = Limits()
_MAY_BE_ZERO = ("whole_bytes", "gap_bytes")


@dataclass(frozen=True)
class Options:
    """The options of one user for a prefix."""

    store: Mapping[str, Any]
    """Options of the store, by the names of obstore."""
    limits: Limits = LIMITS
    given: Mapping[str, Any] = field(default_factory=dict)
    """Those of `store` by the names that the user gave, for fsspec."""

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> Options:
        """Separate a user's `storage_options`.

        Raises:
            InputError: a limit is not a number or a size, or the endpoint contains credentials.
        """
        if given is not None and not isinstance(given, Mapping):
            raise InputError(f"storage_options is {type(given).__name__}; give a dict")
        names = {limit.name for limit in fields(Limits)}
        limits: dict[str, Any] = {}
        store: dict[str, Any] = {}
        others: dict[str, Any] = {}
        for name, value in (given or {}).items():
            if not isinstance(name, str):
                raise InputError(f"storage_options has the key {name!r}; keys are text")
            if name in names:
                limits[name] = _limit(name, value)
            elif value is not None:
                others[name] = value
                plain = name.lower().removeprefix("aws_").removeprefix("google_")
                store[_FSSPEC.get(plain, plain.removeprefix("azure_storage_"))] = value
        client = store.pop("client_kwargs", {})  # of s3fs
        for name, key in (("endpoint_url", "endpoint"), ("region_name", "region")):
            if isinstance(client, Mapping) and name in client:
                store[key] = client[name]
        check_endpoint(store.get("endpoint"), "storage option endpoint")
        return cls(store, replace(LIMITS, **limits), others)

    def public(self) -> dict[str, Any]:
        """What may be shown and pickled."""
        store = {name: value for name, value in self.store.items() if name in PUBLIC}
        changed = {
            limit.name: value
            for limit in fields(Limits)
            if (value := getattr(self.limits, limit.name)) != limit.default
        }
        return store | changed

    def __repr__(self) -> str:
        return f"Options({self.public()!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Options.of, (self.public(),)


def check_endpoint(endpoint: object, what: str) -> None:
    """Raise `InputError` for an endpoint that is no URL of a server, or contains credentials."""
    if endpoint is None:
        return
    if "@" in str(endpoint):
        raise InputError(f"{what} contains credentials; give them as options")
    if not re.match(r"https?://[^/\s]+", str(endpoint)):
        raise InputError(f"{what} is {endpoint!r}; it begins with http:// or https://")


NO_OPTIONS = Options({})
_lock = threading.Lock()
_given: dict[str, Options] = {}


def remember(url: str, options: Options) -> None:
    """Use options for all objects below a URL, in this process."""
    with _lock:
        if options == NO_OPTIONS:
            _given.pop(url, None)
        else:
            _given[url] = options


def options_for(url: str) -> Options:
    """The options for an object: its storage's, else those given last for a prefix of its URL."""
    if isinstance(url, RemotePath) and url.options is not None:
        options: Options = url.options
        return options
    return _given.get(_prefix(url), NO_OPTIONS) if _given else NO_OPTIONS


def public_options(urls: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The options for some objects without secrets, for another process: by bucket."""
    found: dict[str, dict[str, Any]] = {}
    for url in urls:
        options = options_for(url)
        if options is not NO_OPTIONS and (public := options.public()):
            found[split_url(url).root] = public
    return found


def adopt(given: Mapping[str, Mapping[str, Any]]) -> None:
    """Use the `public_options` of another process where this one has no options."""
    for prefix, options in given.items():
        if options_for(prefix) == NO_OPTIONS:
            remember(prefix, Options.of(options))


def _prefix(url: str) -> str:
    """The longest prefix of a URL for which options were given; empty if there is none."""
    root = split_url(url).root
    prefix = str(url)
    while len(prefix) >= len(root):
        if prefix in _given:
            return prefix
        prefix = prefix.rpartition("/")[0]
    return ""


def _limit(name: str, value: object) -> float:
    if name.endswith("_bytes"):
        may_be_zero = name in _MAY_BE_ZERO
        return parse_size(str(value), f"storage option {name}", may_be_zero=may_be_zero)
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 <= value < math.inf  # no NaN either
    ):
        raise InputError(f"storage option {name} is {value!r}; give a number of at least 0")
    if name == "retries" and not isinstance(value, int):
        raise InputError(f"storage option retries is {value!r}; give a whole number")
    return value
