"""The files of a Delta table, by the package `deltalake`.

Refused, since the files alone would give wrong rows or names: deletion vectors, column mapping,
widened types, and every feature that is not in `_HARMLESS`
(https://github.com/delta-io/delta/blob/master/PROTOCOL.md).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from ..base.errors import FeedrateError, InputError, StorageError
from .faults import fault_of
from .options import options_for
from .requests import raise_for
from .table_urls import DataFile, Snapshot, TableUrl, location, not_installed, refused
from .urls import is_url, split_url

_HARMLESS = ("timestampNtz", "v2Checkpoint", "vacuumProtocolCheck")
"""Reader features that leave rows and columns as they are in the files."""
_JUDGED = ("deletionVectors", "columnMapping", "typeWidening", "typeWidening-preview")
"""Reader features that matter if the table uses them, which is checked."""
_IN_FILES = ("materializePartitionColumns", "icebergCompatV1", "icebergCompatV2", "icebergCompatV3")
"""Writer features with which files have the partition columns too."""
_OLDEST_WITH_FEATURES = 3
_NO_VERSION = re.compile(r"LogSegment end version (\d+) not the same|Invalid table version")
_UNSUPPORTED = re.compile(
    r"Feature '([\w-]+)' is not supported|Unsupported minimum (reader version \d+)"
    r"|required: \[(\w+)|(catalog-managed)"
)
_used_in: int | None = None
"""The process that has read tables: the package does not work in its forks."""


def delta_snapshot(table: TableUrl, version: int | None) -> Snapshot:
    """The files of a Delta table.

    Args:
        table: its URL.
        version: which version; None for the newest.

    Raises:
        MissingBackendError: the package is not installed.
        InputError: no such version, or a table whose files alone would give wrong rows.
        StorageError: there is no table, or its store refuses or does not answer.
    """
    deltalake = _package()
    with _errors(table, version, deltalake):
        opened = deltalake.DeltaTable(
            table.place, version=version, storage_options=_storage_options(table.place)
        )
        _check(table, opened)
        added = pa.table(opened.get_add_actions(flatten=False))
    files = [
        DataFile(_path(table.place, path), size)
        for path, size in zip(
            added["path"].to_pylist(), added["size_bytes"].to_pylist(), strict=True
        )
    ]
    has_columns = set(opened.protocol().writer_features or ()) & set(_IN_FILES)
    not_in_files = [] if has_columns else list(opened.metadata().partition_columns)
    return Snapshot(str(opened.version()), table.place, files, not_in_files)


def _package() -> ModuleType:
    global _used_in  # noqa: PLW0603 - holds for the process
    try:
        import deltalake
    except ImportError as error:
        raise not_installed("deltalake") from error
    if _used_in not in {None, os.getpid()}:
        raise InputError(
            "a forked process cannot read Delta tables after its parent did; call table_files "
            "before the fork and pass the files, or start processes by spawn"
        )
    _used_in = os.getpid()
    return deltalake


def _check(table: TableUrl, opened: Any) -> None:
    """Refuse a table whose files alone would give wrong rows."""
    protocol, settings = opened.protocol(), opened.metadata().configuration
    features = set(protocol.reader_features or ())
    unknown = sorted(features - {*_HARMLESS, *_JUDGED})
    if unknown or protocol.min_reader_version > _OLDEST_WITH_FEATURES:
        what = ", ".join(unknown) or f"reader version {protocol.min_reader_version}"
        raise _unsupported(table, what)
    mode = settings.get("delta.columnMapping.mode", "none")
    if mode != "none":
        raise refused(
            table,
            f"has column mapping (mode {mode!r}): its files may name columns otherwise",
            "Load a copy without it: CREATE TABLE … AS SELECT * FROM the table.",
        )
    if "delta.typeChanges" in opened.schema().to_json():
        raise refused(
            table,
            "has columns of a widened type, which older files store in the earlier one",
            "Rewrite them: ALTER TABLE … DROP FEATURE typeWidening.",
        )
    if "deletionVectors" in features and _has_rows(opened.deletion_vectors()):
        raise refused(
            table,
            "has deletion vectors: its files hold rows that were deleted",
            "Apply them: REORG TABLE … APPLY (PURGE).",
        )


def _unsupported(table: TableUrl, feature: str) -> InputError:
    return refused(
        table,
        f"needs {feature} of its readers, which feedrate does not support",
        "Remove it (ALTER TABLE … DROP FEATURE …), or load a copy: CREATE TABLE … AS SELECT.",
    )


def _has_rows(reader: Any) -> bool:
    return any(batch.num_rows for batch in pa.RecordBatchReader.from_stream(reader))


def _path(root: str, path: str) -> str:
    """The path of a data file: relative to the table or absolute, and percent-encoded."""
    plain = unquote(path)
    if plain.startswith(("/", "file:")) or is_url(plain):
        return location(plain)
    return f"{root}/{plain}"


def _storage_options(place: str) -> dict[str, str] | None:
    """A user's options and limits, as the package takes them."""
    if not is_url(place):
        return None
    options = options_for(place)
    given = dict(options.store)
    client = dict(given.pop("client_options", {}))
    named = {name: _as_text(value) for name, value in (client | given).items()}
    if split_url(place).scheme == "s3":
        endpoint = given.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL_S3")
        if endpoint:
            named["endpoint"] = str(endpoint)
        endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL")
        if str(endpoint or "").startswith("http://"):
            named.setdefault("allow_http", "true")
    limits = options.limits
    named.setdefault("connect_timeout", f"{limits.connect_s:g}s")
    named.setdefault("timeout", f"{limits.request_s:g}s")
    named.setdefault("max_retries", str(limits.retries))
    named.setdefault("retry_timeout", f"{limits.retry_s:g}s")
    return named


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@contextmanager
def _errors(table: TableUrl, version: int | None, deltalake: ModuleType) -> Iterator[None]:
    """Turn the package's errors, whose texts may hold secrets, into ours."""
    try:
        yield
    except (deltalake.exceptions.DeltaError, OSError, ValueError) as error:
        if isinstance(error, FeedrateError):
            raise
        text = str(error)
        if (found := _UNSUPPORTED.search(text)) is not None:
            raise _unsupported(table, next(filter(None, found.groups()))) from None
        if version is not None and _NO_VERSION.search(text):
            raise InputError(
                f"{table} has no version {version}, or its log no longer has it"
            ) from None
        if "Unknown scheme" in text:
            raise InputError(f"{table}: deltalake reads no tables in such a store") from None
        is_missing = isinstance(error, deltalake.exceptions.TableNotFoundError)
        if is_missing or "No files in log segment" in text:
            raise StorageError(
                f"there is no Delta table in {table.place}; give the folder that holds _delta_log"
            ) from None
        if not is_url(table.place):
            said = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())
            raise StorageError(f"cannot read {table}: {said}") from None
        try:
            raise_for(table.place, fault_of(error))
        except FeedrateError as ours:
            raise ours from None
