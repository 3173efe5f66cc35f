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
from .convert import to_frame
from .errors import (
    ColumnError,
    FeedrateWarning,
    InputError,
    ParquetFileError,
    SchemaError,
    unknown,
)
from .reader import read_schema, read_table, require_columns
from .schedule import PARTS_PER_WORKER, Scheduler, split
from .schema import differences
from .settings import DtypeBackend

log = logging.getLogger("feedrate.loaders")

SchemaRule = Literal["concat", "strict"]
OnError = Literal["raise", "skip"]

SHOWN = 5  # names in one message


class Checks:
    """What every way of loading frames checks, and what it has told already.

    Args:
        schema: `concat` puts differing columns together as pandas does and warns once a column;
            `strict` makes a difference an error.
        on_error: `raise`, or `skip` to leave unreadable files out; `skipped` lists them.
    """

    def __init__(self, schema: SchemaRule, on_error: OnError) -> None:
        if schema not in ("concat", "strict"):
            raise InputError(unknown("schema rule", schema, ("concat", "strict")))
        if on_error not in ("raise", "skip"):
            raise InputError(unknown("on_error", on_error, ("raise", "skip")))
        self.schema = schema
        self.on_error = on_error
        self.skipped: list[ParquetFileError] = []
        """Files left out by the latest load."""
        self._told: set[str] = set()

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
        on_error: `raise` or `skip`, as in `Checks`.
        dtype_backend: `numpy` or `pyarrow`.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        cache: FileCache | None = None,
        schema: SchemaRule = "concat",
        on_error: OnError = "raise",
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
        outcomes = self.read_tables(names, columns)
        read = [
            (name, table)
            for name, table in zip(names, outcomes, strict=True)
            if isinstance(table, pa.Table)
        ]
        self.checks.note_skipped([got for got in outcomes if isinstance(got, ParquetFileError)])
        files, tables = [name for name, _ in read], [table for _, table in read]
        check_columns(files, tables, columns)
        self.checks.compare(files, [table.schema for table in tables], columns)
        return to_frame(files, tables, columns, self.dtype_backend)

    def read_tables(
        self, paths: Sequence[str], columns: Sequence[str] | None = None
    ) -> list[pa.Table | ParquetFileError]:
        """Each file's table from the cache or decoded by the scheduler, or why there is none."""
        keys = keys_of(paths, columns) if self.cache is not None else {}
        known = self.cache.get(keys) if self.cache is not None else {}
        missing = [path for path in dict.fromkeys(paths) if path not in known]
        parts = split(missing, PARTS_PER_WORKER * max(1, self.scheduler.num_workers))

        def decode(part: Sequence[str]) -> list[pa.Table | ParquetFileError]:
            return [self._read(path, columns) for path in part]

        fresh: dict[str, pa.Table | ParquetFileError] = {}
        for part, tables in zip(parts, self.scheduler.run(parts, decode), strict=True):
            fresh.update(zip(part, tables, strict=True))
        if self.cache is not None and fresh:
            decoded = {path: got for path, got in fresh.items() if isinstance(got, pa.Table)}
            self.cache.put(keys, decoded)
        return [known[path] if path in known else fresh[path] for path in paths]

    def _read(self, path: str, columns: Sequence[str] | None) -> pa.Table | ParquetFileError:
        try:
            return read_table(path, columns)
        except ParquetFileError as error:
            if self.checks.on_error == "raise":
                raise
            return error


def check_columns(
    paths: Sequence[str], tables: Sequence[pa.Table], columns: Sequence[str] | None
) -> None:
    """Raise `ColumnError` for a wanted column that no file has, naming those there are."""
    try:
        require_columns(columns, [table.schema for table in tables])
    except ColumnError:
        require_columns(columns, [read_schema(path) for path in paths])
        raise
