"""The frame job with caches: on disk for another process, in memory, and in a walk-forward."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from . import requirements as names
from .data import Setup, expect_frame, read_every_number
from .fresh import Ready, run_fresh
from .interleave import Comparison, Prepared, Side

TEST_DAYS, DAYS_BEFORE = 60, 120
FIRST_TEST_DAY = "2013-06-01"
WARM_UP_FILES = 40
DAMAGED_PLACES = (0.3, 0.5, 0.7)  # of the file's size, within the values of columns


# --- disk cache, another process ---------------------------------------------------------------


def timed_load(options: dict[str, str], ready: Ready) -> tuple[float, Any]:
    """Load the flights once in this process, with the cache in `home` or by the original.

    Loading a small file with another cache has imported everything before. Opening the cache
    counts.
    """
    setup = Setup(options["data"], options["scratch"])
    paths = setup.files("flights")
    for _ in range(2):  # fills that other cache, then loads from it
        _loader(setup, "warm-up", options["side"]).load_files(paths[:1])
    ready()
    start = time.perf_counter()
    frame = _loader(setup, "home", options["side"]).load_files(paths)
    return time.perf_counter() - start, frame


def _loader(setup: Setup, home: str, side: str) -> Any:
    if side == names.ORIGINAL:
        return setup.original
    os.environ["FEEDRATE_HOME"] = str(Path(setup.scratch, home))
    return setup.loader(backend="pytorch", cache="disk")


def checked_load(options: dict[str, str], ready: Ready) -> tuple[None, None]:
    """Fail if the frame from the disk cache differs from the original's."""
    ready()
    setup = Setup(options["data"], options["scratch"])
    paths = setup.files("flights")
    frame = _loader(setup, "home", names.OURS).load_files(paths)
    expect_frame(setup.original.load_files(paths))(frame)
    return None, None


def _disk_cache(setup: Setup) -> Prepared:
    options = {"data": setup.data, "scratch": setup.scratch}

    def load(side: str) -> Side:
        return Side(lambda: run_fresh(timed_load, {**options, "side": side}), measures_itself=True)

    def facts() -> dict[str, bool]:
        run_fresh(checked_load, options)
        return {"checksum verified": all(withstands(place) for place in DAMAGED_PLACES)}

    def withstands(place: float) -> bool:
        _damage(Path(setup.scratch, "home"), place)
        try:
            run_fresh(checked_load, options)
        except RuntimeError:  # it used the damaged bytes, or failed on them
            return False
        return True

    run_fresh(checked_load, options)  # fills the cache
    return Prepared({names.ORIGINAL: load(names.ORIGINAL), names.OURS: load(names.OURS)}, facts)


def _damage(folder: Path, place: float) -> None:
    """Change one byte of the largest cached file, at this share of its size."""
    path = max(filter(Path.is_file, folder.rglob("*")), key=lambda path: path.stat().st_size)
    with path.open("r+b") as file:
        offset = int(path.stat().st_size * place)
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0xFF]))


# --- memory cache, second call -----------------------------------------------------------------


def _memory_cache(setup: Setup) -> Prepared:
    paths = setup.files("flights")
    original, ours = setup.original, setup.loader(backend="pytorch", cache="memory")
    expected = original.load_files(paths)
    check = expect_frame(expected)
    check(ours.load_files(paths))

    def load_and_read() -> pd.DataFrame:
        frame = ours.load_files(paths)
        read_every_number(frame)
        return frame

    def facts() -> dict[str, bool]:
        fresh = setup.loader(backend="pytorch", cache="memory")
        written = [_overwrite(fresh.load_files(paths)) for _ in range(2)]
        isolated = fresh.load_files(paths).equals(expected)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, and ours that the change was noticed
            _overwrite_by_torch(fresh.load_files(paths))
            isolated &= fresh.load_files(paths).equals(expected)
        return {"writable": all(written), "isolated": isolated}

    sides = {
        names.ORIGINAL: Side(lambda: original.load_files(paths), check),
        names.OURS: Side(lambda: ours.load_files(paths), check),
        f"{names.OURS}, read": Side(load_and_read, check),
        "deep copy of the frame": Side(lambda: expected.copy(deep=True)),
        "numbers of a frame read": Side(lambda: read_every_number(expected)),
    }
    return Prepared(sides, facts)


def _overwrite(frame: pd.DataFrame) -> bool:
    """Change every column by pandas, and by numpy if it can; return whether pandas could."""
    for name in frame.select_dtypes("number"):
        numbers = frame[name].to_numpy()
        with contextlib.suppress(ValueError):  # read-only memory
            numbers.setflags(write=True)
            numbers[:] = 0
    try:
        for place in range(frame.shape[1]):
            frame.iloc[0, place] = frame.iloc[-1, place]
    except ValueError:
        return False
    return True


def _overwrite_by_torch(frame: pd.DataFrame) -> None:
    """Change all numbers through tensors, which also write to read-only arrays."""
    import torch

    for name in frame.select_dtypes("number"):
        torch.from_numpy(frame[name].to_numpy()).neg_()


# --- walk-forward ------------------------------------------------------------------------------


def walk_forward(loader: Any) -> list[pd.DataFrame]:
    """Load all frames of a walk, read every number of each, and hold all."""
    frames = []
    for day in pd.date_range(FIRST_TEST_DAY, periods=TEST_DAYS):
        start, end = day - pd.Timedelta(days=DAYS_BEFORE), day - pd.Timedelta(days=1)
        history = loader.load_historical_data(f"{start:%Y%m%d}", f"{end:%Y%m%d}", ["flights"])
        frame = history["flights"]
        read_every_number(frame)
        frames.append(frame)
    return frames


def _walk_forward(setup: Setup) -> Prepared:
    from feedrate.loaders import OptimizedHistoricalDataLoader

    original = setup.original
    days = TEST_DAYS + DAYS_BEFORE - 1  # files that the whole walk needs
    misses: list[int] = []

    def ours() -> list[pd.DataFrame]:
        loader = OptimizedHistoricalDataLoader(setup.storage, profile=None)
        frames = walk_forward(loader)
        misses.append(loader.stats()["cache_misses"])
        return frames

    kept: list[list[pd.DataFrame]] = []  # the original's warm-up, until ours is compared with it

    def check(frames: list[pd.DataFrame]) -> None:
        for frame, expected in zip(frames, kept.pop(), strict=True):
            pd.testing.assert_frame_equal(frame, expected)

    held = OptimizedHistoricalDataLoader(setup.storage, profile=None)
    held.load_files(setup.files("flights"))
    sides = {
        names.ORIGINAL: Side(lambda: walk_forward(original), kept.append),
        names.OURS: Side(ours, check),
        f"{names.OURS}, all held": Side(lambda: walk_forward(held)),
    }
    return Prepared(sides, lambda: {"cold at the start": min(misses) >= days})


# --- the first load ----------------------------------------------------------------------------


def timed_first_load(options: dict[str, str], ready: Ready) -> tuple[float, Any]:
    """Load the flights in this process, after loading some of them has imported everything."""
    setup = Setup(options["data"], options["scratch"])
    paths = setup.files("flights")
    setup.loader(backend="pytorch", cache="none").load_files(paths[:WARM_UP_FILES])
    loader = setup.loader(backend="pytorch", cache=options["cache"])
    ready()
    start = time.perf_counter()
    frame = loader.load_files(paths)
    return time.perf_counter() - start, (frame, loader)


def _first_load(setup: Setup) -> Prepared:
    def load(cache: str) -> Side:
        options = {"data": setup.data, "scratch": setup.scratch, "cache": cache}
        return Side(lambda: run_fresh(timed_first_load, options), measures_itself=True)

    return Prepared({"no cache": load("none"), "memory cache": load("memory")})


COMPARISONS = (
    Comparison(
        "frame-disk-cache",
        "frame, disk cache, another process",
        (names.ORIGINAL, names.OURS),
        rounds=9,
        prepare=_disk_cache,
    ),
    Comparison(
        "frame-memory-cache",
        "frame, memory cache, second call",
        (
            names.ORIGINAL, names.OURS, f"{names.OURS}, read", "deep copy of the frame",
            "numbers of a frame read",
        ),
        rounds=9,
        prepare=_memory_cache,
    ),
    Comparison(
        "walk-forward",
        "walk-forward, 60 days",
        (names.ORIGINAL, names.OURS, f"{names.OURS}, all held"),
        rounds=3,
        prepare=_walk_forward,
    ),
    Comparison(
        "frame-first-load",
        "frame, first load of a process",
        ("no cache", "memory cache"),
        rounds=15,
        prepare=_first_load,
    ),
)  # fmt: skip
