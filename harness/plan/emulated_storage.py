"""Read `--emulate-storage`: the times of a store, as text or as a file of a measured one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec

from ...loaders.base.errors import InputError, unknown
from ...loaders.base.sizes import parse_amount, parse_size
from ...loaders.remote.emulation import Emulation, emulated_path, emulated_paths, publish
from ...loaders.remote.urls import RemotePath
from ..record.measured_store import MeasuredStore
from ..system.units import parse_duration, parse_list
from .source import Source

STORAGE = "emulated object store"
"""The kind of storage of a dataset that was read by emulation."""
EXAMPLE = "latency=30ms,bandwidth=200MB/s"
_COUNTS = {"": 1.0, "k": 1e3}


def as_emulation(text: str) -> Emulation:
    """The times of a store.

    >>> as_emulation("latency=30ms,jitter=10ms,bandwidth=200MB/s").latency_s
    [0.03, 0.04]

    Args:
        text: a file that `feedrate doctor --write-storage` wrote, or some of these with commas:
            `latency` of each request, such as 30ms; `jitter`, the most that is added to it at
            random; `bandwidth` in all and of one `connection`, such as 200MB/s; `requests` a second
            in all; `throttle`, the requests a second beyond which the store refuses.

    Raises:
        InputError: an unknown name, or a value that is no such amount.
        DocumentError: the file is missing or damaged, or is another kind.
    """
    if not text:
        raise InputError(f"emulate_storage is empty; name a file, or write it like {EXAMPLE}")
    if "=" not in text or Path(text).exists():
        return MeasuredStore.load(text).emulation(text)
    pairs = [_named(one) for one in parse_list(text)]
    given = dict(pairs)
    if len(given) < len(pairs):
        raise InputError(f"emulate_storage {text!r} has a value twice; give each once")
    if "latency" not in given:
        raise InputError(f"emulate_storage {text!r} has no latency; write it like {EXAMPLE}")
    latency, jitter = given["latency"], given.get("jitter", 0.0)
    return Emulation(
        latency_s=[latency, latency + jitter] if jitter else [latency],
        bytes_per_s=given.get("bandwidth"),
        connection_bytes_per_s=given.get("connection"),
        requests_per_s=given.get("requests"),
        throttled_per_s=given.get("throttle"),
        source=",".join(parse_list(text)),
    )


def emulated(source: Source, emulation: Emulation) -> Source:
    """Local data as if they were objects in a store.

    Raises:
        InputError: they are objects in a store already, or a name cannot be part of a URL.
    """
    if source.of_objects:
        raise InputError(
            f"{source.folder} is in an object store; --emulate-storage takes files of this machine"
        )
    for path in source.files:
        if "?" in path or "#" in path:
            raise InputError(
                f"{path} has a name with ? or #, which a URL cannot have; rename it, or leave "
                "--emulate-storage out"
            )
    root = publish(emulation)
    return replace(
        source,
        folder=RemotePath(emulated_path(root, Path(source.folder))),
        files=list(emulated_paths(root, source.files)),
        dataset=msgspec.structs.replace(source.dataset, storage=STORAGE),
    )


def _named(text: str) -> tuple[str, float]:
    name, sign, value = (part.strip() for part in text.partition("="))
    if name not in _READERS:
        raise InputError(unknown("value of emulate_storage", name, _READERS))
    if not sign:
        raise InputError(f"emulate_storage has {text!r}; write it like {EXAMPLE}")
    return name, _READERS[name](value, f"{name} of emulate_storage")


def _duration(text: str, what: str) -> float:
    if text in {"0", "0ms", "0s"}:
        return 0.0
    if text.startswith("-") or text[-1:].isdigit():  # 30 would be half a minute
        raise InputError(f"{what} is {text!r}; write it like 30ms")
    return parse_duration(text, what)


def _bytes_per_s(text: str, what: str) -> float:
    amount = text.removesuffix("/s")
    if amount[-1:].isdigit() or "bit" in amount.lower():
        raise InputError(f"{what} is {text!r}; write it in bytes, like 200MB/s")
    return float(parse_size(amount, what))


def _per_s(text: str, what: str) -> float:
    return parse_amount(text.removesuffix("/s"), what, _COUNTS, "5000/s")


_READERS: dict[str, Callable[[str, str], float]] = {
    "latency": _duration,
    "jitter": _duration,
    "bandwidth": _bytes_per_s,
    "connection": _bytes_per_s,
    "requests": _per_s,
    "throttle": _per_s,
}
