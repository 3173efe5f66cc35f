"""Parquet files on disk or in an object store, one folder per data type, some files per date."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from .base.atomic import replacing
from .base.dates import as_range, date_of, date_order, in_range
from .base.errors import FeedrateError, InputError, StorageError, unknown
from .base.warn import warn
from .parquet.original import read_frame
from .remote.folders import RemoteFolder
from .remote.options import NO_OPTIONS, Options, adopt, public_options, remember
from .remote.urls import RemotePath, checked_url, is_url, local_path, split_url

SUFFIX = ".parquet"
DATE_THEM = "call files TYPE_20250131.parquet, or put them into folders such as date=2025-01-31"
"""Advice for files without a date."""
YOUNG_NS = 3 * 10**9
"""A younger folder may change again with the same timestamp: file systems count time in steps of
up to 2 s."""
_State = tuple[int, int, int, int] | None
KNOWN_TYPES = ("dfs_salaries", "schedule", "betting_odds", "injuries", "box_scores")


class ParquetStorage:
    """A folder with one subfolder per data type, on disk or in an object store.

    Files are found in any of these layouts, mixed freely: `TYPE/TYPE_20250101.parquet` (written by
    `save`), other names with a date, `TYPE/2025/01/01.parquet`,
    `TYPE/2025/01/01/GAME.parquet`, `TYPE/date=2025-01-01/*.parquet`. A date in folder names takes
    precedence over digits in the file name. Names that start with `.` or `_` are skipped, as in
    Spark and Arrow.

    Args:
        base_dir: the folder; it need not exist before the first `save`. Or a URL, such as
            `s3://BUCKET/FOLDER`, `gs://…`, `az://…`, `abfs://…`; `pip install "feedrate[cloud]"`.
        storage_options: for a URL: the endpoint, credentials and other options of the store, by the
            names of obstore or s3fs, and limits of requests (`feedrate.loaders.remote.options`).
            What is left out comes from the environment, such as AWS_ENDPOINT_URL, AWS_REGION,
            AWS_PROFILE. Secrets are neither shown nor pickled.

    Raises:
        InputError: a URL without a bucket or with credentials in it, or an invalid option.
    """

    def __init__(
        self,
        base_dir: str | os.PathLike[str] = "data/inputs",
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        place = local_path(os.fspath(base_dir))
        self._remote: RemoteFolder | None = None
        if is_url(place):
            options = Options.of(storage_options) if storage_options else NO_OPTIONS
            self._remote = RemoteFolder(RemotePath(checked_url(place), options=options))
            if storage_options:
                remember(self._remote.url, options)  # also for URLs that a user writes
        elif storage_options:
            raise InputError(
                f"storage_options are for object stores, and {place} is a folder; leave them out"
            )
        self.base_dir = self._remote.url if self._remote is not None else Path(place)
        self._listings: dict[str, _Listing] = {}
        self._warned: set[str] = set()

    def __repr__(self) -> str:
        return f"ParquetStorage({str(self.base_dir)!r})"

    def data_types(self) -> list[str]:
        """The names of the data types that have a folder, sorted.

        Raises:
            StorageError: `base_dir` is missing, is not a folder, or cannot be listed.
        """
        if self._remote is not None:
            return self._remote.data_types()
        base_dir = Path(self.base_dir)
        if not base_dir.is_dir():
            problem = "is not a folder" if base_dir.exists() else "does not exist"
            raise StorageError(
                f"storage folder {self.base_dir} {problem}; give the folder that holds one "
                "subfolder per data type"
            )
        return sorted(entry.name for entry in _list(base_dir) if _is_folder(entry))

    def files(
        self, data_type: str, start_date: object = None, end_date: object = None
    ) -> list[Path] | list[RemotePath]:
        """The files of a data type, in date order, then path order; undated files come last.

        Objects are `RemotePath`s: URLs as text, with `name`, `size` and `version`.

        Args:
            data_type: the subfolder's name.
            start_date: first date, inclusive, `YYYYMMDD`; None leaves that end open.
            end_date: last date, inclusive. If either end is given, undated files are left out,
                with one warning per data type.

        Raises:
            InputError: an unknown data type, an invalid date, or a reversed range.
            StorageError: the storage folder is missing, or a folder in it cannot be listed.
        """
        return [path for _, path in self.dated_files(data_type, start_date, end_date)]  # type: ignore[return-value]  # all are of one kind

    def dated_files(
        self, data_type: str, start_date: object = None, end_date: object = None
    ) -> list[tuple[str | None, Path]] | list[tuple[str | None, RemotePath]]:
        """Like `files`, with the date of each file."""
        start, end = as_range(start_date, end_date)
        files: Sequence[Any] = ()
        if self._remote is not None and _is_plain_name(data_type):
            files = self._remote.dated(data_type, SUFFIX, start, end)
        if not files:
            types = self.data_types()
            if data_type not in types:
                # The usual types may simply have no data yet; any other name is a typo.
                if data_type in KNOWN_TYPES:
                    return []
                raise InputError(f"{unknown('data type', data_type, types)} (in {self.base_dir})")
        if self._remote is None:
            files = self._all_files(data_type)
        has_range = start is not None or end is not None
        if has_range and files and files[-1][0] is None and data_type not in self._warned:
            self._warn_of_undated(data_type, files)
        return [file for file in files if in_range(file[0], start, end)]

    def _warn_of_undated(self, data_type: str, files: Sequence[tuple[str | None, object]]) -> None:
        """Warn, once per data type, that a range leaves out files without a date."""
        self._warned.add(data_type)
        undated = [path for date, path in files if date is None]
        warn(
            f"{len(undated)} of {len(files)} files of {data_type} have no date, so a range of "
            f"dates leaves them out, such as {undated[0]}; {DATE_THEM}"
        )

    def _all_files(self, data_type: str) -> Sequence[tuple[str | None, Path]]:
        """All files in order; listed again if a folder has changed."""
        listing = self._listings.get(data_type)
        if listing is None or not listing.is_current():
            listing = _Listing.of(Path(self.base_dir) / data_type)
            if listing.can_be_kept:
                self._listings[data_type] = listing
        return listing.files

    def load(self, data_type: str, filters: Mapping[str, object] | None = None) -> pd.DataFrame:
        """All rows of a data type, read one file after the other by pandas.

        Args:
            data_type: the subfolder's name.
            filters: `{'start_date': 'YYYYMMDD', 'end_date': 'YYYYMMDD'}`, both inclusive and
                optional.

        Returns:
            The files' rows in `files()` order; an empty frame if there are no files.

        Raises:
            InputError: as `files`, or an unknown filter name.
            ParquetFileError: a file that cannot be read.
        """
        dates = dict(filters or {})
        for name in dates:
            if name not in ("start_date", "end_date"):
                raise InputError(unknown("filter", name, ("start_date", "end_date")))
        return read_frame(self.files(data_type, dates.get("start_date"), dates.get("end_date")))

    def save(self, df: pd.DataFrame, data_type: str, identifier: str) -> Path | RemotePath:
        """Write `TYPE/TYPE_IDENTIFIER.parquet` atomically.

        A named index becomes columns; an unnamed one is not stored, since loading renumbers the
        rows.

        Args:
            df: the rows.
            data_type: the subfolder's name.
            identifier: usually the date, `YYYYMMDD`.

        Returns:
            The file's path.

        Raises:
            InputError: an invalid file name, or a frame that Parquet cannot store: a column of
                mixed types or of objects, or a duplicate column name.
            StorageError: the file cannot be written.
        """
        path = self._path(data_type, identifier)
        try:
            if any(name is not None for name in df.index.names):
                df = df.reset_index()
            if isinstance(path, RemotePath):
                self._put(path, df)
            else:
                with replacing(path) as temporary:
                    df.to_parquet(temporary, engine="pyarrow", index=False)
        except FeedrateError:
            raise
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            # Arrow adds the column's name as a second argument.
            reason = ": ".join(str(part) for part in reversed(error.args))
            raise InputError(
                f"cannot store this frame as {path}: {reason}; give each column a name of its own "
                "and values of one kind"
            ) from error
        return path

    def exists(self, data_type: str, identifier: str) -> bool:
        """Whether a file exists for the identifier: the one `save` writes, or any of that date.

        Raises:
            InputError: an invalid file name.
        """
        path = self._path(data_type, identifier)
        if self._remote is not None:
            found = self._remote.dated(data_type, SUFFIX)
            return any(file == path or date == identifier for date, file in found)
        if isinstance(path, Path) and path.is_file():
            return True
        folder = Path(self.base_dir) / data_type
        return folder.is_dir() and any(date_of(name) == identifier for name in walk_parquet(folder))

    def _put(self, path: RemotePath, df: pd.DataFrame) -> None:
        buffer = io.BytesIO()
        df.to_parquet(buffer, engine="pyarrow", index=False)
        if self._remote is not None:
            self._remote.put(path, buffer.getvalue())

    def __getstate__(self) -> dict[str, object]:
        options = {} if self._remote is None else public_options([self._remote.url])
        return {**self.__dict__, "_listings": {}, "_options": options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        options = state.pop("_options")
        adopt(options)
        self.__dict__.update(state)
        if self._remote is not None:
            public = options.get(split_url(self._remote.url).root)
            self._remote.url.options = Options.of(public) if public else NO_OPTIONS

    def _path(self, data_type: str, identifier: str) -> Path | RemotePath:
        for argument, name in (("data_type", data_type), ("identifier", identifier)):
            if not _is_plain_name(name):
                raise InputError(
                    f"{argument} {name!r} cannot be part of a file name; use letters, digits, "
                    "'-' and '_', and do not start with '.' or '_'"
                )
        return self.base_dir / data_type / f"{data_type}_{identifier}{SUFFIX}"


def _is_plain_name(name: object) -> bool:
    """Whether a name can be part of a file name and is not hidden."""
    if not isinstance(name, str) or not name or name[0] in "._" or "\0" in name:
        return False
    return name == Path(name).name


@dataclass(frozen=True)
class _Listing:
    """The files below a folder, and the folders that hold them.

    A walk-forward test lists the same folder for every day: with 365 files, listing takes 0.6 of
    its 6 ms per day.
    """

    files: Sequence[tuple[str | None, Path]]
    """In date order, each with its date."""
    states: Mapping[Path, _State]
    can_be_kept: bool
    """Whether any later change will show in the folders' states."""

    @classmethod
    def of(cls, folder: Path) -> _Listing:
        """List a folder."""
        now = time.time_ns()
        visited = Visited()
        found = [(date_of(name), name) for name in walk_parquet(folder, visited)]
        found.sort(key=lambda file: date_order(*file))
        # Taken after listing: a folder that changed meanwhile is young, so this is not kept.
        states = {path: _state(path) for path in visited.folders}
        are_old = all(
            state is not None and max(state[2:]) < now - YOUNG_NS for state in states.values()
        )
        files = [(date, folder / name) for date, name in found]
        return cls(files, states, are_old and not visited.links)

    def is_current(self) -> bool:
        """Whether no folder has changed."""
        return all(_state(path) == state for path, state in self.states.items())


def _state(folder: Path) -> _State:
    """A state that changes if a file is added, removed or renamed in a folder (inode(7), mtime).

    The ctime also shows changes by tools that restore the mtime, such as `rsync -a` and tar.
    """
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


@dataclass
class Visited:
    """Folders and links that a walk found."""

    folders: list[Path] = field(default_factory=list)
    links: bool = False
    """Whether there was a link: its target may change, and the link's folder does not show it."""


def walk_parquet(folder: Path, visited: Visited | None = None) -> Iterator[str]:
    """The Parquet files below a folder, as `/`-separated paths relative to it, unordered.

    Links to folders are followed, unless they lead upwards or to a folder already listed.

    Args:
        folder: where to begin.
        visited: records the listed folders, and whether there were links.

    Raises:
        StorageError: a folder cannot be listed.
    """
    visited = visited or Visited()
    top = os.path.realpath(folder)
    seen: set[str] = set()
    waiting = [("", top)]
    links: list[tuple[str, str]] = []
    while waiting or links:
        if not waiting:  # real folders come first, then links by name
            waiting.append(min(links))
            links.remove(waiting[0])
        prefix, real = waiting.pop()
        if real in seen:
            continue
        seen.add(real)
        visited.folders.append(folder / prefix)
        for entry in _list(folder / prefix):
            visited.links |= entry.is_symlink()
            name = f"{prefix}{entry.name}"
            if not _is_folder(entry):
                if name.lower().endswith(SUFFIX):
                    yield name
            elif not entry.is_symlink():
                waiting.append((f"{name}/", f"{real}/{entry.name}"))
            elif not Path(top).is_relative_to(target := os.path.realpath(entry.path)):
                links.append((f"{name}/", target))


def _list(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder that are not hidden."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith((".", "_"))]
    except OSError as error:
        raise StorageError(f"cannot list {folder}: {error.strerror or error}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
