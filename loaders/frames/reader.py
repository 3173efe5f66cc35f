"""Load many files as one frame, through a cache and a scheduler."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import Literal

import pandas as pd
import pyarrow as pa

from ..base.errors import (
    ColumnError,
    FeedrateError,
    InputError,
    ParquetFileError,
    SchemaError,
    unknown,
)
from ..base.schedule import Scheduler
from ..base.settings import REQUESTS, Decoder, DtypeBackend
from ..base.stages import stage
from ..base.warn import warn
from ..caching.base import FileCache, Form
from ..caching.segments import PandasRows, Place
from ..parquet.filters import RowFilter
from ..parquet.footers import Footer, Footers
from ..parquet.layout import Layouts
from ..parquet.reader import check_text, read_schema, require_columns
from ..parquet.schema import differences
from ..remote.ahead import RequestPool, ahead_bytes_of, bytes_with_footer, map_paths
from ..remote.urls import is_url
from .convert import in_runs, to_frame
from .parts import FilteredPart, Outcome, PandasPart, Part
from .planning import Plan

log = logging.getLogger("feedrate.loaders")

SchemaRule = Literal["concat", "strict"]
OnError = Literal["raise", "skip"]

SHOWN = 5  # most names in one message


def check_rules(schema: str, on_error: str) -> None:
    """Raise `InputError` for an unknown rule."""
    for name, value, choices in (
        ("schema rule", schema, ("concat", "strict")),
        ("on_error", on_error, ("raise", "skip")),
    ):
        if value not in choices:
            raise InputError(unknown(name, value, choices))


class Checks:
    """The checks shared by all ways of loading frames; each warning is given once.

    Args:
        schema: `concat` combines differing columns as pandas does and warns once per column;
            `strict` raises an error if columns differ.
        on_error: `raise`, or `skip` to leave unreadable files out; `skipped` lists them. None:
            raise without suggesting `on_error="skip"`, for callers whose users cannot choose it.
    """

    def __init__(self, schema: SchemaRule, on_error: OnError | None) -> None:
        check_rules(schema, "raise" if on_error is None else on_error)
        self.schema = schema
        self.on_error = on_error
        self.skipped: list[ParquetFileError] = []
        """Files left out by the latest load."""
        self._warned: set[str] = set()

    def unreadable(self, error: ParquetFileError) -> ParquetFileError:
        """Return the error to leave the file out, else raise it."""
        if self.on_error == "skip":
            return error
        if self.on_error is None:
            raise error
        raise ParquetFileError(error.path, error.reason, skippable=True) from error

    def note_skipped(self, errors: list[ParquetFileError]) -> None:
        """Record and log which files were left out."""
        self.skipped = errors
        if errors:
            shown = "; ".join(f"{error.path}: {error.reason}" for error in errors[:SHOWN])
            more = f"; and {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
            files = "1 unreadable file" if len(errors) == 1 else f"{len(errors)} unreadable files"
            log.warning("skipped %s: %s%s", files, shown, more)

    def compare(
        self, paths: Sequence[str], schemas: Sequence[pa.Schema], columns: Sequence[str] | None
    ) -> None:
        """Warn once per column that differs between files, or raise `SchemaError`."""
        found = differences(paths, schemas, columns) if schemas else []
        if found and self.schema == "strict":
            raise SchemaError(
                f"{found[0]}; make the files agree, or load them with schema='concat'"
            )
        new = [difference for difference in found if difference.column not in self._warned]
        if new:
            self._warned.update(difference.column for difference in new)
            others = ", ".join(repr(difference.column) for difference in new[1:SHOWN])
            more = f" (so do {len(new) - 1} others: {others})" if others else ""
            warn(f"{new[0]}{more}; put together as pandas.concat does it, which may change dtypes")


class FrameReader:
    """Load files as one frame that equals the original's.

    Args:
        scheduler: runs the decoding.
        cache: decoded files from earlier calls, or None.
        schema: `concat` or `strict`, as in `Checks`.
        on_error: `raise`, `skip` or None, as in `Checks`.
        dtype_backend: `numpy` or `pyarrow`.
        decoder: `auto`, or `arrow` for Arrow alone.
        requests: requests in flight for objects.
    """

    prunes = True
    """Whether to skip files whose statistics rule out wanted rows."""

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        cache: FileCache | None = None,
        schema: SchemaRule = "concat",
        on_error: OnError | None = None,
        dtype_backend: DtypeBackend = "numpy",
        decoder: Decoder = "auto",
        requests: int = REQUESTS,
    ) -> None:
        self.scheduler = scheduler
        self.requests = requests
        self.cache = cache
        self.dtype_backend = dtype_backend
        self.decoder = decoder
        self.checks = Checks(schema, on_error)
        self.by_pandas: Counter[str] = Counter()
        """The number of files that pandas read, one by one, by reason."""
        self._footers = Footers()
        self._layouts = Layouts(dtype_backend)

    @property
    def skipped(self) -> list[ParquetFileError]:
        """Files left out by the latest `load`."""
        return self.checks.skipped

    def load(
        self,
        paths: Iterable[str | os.PathLike[str]],
        columns: Sequence[str] | None = None,
        footers: Mapping[str, Footer] | None = None,
        row_filter: RowFilter | None = None,
    ) -> pd.DataFrame:
        """The files' rows in the order given.

        Args:
            paths: Parquet files.
            columns: columns to load, in this order; None means all.
            footers: footers that have just been read, by path.
            row_filter: rows to keep; the cache is not used for them.

        Raises:
            ColumnError: no file has a column.
            InputError: the filter does not fit the files.
            ParquetFileError: a file cannot be read, with `on_error='raise'`.
            SchemaError: columns differ between files, with `schema='strict'`.
        """
        names = [os.fspath(path) for path in paths]
        check_text(columns, names)
        if row_filter is not None:
            return self._combine(names, self._read_filtered(names, columns, row_filter), columns)
        outcomes = self.read_files(names, columns, footers or {})
        try:
            return self._combine(names, outcomes, columns)
        except FeedrateError:
            raise
        except (pa.ArrowException, ValueError, OverflowError, IndexError) as error:
            # A value cannot be converted. pandas reads file by file, and names the file at fault.
            log.info("files are read again by pandas, one by one: %s", error)
            self.by_pandas[f"a value cannot be converted otherwise: {error}"] += len(set(names))
            del outcomes
        return self._combine(names, self._read_by_pandas(names, columns), columns)

    def _read_filtered(
        self, names: Sequence[str], columns: Sequence[str] | None, row_filter: RowFilter
    ) -> list[Outcome]:
        """The wanted rows of files; pandas reads a file unless its statistics rule them out."""
        files, firsts = dict[str, Outcome](), dict[int, Footer]()
        parts, empty = list[Part](), dict[int, pd.DataFrame]() if self.prunes else None
        with stage("plan"):
            for path, footer in self._read_footers(dict.fromkeys(names), {}, lambda: False):
                if isinstance(footer, ParquetFileError):
                    files[path] = self.checks.unreadable(footer)
                    continue
                firsts.setdefault(id(footer.schema), footer)
                backend = self.dtype_backend
                parts.append(FilteredPart(path, footer.schema, columns, backend, row_filter, empty))
            schemas = [footer.schema.arrow for footer in firsts.values()]
            row_filter.check([footer.path for footer in firsts.values()], schemas)
        for outcomes in self.scheduler.run(parts, self._work):
            files.update(outcomes)
        return [files[name] for name in names]

    def _read_by_pandas(self, names: Sequence[str], columns: Sequence[str] | None) -> list[Outcome]:
        files: dict[str, Outcome] = {}
        for name in dict.fromkeys(names):
            files |= self._work(PandasPart(name, columns, self.dtype_backend))
        return [files[name] for name in names]

    def _combine(
        self, names: Sequence[str], outcomes: Sequence[Outcome], columns: Sequence[str] | None
    ) -> pd.DataFrame:
        self.checks.note_skipped([item for item in outcomes if isinstance(item, ParquetFileError)])
        read = [
            (name, rows)
            for name, rows in zip(names, outcomes, strict=True)
            if not isinstance(rows, ParquetFileError)
        ]
        runs = in_runs([rows for _, rows in read])
        with stage("plan"):
            schemas = [rows.schema for rows in runs]
            if all(schema is schemas[0] for schema in schemas):  # usually files of one segment
                read, schemas = read[:1], schemas[:1]
            else:
                schemas = [rows.schema for _, rows in read]
            paths = [name for name, _ in read]
            check_columns(paths, schemas, columns)
            self.checks.compare(paths, schemas, columns)
        with stage("convert"):
            return to_frame(runs, columns)

    def read_files(
        self,
        paths: Sequence[str],
        columns: Sequence[str] | None,
        footers: Mapping[str, Footer],
    ) -> list[Outcome]:
        """Each file's rows, from the cache or decoded by the scheduler, or its error."""
        if self.cache is None:
            files, _ = self._read(dict.fromkeys(paths), columns, footers)
            return [files[path] for path in paths]
        form = Form(None if columns is None else tuple(columns), self.dtype_backend, self.decoder)
        with stage("cache"):
            keys, found = self.cache.find(form, paths)
        missing = [path for path in paths if path not in found] if len(found) < len(paths) else []
        read: dict[str, Outcome] = {}
        versions: Mapping[str, str | None] = {}
        if missing:
            read, versions = self._read(dict.fromkeys(missing), columns, footers)
        with stage("cache"):
            outcomes = {path: read.get(path) or found[path] for path in paths} if read else found
            loose = {path for path in read if path in footers and footers[path].groups is not None}
            loose.update(  # replaced since their versions were listed
                path
                for path, version in versions.items()
                if path in keys and keys[path].version != version
            )
            rows = {
                path: outcome
                for path, outcome in outcomes.items()
                if isinstance(outcome, Place | PandasRows) and path not in loose
            }
            new = [path for path in read if path in rows]
            files = {**read, **self.cache.keep(form, keys, rows, new)}
        return [files[path] for path in paths]

    def _read(
        self,
        paths: Collection[str],
        columns: Sequence[str] | None,
        footers: Mapping[str, Footer],
    ) -> tuple[dict[str, Outcome], Mapping[str, str | None]]:
        """Decode files that are not cached; also return the version of each object."""
        plan = Plan(
            self._layouts, columns, self.dtype_backend, self.decoder, self.scheduler.num_workers,
            self.scheduler.ahead, self._may_share,
        )  # fmt: skip
        if not any(map(is_url, paths)):
            return self._decode(plan, paths, footers), {}
        with closing(RequestPool(self.requests, ahead_bytes_of(paths))) as pool:
            plan.pool = pool
            return self._decode(plan, paths, footers), plan.versions

    def _decode(
        self,
        plan: Plan,
        paths: Collection[str],
        footers: Mapping[str, Footer],
    ) -> dict[str, Outcome]:
        """Decode files part by part."""
        files: dict[str, Outcome] = {}
        parts = self.parts(plan, paths, footers, files)
        first = list(islice(parts, 1))
        if plan.complete:
            first += islice(parts, 1)
        if plan.complete and len(first) == 1:  # handing it to a worker often takes longer
            files.update(self._work(first[0]))
        else:
            for outcomes in self.scheduler.run(_chained(first, parts), self._work):
                files.update(outcomes)
        self.by_pandas += plan.by_pandas
        pandas_rows = [rows for rows in files.values() if isinstance(rows, PandasRows)]
        self.by_pandas.update(rows.why for rows in pandas_rows if rows.why is not None)
        return files

    def parts(
        self,
        plan: Plan,
        paths: Collection[str],
        known: Mapping[str, Footer],
        files: dict[str, Outcome],
    ) -> Generator[Part]:
        """Yield the parts of a load; put files with unreadable footers into `files`."""

        def footers() -> Iterator[Footer]:
            for path, footer in self._read_footers(
                paths, known, lambda: plan.reads_whole, plan.pool
            ):
                if isinstance(footer, ParquetFileError):
                    files[path] = self.checks.unreadable(footer)
                else:
                    yield footer

        parts = plan.parts(footers(), len(paths))
        try:
            while True:
                with stage("plan"):
                    part = next(parts, None)
                if part is None:
                    return
                yield part
        finally:
            parts.close()

    def _may_share(self, size: int) -> bool:
        return self.cache is not None and self.cache.takes(size)

    def _read_footers(
        self,
        paths: Collection[str],
        known: Mapping[str, Footer],
        whole: Callable[[], bool],
        pool: RequestPool | None = None,
    ) -> Iterator[tuple[str, Footer | ParquetFileError]]:
        """Yield each path with its footer, known or read now, or with the error.

        Args:
            paths: the files.
            known: footers that have just been read.
            whole: returns whether to read a small file's bytes with its footer.
            pool: threads that request objects.
        """

        def read(path: str) -> Footer | ParquetFileError:
            try:
                return self._footers.read(path, whole=whole())
            except ParquetFileError as error:
                return error

        missing = [path for path in paths if path not in known] if known else list(paths)

        def size_of(path: str) -> int:
            return bytes_with_footer(path, whole=whole())

        found = map_paths(read, missing, self.scheduler.num_workers, self.requests, size_of, pool)
        return ((path, known.get(path) or next(found)) for path in paths)

    def _work(self, part: Part) -> dict[str, Outcome]:
        with stage("part"):
            return part.read(self.checks.unreadable)


def _chained(first: Iterable[Part], others: Generator[Part]) -> Generator[Part]:
    """Like `itertools.chain`, but it can be closed."""
    try:
        yield from first
        yield from others
    finally:
        others.close()


def check_columns(
    paths: Sequence[str], schemas: Sequence[pa.Schema], columns: Sequence[str] | None
) -> None:
    """Raise `ColumnError` for a wanted column that no file has; it names all columns."""
    try:
        require_columns(columns, schemas)
    except ColumnError:
        require_columns(columns, [read_schema(path) for path in paths])
        raise
