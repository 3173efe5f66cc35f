"""The label of results that were measured on emulated storage."""

from __future__ import annotations

from ...loaders.remote.emulation import Emulation
from ..system.formats import format_bytes_per_s, format_count, format_seconds
from .results import Results


def label_of(results: Results) -> str | None:
    """The label of results; None if their storage was not emulated."""
    emulation = results.header.emulated
    return None if emulation is None else label(emulation)


def label(emulation: Emulation) -> str:
    """That storage was emulated, and its times, in two sentences.

    >>> label(Emulation(latency_s=[0.03], bytes_per_s=2e8, source="latency=30ms,bandwidth=200MB/s"))
    'Emulated storage: 30.0 ms a request, 191 MiB/s in all (latency=30ms,bandwidth=200MB/s). Not \
measured on a real store.'
    """
    return f"Emulated storage: {described(emulation)}. Not measured on a real store."


def described(emulation: Emulation) -> str:
    """The times of an emulated store, in a few words."""
    least, most = emulation.latency_s[0], emulation.latency_s[-1]
    typical = format_seconds(emulation.latency(0.5))
    spread = "" if least == most else f" ({format_seconds(least)} to {format_seconds(most)})"
    parts = [f"{typical} a request{spread}"]
    if emulation.bytes_per_s is not None:
        parts.append(f"{format_bytes_per_s(emulation.bytes_per_s)} in all")
    if emulation.connection_bytes_per_s is not None:
        parts.append(f"{format_bytes_per_s(emulation.connection_bytes_per_s)} a connection")
    if emulation.requests_per_s is not None:
        parts.append(f"{format_count(emulation.requests_per_s)} requests/s")
    if emulation.throttled_per_s is not None:
        parts.append(f"throttled from {format_count(emulation.throttled_per_s)} requests/s")
    source = f" ({emulation.source})" if emulation.source else ""
    return f"{', '.join(parts)}{source}"
