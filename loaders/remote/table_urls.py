"""URLs of tables that name their files: `delta://` and `iceberg://`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from ..base.errors import InputError, MissingBackendError
from .urls import checked_url, is_url, local_path, without_secrets

_TABLE = re.compile(r"(delta|iceberg)(?:\+([A-Za-z][A-Za-z0-9.-]*))?://(.*)", re.DOTALL)
_VERSION = re.compile(r"(.+[^/])@(\d+)", re.DOTALL)
_IN_CATALOG = re.compile(r"[\w-]+/[\w-]+(?:\.[\w-]+)+")


class TableUrl(NamedTuple):
    """Where a table is, and which version of it is meant."""

    format: str
    """`delta` or `iceberg`."""
    place: str
    """A local path, a URL of a store, or `CATALOG/NAMESPACE.TABLE`."""
    version: str | None = None
    """A Delta version or an Iceberg snapshot id; None for the current one."""
    in_catalog: bool = False

    def __str__(self) -> str:
        scheme, slashes, rest = self.place.partition("://")
        place = f"+{scheme}://{rest}" if slashes else f"://{self.place}"
        return f"{self.format}{place}" + (f"@{self.version}" if self.version is not None else "")


def is_table(path: object) -> bool:
    """Whether a path is the URL of a table.

    >>> is_table("delta:///data/trips"), is_table("iceberg+s3://lake/trips"), is_table("s3://lake")
    (True, True, False)
    """
    return isinstance(path, str) and _TABLE.match(path) is not None


def table_url(url: str) -> TableUrl:
    """The parts of a table's URL.

    `@12` at its end is a version; a slash after it makes it part of the folder's name.

    Raises:
        InputError: it names no table, or has credentials in it. The message does not show them.

    >>> table_url("delta:///data/trips@12")
    TableUrl(format='delta', place='/data/trips', version='12', in_catalog=False)
    >>> str(table_url("iceberg+s3a://lake/db/trips/"))
    'iceberg+s3://lake/db/trips'
    """
    found = _TABLE.fullmatch(url)
    if found is None:
        raise InputError(
            f"{without_secrets(url)} is no table; write it as delta:///FOLDER, "
            "delta+s3://BUCKET/FOLDER or iceberg:///FOLDER"
        )
    form, store, rest = found.groups()
    version = None
    if (named := _VERSION.fullmatch(rest)) is not None:
        rest, version = named.groups()
    if store is not None and store.lower() != "file":
        return TableUrl(form, checked_url(f"{store}://{rest}"), version)
    if form == "iceberg" and _IN_CATALOG.fullmatch(rest):
        return TableUrl(form, rest, version, in_catalog=True)
    if store is None and "@" in rest.partition("/")[0]:
        checked_url(f"{form}://{rest}")  # raises: credentials
    path = rest if store is None else local_path(f"file://{rest}")
    if not path.startswith("/") or not path.strip("/"):
        raise InputError(
            f"{url!r} names no absolute folder; write {form}:///FOLDER for a folder of this "
            f"machine, or {form}+s3://BUCKET/FOLDER for one in a store"
        )
    return TableUrl(form, "/" + path.strip("/"), version)


class DataFile(NamedTuple):
    """A file of a table."""

    path: str
    """A local path, or the URL of an object."""
    size: int
    """In bytes, as the table says."""


class Snapshot(NamedTuple):
    """The files of one version of a table."""

    id: str | None
    """Its version or snapshot id; None for a table that was never written to."""
    root: str
    """The table's folder: a local path or a URL."""
    files: list[DataFile]
    not_in_files: list[str]
    """Partition columns that are in the folders' names only."""


def refused(table: TableUrl, what: str, remedy: str) -> InputError:
    """The error for a table whose files alone do not give its rows."""
    return InputError(f"{table} {what}; its files alone would give wrong rows. {remedy}")


def not_installed(name: str) -> MissingBackendError:
    """The error for a missing package."""
    return MissingBackendError(
        f'tables need {name}, which is not installed; install it with: pip install "feedrate'
        '[tables]"'
    )


def location(raw: str) -> str:
    """A path in a table's metadata, as a local path or a URL.

    Nothing in it is decoded: `%20` is part of the name.

    >>> location("file:/lake/day=1%202/a.parquet"), location("s3a://lake/a.parquet")
    ('/lake/day=1%202/a.parquet', 's3://lake/a.parquet')
    """
    if raw.startswith("file:"):
        return "/" + raw.removeprefix("file:").removeprefix("//localhost").lstrip("/")
    if not is_url(raw):
        return str(Path(raw))
    scheme, _, rest = raw.partition("://")
    place, slash, key = rest.partition("/")
    return checked_url(f"{scheme}://{place}") + slash + key.rstrip("/")
