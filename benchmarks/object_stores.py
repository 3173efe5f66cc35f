"""Loads from an object store: rclone on loopback behind a proxy that delays each request.

The server shares the machine's CPUs with the loaders, so the bytes alone, without decoding, show
what it can serve. Polars reads rclone's ranges only because the proxy corrects their status.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
from feedrate.loaders import (
    HistoricalDataLoader,
    LoaderSettings,
    OptimizedHistoricalDataLoader,
    ParquetStorage,
)

from . import requirements as names
from .data import INTEGER_COLUMNS, Setup, expect_frame
from .interleave import Comparison, Prepared, Side

DELAY_S = 0.03
REQUESTS = 64
BUCKET = "bucket"
OBJECTS = 100_000  # to list
TAIL_BYTES = 64 << 10
SLOW = 3.0  # a delay in s beside which all work is short: it counts round trips

_running = ExitStack()
atexit.register(_running.close)


def serve(setup: Setup, bandwidth: float | None = None, delay_s: float = DELAY_S) -> Any:
    """Serve the data; return the proxy. The environment then leads all clients to it.

    Args:
        setup: the data.
        bandwidth: bytes per second of all answers together; None: as fast as it can.
        delay_s: of each request.
    """
    from tests.servers.proxy import Proxy
    from tests.servers.s3 import rclone_server

    root = Path(setup.scratch, "objects")
    for data_type in ("flights", "lineitem"):
        folder = root / BUCKET / data_type
        folder.mkdir(parents=True, exist_ok=True)
        for path in map(Path, setup.files(data_type)):
            copy = folder / path.name
            if not copy.exists():
                copy.write_bytes(path.read_bytes())
    store = _running.enter_context(rclone_server(root))
    proxy = Proxy(store.url, delay_s=delay_s, total_bandwidth=bandwidth)
    running = _running.enter_context(proxy.running(own_process=True))
    os.environ.update(running.endpoint(store).environment())
    return running


def our_loader(storage: ParquetStorage) -> OptimizedHistoricalDataLoader:
    """Our loader of frames, with two workers."""
    settings = LoaderSettings(backend="pytorch", num_workers=2, cache="none", requests=REQUESTS)
    return OptimizedHistoricalDataLoader(storage, settings=settings, profile=None)


def as_in_a_new_process(load: Callable[[], Any]) -> Any:
    """Load without the ends of objects that an earlier load has kept."""
    from feedrate.loaders.remote.source import forget_ends

    forget_ends()
    return load()


def arrow_files() -> pafs.S3FileSystem:
    """Arrow's file system for the server, with as many requests in flight as ours."""
    pa.set_io_thread_count(REQUESTS)
    scheme, _, host = os.environ["AWS_ENDPOINT_URL"].partition("://")
    return pafs.S3FileSystem(endpoint_override=host, scheme=scheme)


def pyarrow_dataset(data_type: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    files = ds.dataset(f"{BUCKET}/{data_type}", filesystem=arrow_files(), format="parquet")
    return files.to_table(columns=columns).to_pandas()


def polars_read(data_type: str) -> pd.DataFrame:
    import polars as pl

    options = {
        "aws_endpoint_url": os.environ["AWS_ENDPOINT_URL"],
        "aws_region": os.environ["AWS_REGION"],
        "aws_allow_http": "true",
    }
    url = f"s3://{BUCKET}/{data_type}/*.parquet"
    return pl.read_parquet(url, storage_options=options).to_pandas()


def whole_objects(data_type: str) -> int:
    """The bytes of all objects: one listing, one request each, nothing decoded."""
    import obstore
    from obstore.store import S3Store

    store = S3Store(BUCKET)
    keys = [meta["path"] for some in obstore.list(store, data_type) for meta in some]
    with ThreadPoolExecutor(REQUESTS) as pool:
        return sum(pool.map(lambda key: len(obstore.get(store, key).bytes()), keys))


def needed_bytes(ranges: Sequence[tuple[str, int, int]], data_type: str) -> int:
    """The ends of objects and the wanted columns, nothing decoded: one listing, two requests."""
    import obstore
    from obstore.store import S3Store

    store = S3Store(BUCKET)
    for _ in obstore.list(store, data_type):
        pass

    def read(part: tuple[str, int, int]) -> int:
        key, start, stop = part
        obstore.get(store, key, options={"range": {"suffix": TAIL_BYTES}}).bytes()
        return len(obstore.get_range(store, key, start=start, end=stop))

    with ThreadPoolExecutor(REQUESTS) as pool:
        return sum(pool.map(read, ranges))


def wanted(files: Sequence[Any], columns: Sequence[str]) -> list[tuple[str, int, int]]:
    """The key of each object, and the range that holds the columns."""
    from feedrate.loaders.parquet.reader import open_parquet
    from feedrate.loaders.parquet.wanted_ranges import wanted_ranges

    found = []
    for path in files:
        with open_parquet(path) as file:
            parts = list(wanted_ranges(file.metadata, columns))
        key = path.split("/", 3)[3]
        found.append((key, min(part.start for part in parts), max(part.stop for part in parts)))
    return found


def _flights(setup: Setup) -> Prepared:
    running = serve(setup)
    storage = ParquetStorage(f"s3://{BUCKET}")
    original, ours = HistoricalDataLoader(storage), our_loader(storage)
    local = setup.original.load_files(setup.files("flights"))
    check = expect_frame(local)

    def facts() -> dict[str, bool]:
        running.reset()
        as_in_a_new_process(lambda: ours.load_files(storage.files("flights")))
        return {names.ONE_REQUEST: len(running.requests) <= 1.05 * len(setup.files("flights"))}

    sides = {
        names.ORIGINAL: Side(lambda: original.load_files(storage.files("flights")), check),
        names.PYTORCH: Side(
            lambda: as_in_a_new_process(lambda: ours.load_files(storage.files("flights"))), check
        ),
        "pyarrow.dataset": Side(lambda: pyarrow_dataset("flights"), check),
        "polars": Side(lambda: polars_read("flights"), check),
        names.BYTES_ALONE: Side(lambda: whole_objects("flights")),
    }
    return Prepared(sides, facts)


def _lineitem(bandwidth: float | None, setup: Setup) -> Prepared:
    serve(setup, bandwidth)
    storage = ParquetStorage(f"s3://{BUCKET}")
    ours = our_loader(storage)
    ranges = wanted(storage.files("lineitem"), INTEGER_COLUMNS)
    local = setup.original.load_files(setup.files("lineitem"), INTEGER_COLUMNS)
    check = expect_frame(local)

    def load() -> pd.DataFrame:
        return ours.load_files(storage.files("lineitem"), INTEGER_COLUMNS)

    sides = {
        names.PYTORCH: Side(lambda: as_in_a_new_process(load), check),
        "pyarrow.dataset": Side(lambda: pyarrow_dataset("lineitem", INTEGER_COLUMNS), check),
        names.BYTES_ALONE: Side(lambda: needed_bytes(ranges, "lineitem")),
    }
    return Prepared(sides)


def _first_row(setup: Setup) -> Prepared:
    serve(setup, delay_s=SLOW)
    storage = ParquetStorage(f"s3://{BUCKET}")
    ours = our_loader(storage)

    def round_trips() -> float:
        start = time.perf_counter()
        files = storage.files("lineitem")
        batches = ours.stream(files, INTEGER_COLUMNS[:3], INTEGER_COLUMNS[3], shuffle=True)
        next(iter(batches))
        return (time.perf_counter() - start) / SLOW

    return Prepared(
        {names.PYTORCH: Side(lambda: as_in_a_new_process(round_trips), measures_itself=True)}
    )


def _listing(setup: Setup) -> Prepared:
    del setup
    from feedrate.loaders.remote.listing import list_objects
    from obstore.store import S3Store

    from tests.servers.stub import Stub, generated, hive

    stub = Stub(generated(OBJECTS, hive), delay_s=DELAY_S)
    running = _running.enter_context(stub.running(own_process=True))
    os.environ.update({
        "AWS_ENDPOINT_URL": running.url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
        "AWS_SKIP_SIGNATURE": "true",
    })  # fmt: skip
    store = S3Store(BUCKET)

    def one_by_one() -> int:
        import obstore

        return sum(len(some) for some in obstore.list(store, "prices", chunk_size=1000))

    def count(found: Any) -> None:
        assert (found if isinstance(found, int) else len(found)) == OBJECTS

    return Prepared(
        {
            names.OURS: Side(lambda: list_objects(f"s3://{BUCKET}/prices"), count),
            names.ONE_BY_ONE: Side(one_by_one, count),
        }
    )


COMPARISONS = (
    Comparison(
        "objects-flights",
        "frame, no cache, flights in an object store, 30 ms a request",
        (names.ORIGINAL, names.PYTORCH, "pyarrow.dataset", "polars", names.BYTES_ALONE),
        rounds=3,
        prepare=_flights,
    ),
    *(
        Comparison(
            name,
            f"frame, no cache, lineitem in an object store, 4 integer columns, {network}",
            (names.PYTORCH, "pyarrow.dataset", names.BYTES_ALONE),
            rounds=9,
            prepare=partial(_lineitem, bandwidth),
        )
        for name, network, bandwidth in (
            ("objects-lineitem", "loopback", None),
            ("objects-lineitem-200", "200 MB/s", 200e6),
        )
    ),
    Comparison(
        "objects-first-row",
        "stream, first batch of lineitem in an object store",
        (names.PYTORCH,),
        rounds=3,
        prepare=_first_row,
        unit="round trips",
    ),
    Comparison(
        "objects-listing",
        "listing of 100,000 objects, 30 ms a request",
        (names.OURS, names.ONE_BY_ONE),
        rounds=9,
        prepare=_listing,
    ),
)
