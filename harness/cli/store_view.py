"""The measured store of `feedrate doctor URL`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table

from ...loaders.base.errors import InputError
from ...loaders.remote.table_urls import is_table, table_url
from ...loaders.remote.urls import is_url
from ..doctor.store import MOST_BYTES, SECONDS, measure_store
from ..record.measured_store import MeasuredStore, Step
from ..show.terminal import rich_table
from ..show.text import Text, say
from ..system.formats import (
    MISSING,
    format_bytes,
    format_bytes_per_s,
    format_count,
    format_seconds,
)
from ..system.units import counted
from .options import check_place

COLUMNS = ("In flight", "Requests/s", "Bytes/s, large parts")


def check_write_storage(data: str | None, path: Path | None) -> None:
    """Check before measuring that a measured store can be written.

    Raises:
        InputError: the data are no objects.
        StorageError: there is no such folder.
    """
    if path is None:
        return
    if data is None or not is_url(data):
        raise InputError(
            "--write-storage is for a store: name one, as in feedrate doctor s3://BUCKET/FOLDER"
        )
    check_place(path)


def measured_store(data: str | None, path: Path | None) -> MeasuredStore | None:
    """Measure the store of the data, if they are objects, and write what was found.

    Args:
        data: a URL; others are not measured.
        path: the file to write; None writes none.

    Raises:
        StorageError: the store refuses or does not answer, or the file cannot be written.
    """
    if data is not None and is_table(data):
        data = table_url(data).place
    if data is None or not is_url(data):
        return None
    say(f"measuring the store for at most {format_seconds(SECONDS)} and {format_bytes(MOST_BYTES)}")
    before_signs, *signs = re.split(r"[*\[]", data, maxsplit=1)
    found = measure_store(before_signs.rpartition("/")[0] if signs else data)
    if path is not None:
        found.save(path)
        say(f"wrote {path}; replay it with: feedrate tune DATA --emulate-storage {path}")
    return found


def store_view(store: MeasuredStore) -> RenderableType:
    """What was measured: latency, rates, throttling, and what that took."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for topic, text in _facts(store):
        grid.add_row(topic, Text(text))
    title = Text(f"\nStore {store.url}", style="bold")
    return Group(title, grid, rich_table(None, COLUMNS, _rows(store)))


def _facts(store: MeasuredStore) -> Iterator[tuple[str, str]]:
    least, p50, p95, p99 = map(
        format_seconds, (store.latency_s[0], store.p50_s, store.p95_s, store.p99_s)
    )
    timed = counted(store.latencies, "request")
    yield "latency", f"{p50} to the first byte: the median of {timed}, one at a time"
    yield "", f"{least} at least, 95% within {p95}, 99% within {p99}"
    yield "connection", _rate(store, "connection_bytes_per_s")
    yield "in all", _rate(store, "bytes_per_s")
    yield "requests", _requests(store)
    yield "throttling", _throttling(store)
    size, objects = format_bytes(store.bytes), counted(store.objects, "object")
    sent, took = counted(store.requests, "request"), format_seconds(store.seconds)
    yield "used", f"{sent}, {size} of {objects}, {took}"
    if (failed := store.reasons.get("failed")) is not None:
        yield "failed", failed


def _rate(store: MeasuredStore, name: str) -> str:
    value, why = getattr(store, name), store.reasons.get(name)
    if value is None:
        return f"not measured: {why}"
    return f"{format_bytes_per_s(value)}{f' ({why})' if why else ''}"


def _requests(store: MeasuredStore) -> str:
    why = store.reasons.get("requests_per_s")
    if store.requests_per_s is None:
        return f"not measured: {why}"
    return f"{format_count(store.requests_per_s)} a second{f' ({why})' if why else ''}"


def _throttling(store: MeasuredStore) -> str:
    if store.throttled_per_s is None:
        return store.reasons["throttled_per_s"]
    return (
        f"from {format_count(store.throttled_per_s)} requests/s, with "
        f"{counted(store.throttled_in_flight or 0, 'request')} in flight"
    )


def _rows(store: MeasuredStore) -> Iterator[tuple[str, ...]]:
    """A row for each number of requests in flight."""
    small = {step.in_flight: step for step in store.small}
    large = {step.in_flight: step for step in store.large}
    for number in sorted(small | large):
        few, many = small.get(number), large.get(number)
        yield (
            str(number),
            MISSING if few is None else f"{format_count(few.requests_per_s)}{_mark(few)}",
            MISSING if many is None else f"{format_bytes_per_s(many.bytes_per_s)}{_mark(many)}",
        )


def _mark(step: Step) -> str:
    return f" ({counted(step.throttled, 'refusal')})" if step.throttled else ""
