"""The frame job: many files to one frame, through a cache and a scheduler."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable, Sequence
from typing import Literal

import pandas as pd
import pyarrow as pa

from .cache import FileCache, keys_of
from .convert import Decoded, read_decoded, to_frame
from .errors import (
    ColumnError,
    FeedrateWarning,
    InputError,
    ParquetFileError,
    SchemaError,
    unknown,
)
from .reader import read_schema, require_columns
from .schedule import PARTS_PER_WORKER, Scheduler, split
from .schema import differences
from .settings import DtypeBackend

log = logging.getLogger("feedrate.loaders")

SchemaRule = Literal["concat", "strict"]
OnError = Literal["raise", "skip"]

SHOWN = 5  # names in one message


def check_rules(schema: str, on_error: str) -> None:
    """Raise `InputError` for a rule that there is not."""
    for what, value, known in (
        ("schema rule", schema, ("concat", "strict")),
        ("on_error", on_error, ("raise", "skip")),
    ):
        if value not in known:
            raise InputError(unknown(what, value, known))


class Checks:
    """What every way of loading frames checks, and what it has told already.

    Args:
        schema: `concat` puts differing columns together as pandas does and warns once a column;
            `strict` makes a difference an error.
        on_error: `raise`, or `skip` to leave unreadable files out; `skipped` lists them. None
            raises, for a caller whose own users have no such choice and are not advised it.
    """

    def __init__(self, schema: SchemaRule, on_error: OnError | None) -> None:
        check_rules(schema, "raise" if on_error is None else on_error)
        self.schema = schema
        self.on_error = on_error
        self.skipped: list[ParquetFileError] = []
        """Files left out by the latest load."""
        self._told: set[str] = set()

    def unreadable(self, error: ParquetFileError) -> ParquetFileError:
        """The error of a file that is to be left out, or raise it."""
        if self.on_error == "skip":
            return error
        if self.on_error is None:
            raise error
        raise ParquetFileError(error.path, error.reason, skippable=True) from error

    def note_skipped(self, errors: list[ParquetFileError]) -> None:
        """Keep and log which files were left out."""
        self.skipped = errors
        if errors:
            shown = "; ".join(f"{error.path}: {error.reason}" for error in errors[:SHOWN])
            more = f"; and {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
            log.warning("skipped %d unreadable files: %s%s", len(errors), shown, more)

    def compare(
        self, paths: Sequence[str], schemas: Sequence[pa.Schema], columns: Sequence[str] | None
    ) -> None:
        """Warn once a column, or raise `SchemaError`, where files hold it differently."""
        found = differences(paths, schemas, columns) if schemas else []
        if found and self.schema == "strict":
            raise SchemaError(
                f"{found[0]}; make the files agree, or load them with schema='concat'"
            )
        new = [difference for difference in found if difference.column not in self._told]
        if new:
            self._told.update(difference.column for difference in new)
            others = ", ".join(repr(difference.column) for difference in new[1:SHOWN])
            more = f" (so do {len(new) - 1} others: {others})" if others else ""
            warnings.warn(
                f"{new[0]}{more}; put together as pandas.concat does it, which may change dtypes",
                FeedrateWarning,
                stacklevel=4,
            )


class FrameReader:
    """Load files as one frame that equals the original's.

    Args:
        scheduler: runs the decoding.
        cache: decoded files from earlier calls, or None.
        schema: `concat` or `strict`, as in `Checks`.
        on_error: `raise`, `skip` or None, as in `Checks`.
        dtype_backend: `numpy` or `pyarrow`.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        cache: FileCache | None = None,
        schema: SchemaRule = "concat",
        on_error: OnError | None = None,
        dtype_backend: DtypeBackend = "numpy",
    ) -> None:
        self.scheduler = scheduler
        self.cache = cache
        self.dtype_backend = dtype_backend
        self.checks = Checks(schema, on_error)

    @property
    def skipped(self) -> list[ParquetFileError]:
        """Files left out by the latest `load`."""
        return self.checks.skipped

    def load(
        self, paths: Iterable[str | os.PathLike[str]], columns: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """The files' rows in the order given.

        Args:
            paths: Parquet files.
            columns: the columns wanted, in this order; None means all.

        Raises:
            ColumnError: a column that no file has.
            ParquetFileError: a file that cannot be read, with `on_error='raise'`.
            SchemaError: columns that differ between files, with `schema='strict'`.
        """
        names = [os.fspath(path) for path in paths]
        outcomes = self.read_files(names, columns)
        self.checks.note_skipped([got for got in outcomes if isinstance(got, ParquetFileError)])
        read = [
            (name, got)
            for name, got in zip(names, outcomes, strict=True)
            if isinstance(got, Decoded)
        ]
        files, schemas = [name for name, _ in read], [got.schema for _, got in read]
        check_columns(files, schemas, columns)
        self.checks.compare(files, schemas, columns)
        return to_frame([got.rows for _, got in read], columns, self.dtype_backend)

    def read_files(
        self, paths: Sequence[str], columns: Sequence[str] | None = None
    ) -> list[Decoded | ParquetFileError]:
        """Each file from the cache or decoded by the scheduler, or why it cannot be read."""
        keys = keys_of(paths, columns) if self.cache is not None else {}
        known = self.cache.get(keys) if self.cache is not None else {}
        missing = [path for path in dict.fromkeys(paths) if path not in known]
        parts = split(missing, PARTS_PER_WORKER * max(1, self.scheduler.num_workers))

        def work(part: Sequence[str]) -> list[Decoded | ParquetFileError]:
            return [self._read(path, columns) for path in part]

        files: dict[str, Decoded | ParquetFileError] = {
            path: Decoded(table.schema, table) for path, table in known.items()
        }
        for part, outcomes in zip(parts, self.scheduler.run(parts, work), strict=True):
            files.update(zip(part, outcomes, strict=True))
        if self.cache is not None and missing:
            # What pandas read stays out: a frame handed out twice is no longer its owner's alone.
            fresh = {path: got.rows for path in missing if isinstance(got := files[path], Decoded)}
            tables = {path: rows for path, rows in fresh.items() if isinstance(rows, pa.Table)}
            self.cache.put(keys, tables)
        return [files[path] for path in paths]

    def decode(self, path: str, columns: Sequence[str] | None) -> Decoded:
        """One file, in a worker."""
        return read_decoded(path, columns, self.dtype_backend)

    def _read(self, path: str, columns: Sequence[str] | None) -> Decoded | ParquetFileError:
        try:
            return self.decode(path, columns)
        except ParquetFileError as error:
            return self.checks.unreadable(error)


def check_columns(
    paths: Sequence[str], schemas: Sequence[pa.Schema], columns: Sequence[str] | None
) -> None:
    """Raise `ColumnError` for a wanted column that no file has, naming those there are."""
    try:
        require_columns(columns, schemas)
    except ColumnError:
        require_columns(columns, [read_schema(path) for path in paths])
        raise
