"""Loads through a store that fails: what all jobs of a loader give, or their error."""

import threading

import numpy as np
import pandas as pd
from feedrate.loaders.base.errors import FeedrateError
from feedrate.loaders.optimized_historical_loader import OptimizedHistoricalDataLoader
from feedrate.loaders.remote import ahead
from feedrate.loaders.remote.requests import counts

TYPE = "prices"
PATIENCE_S = 30
FILES, ROWS = 6, 50
COLUMNS = ["row", "half"]
# Small objects whole, the large one in parts.
LIMITS = {"whole_bytes": "20kB", "split_bytes": "30kB", "gap_bytes": "2kB"}
JOBS = ["frame", "batches", "stream", "stream, shuffled"]


def fill(storage):
    """Save small objects and a large one, whose rows are numbered."""
    chance = np.random.default_rng(0)
    low = 0
    for number in range(FILES):
        rows = ROWS if number != 2 else 10_000
        row = np.arange(low, low + rows)
        frame = pd.DataFrame({"row": row, "half": row / 2, "noise": chance.random(rows)})
        storage.save(frame, TYPE, f"2025010{number + 1}")
        low += rows
    return low


def rows_of(storage, job, backend, **options):
    """All rows of `COLUMNS` that a job gives, in order."""
    loader = OptimizedHistoricalDataLoader(
        storage, backend, 2, enable_cache=False, profile=None, **options
    )
    files = storage.files(TYPE)
    if job == "frame":
        return loader.load_files(files)[COLUMNS].to_numpy()
    if job == "batches":
        batches = loader.batches(files, COLUMNS, batch_size=1000, shuffle=False)
        return np.concatenate([np.asarray(batch) for batch in batches])
    shuffled = job == "stream, shuffled"
    stream = loader.stream(files, COLUMNS, batch_size=1000, shuffle=shuffled, seed=1)
    rows = np.concatenate([np.asarray(batch) for batch in stream])
    return rows[np.argsort(rows[:, 0], kind="stable")] if shuffled else rows


def expected(rows):
    """The rows that `fill` has saved."""
    return np.column_stack([np.arange(rows), np.arange(rows) / 2])


def outcome(storage, job, backend, **options):
    """The rows of a job or its error, and what it asked of the store."""
    before = counts()
    try:
        found = rows_of(storage, job, backend, **options)
    except FeedrateError as error:
        found = error
    end_requests()
    return found, counts().since(before)


def end_requests():
    """Send no more requests ahead, and wait for those that are on their way."""
    ahead._close_all()
    for thread in threading.enumerate():
        if thread.name.startswith("feedrate-request"):
            thread.join(PATIENCE_S)
