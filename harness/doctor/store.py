"""Measure an object store: its latency, its rates by requests in flight, and its throttling.

It reads what is there, for at most `SECONDS` and `MOST_BYTES`. Requests are never repeated, so that
each one counts once; those that the store refuses are counted apart.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

from ...loaders.base.errors import StorageError
from ...loaders.base.machine import fingerprint
from ...loaders.remote.faults import Fault
from ...loaders.remote.options import options_for
from ...loaders.remote.requests import raise_for
from ...loaders.remote.store import Span, Store
from ...loaders.remote.stores import open_store
from ...loaders.remote.urls import checked_url, split_url
from ..record.measured_store import QUANTILES, MeasuredStore, Step
from ..system.formats import format_bytes, format_count
from ..system.units import counted
from .store_probe import (
    GRACE_S,
    GROWTH,
    IN_FLIGHT,
    LARGE_ENOUGH,
    Account,
    Probe,
    StoredObject,
    part_bytes,
)

SECONDS = 20.0
MOST_BYTES = 1 << 30  # less than 0.1 USD of traffic out of a cloud
_WEB = ("http", "https")  # servers without listings
MOST_OBJECTS = 64  # the largest of those that one listing shows
LATENCY_SHARE, CONNECTION_SHARE = 0.15, 0.1  # of the time
SMALL_SHARE, LARGE_SHARE = 0.04, 0.06  # of the time, for each number of requests in flight


def measure_store(
    url: str, *, seconds: float = SECONDS, most_bytes: int = MOST_BYTES
) -> MeasuredStore:
    """Measure the store of the objects below a URL.

    Args:
        url: of a bucket, of a folder in it, or of one object.
        seconds: the most that measuring may take.
        most_bytes: the most that may be read.

    Raises:
        StorageError: there is nothing to read, or the store refuses or does not answer.
        InputError: a URL with credentials in it.
    """
    began = time.monotonic()
    url = checked_url(url)
    root = split_url(url).root
    options = options_for(url)
    limits = replace(options.limits, connect_s=GRACE_S, stall_s=GRACE_S, request_s=GRACE_S)
    store = open_store(root, replace(options, limits=limits))
    account = Account(began + seconds - GRACE_S, most_bytes)
    objects = _objects(store, url)
    probe = Probe(store, account, objects)
    probe.connect(root)
    latencies = probe.latencies(LATENCY_SHARE * seconds)
    connection = probe.connection(CONNECTION_SHARE * seconds, statistics.median(latencies))
    small = list(probe.steps(SMALL_SHARE * seconds, lambda _: 1))
    large: list[Step] = []
    if objects[0].size >= LARGE_ENOUGH and not any(step.throttled for step in small):
        large = list(probe.steps(LARGE_SHARE * seconds, part_bytes(connection)))
    return _measured(root, latencies, connection, small, large, objects[0].size, account, began)


def _measured(
    root: str,
    latencies: list[float],
    connection: float | None,
    small: list[Step],
    large: list[Step],
    largest: int,
    account: Account,
    began: float,
) -> MeasuredStore:
    percentiles = _quantiles(latencies, 101)
    steps = (*small, *large)
    throttled_in_flight = next((step.in_flight for step in steps if step.throttled), None)
    if account.throttled > sum(step.throttled for step in steps):
        throttled_in_flight = 1  # one request after the other
    rates = [step.requests_per_s for step in steps]
    return MeasuredStore(
        url=root,
        machine=fingerprint(),
        latency_s=_quantiles(latencies, QUANTILES),
        p50_s=percentiles[50],
        p95_s=percentiles[95],
        p99_s=percentiles[99],
        latencies=len(latencies),
        connection_bytes_per_s=connection,
        bytes_per_s=max((step.bytes_per_s for step in large), default=0.0) or None,
        requests_per_s=max((step.requests_per_s for step in small), default=0.0) or None,
        # After a refusal a thread pauses, so a step before may have had a higher rate.
        throttled_per_s=max([1.0, *rates]) if throttled_in_flight is not None else None,
        throttled_in_flight=throttled_in_flight,
        reasons=_reasons(connection, small, large, largest, account),
        small=small,
        large=large,
        objects=len(account.objects),
        requests=account.requests,
        bytes=account.bytes,
        seconds=time.monotonic() - began,
    )


def _reasons(
    connection: float | None,
    small: Sequence[Step],
    large: Sequence[Step],
    largest: int,
    account: Account,
) -> dict[str, str]:
    """Why values are missing, or may be too low."""
    reasons: dict[str, str] = {}
    steps = (*small, *large)
    is_throttled = account.throttled > 0
    if connection is None:
        reasons["connection_bytes_per_s"] = "the objects are too small to tell it from latency"
    if (why := _why_no_bandwidth(large, largest, is_throttled=is_throttled)) is not None:
        reasons["bytes_per_s"] = why
    if not any(step.requests_per_s for step in small):
        reasons["requests_per_s"] = "no small request was answered"
    if not is_throttled:
        for name, of in (("requests_per_s", small), ("bytes_per_s", large)):
            reasons |= _still_growing(name, of)
    if not is_throttled and not steps:
        reasons["throttled_per_s"] = "no time was left"
    elif not is_throttled:
        most = max(steps, key=lambda step: step.requests_per_s)
        reasons["throttled_per_s"] = (
            f"none with up to {counted(max(step.in_flight for step in steps), 'request')} in "
            f"flight, {format_count(most.requests_per_s)} requests/s"
        )
    if account.failed:
        failed = (f"{counted(n, 'request')}: {why}" for why, n in account.failed.items())
        reasons["failed"] = "; ".join(failed)
    return reasons


def _why_no_bandwidth(large: Sequence[Step], largest: int, *, is_throttled: bool) -> str | None:
    """Why there is no rate of large requests; None if there is one."""
    if any(step.bytes_per_s for step in large):
        return None
    if large:
        return "no large request was answered"
    if largest < LARGE_ENOUGH:
        size, needed = format_bytes(largest), format_bytes(LARGE_ENOUGH)
        return f"the largest object has {size}; {needed} are needed"
    return "throttling began before" if is_throttled else "no time was left"


def _still_growing(name: str, steps: Sequence[Step]) -> dict[str, str]:
    """Why a rate may be too low: it grew up to the last step."""
    rates = [getattr(step, name) for step in steps]
    if not any(rates) or rates[-1] <= GROWTH * max(rates[:-1], default=0.0):
        return {}
    most = steps[-1].in_flight
    why = f"it still grew with {counted(most, 'request')} in flight"
    return {name: why if most == IN_FLIGHT[-1] else f"{why}; time or bytes were up"}


def _objects(store: Store, url: str) -> list[StoredObject]:
    """The largest objects of one listing, the largest first; or the one that is named."""
    parts = split_url(url)
    try:
        found = [] if parts.scheme in _WEB else _listed(store, parts.key)
        if not found and parts.key:
            found = [StoredObject(parts.key, store.get(parts.key, Span(0, 1), None).size)]
    except Fault as fault:
        if fault.kind != "missing" or fault.code == "NoSuchBucket":
            raise_for(url, fault)
        found = []
    if not found:
        raise StorageError(f"there is nothing to read in {url}; give the URL of some objects")
    return sorted(found, key=lambda one: one.size, reverse=True)[:MOST_OBJECTS]


def _listed(store: Store, prefix: str) -> list[StoredObject]:
    found = store.page(prefix, "") if store.pages else next(iter(store.all(prefix)), [])
    return [StoredObject(split_url(path).key, path.size) for path in found if path.size]


def _quantiles(values: Sequence[float], number: int) -> list[float]:
    """Quantiles at even steps, from the lowest value to the highest.

    >>> _quantiles([4.0, 1.0, 2.0], 5)
    [1.0, 1.5, 2.0, 3.0, 4.0]
    """
    ordered = sorted(values)
    last = len(ordered) - 1
    found = []
    for step in range(number):
        position = step * last / (number - 1)
        low = int(position)
        high = min(low + 1, last)
        found.append(ordered[low] + (position - low) * (ordered[high] - ordered[low]))
    return found
