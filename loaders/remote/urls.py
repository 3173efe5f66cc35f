"""URLs of objects, and paths that carry what a listing said about them."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import unquote

from ..base.errors import InputError

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
_SYNONYMS = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "azure": "az", "adl": "az", "abfss": "abfs"}
BY_OBSTORE = ("s3", "gs", "az", "abfs", "http", "https")
"""Schemes that obstore serves; `hdfs` is served by pyarrow, all others by fsspec."""
TABLES = ("delta", "iceberg")
"""Schemes of tables, which name their files; `delta+s3` is one in a store."""
_ACCOUNT = re.compile(r"[a-z0-9-]+@[a-z0-9.-]+")  # container@account.dfs.core.windows.net


class Url(NamedTuple):
    """The parts of an object's URL."""

    scheme: str
    place: str
    """The bucket, the container, or the host."""
    key: str
    """The path within it, without a leading slash."""

    @property
    def root(self) -> str:
        """The URL of the bucket."""
        return f"{self.scheme}://{self.place}"


def is_url(path: object) -> bool:
    """Whether a path is the URL of an object.

    >>> is_url("s3://prices/2025.parquet"), is_url("data/prices"), is_url("file:///data")
    (True, False, False)
    """
    if not isinstance(path, str) or "://" not in path:
        return False
    return (found := _URL.match(path)) is not None and found[1].lower() != "file"


def split_url(url: str) -> Url:
    """The parts of a URL that `checked_url` returned, or of an object found below it."""
    found = _URL.match(url)
    if found is None:
        raise InputError(f"{url!r} is no URL")
    place, _, key = found[2].partition("/")
    return Url(found[1], place, key)


def checked_url(url: str) -> str:
    """A user's URL in one spelling, without a slash at its end.

    Raises:
        InputError: it has no bucket, it is a table's, or it has a password or a token, which errors
            and results would show. The message does not show it either.

    >>> checked_url("s3a://prices//daily/")
    's3://prices/daily'
    """
    found = _URL.match(url)
    if found is None:
        raise InputError(f"{url!r} is no URL")
    scheme = found[1].lower()
    scheme = _SYNONYMS.get(scheme, scheme)
    place, _, key = found[2].partition("/")
    may_be_account = scheme == "abfs" and _ACCOUNT.fullmatch(place)
    if _has_password(place) or ("@" in place and not may_be_account):
        raise InputError(
            f"{without_secrets(url)}: a URL may not contain credentials; remove them, and set "
            "them in the environment (such as AWS_ACCESS_KEY_ID) or in storage_options"
        )
    if "?" in url or "#" in url:
        raise InputError(
            f"{without_secrets(url)}: a URL may not end in a query, which may be a token; remove "
            "it, and give credentials in the environment or in storage_options"
        )
    if scheme.partition("+")[0] in TABLES:
        raise InputError(
            f"{without_secrets(url)} is a table, which has files but is no storage; load them with "
            "loader.load_files(feedrate.loaders.table_files(URL).files)"
        )
    if not place and scheme not in {"memory", "hdfs"}:
        raise InputError(f"{url!r} names no bucket; write it as {scheme}://BUCKET/FOLDER")
    key = re.sub("/{2,}", "/", key).strip("/")
    return f"{scheme}://{place}/{key}" if key else f"{scheme}://{place}"


def _has_password(place: str) -> bool:
    """Whether a colon is followed by something else than a port."""
    name, colon, port = place.rpartition(":")
    return bool(colon) and not place.startswith("[") and not (port.isdigit() and ":" not in name)


def without_secrets(url: str) -> str:
    """A URL without what may be a password or a token, for messages.

    >>> without_secrets("s3://KEY:SECRET@prices/daily?sig=TOKEN")
    's3://***@prices/daily?***'
    """
    found = _URL.match(url)
    if found is None:
        return url
    place, slash, key = found[2].partition("/")
    if _has_password(place):  # which may hold a slash itself
        rest = found[2].rpartition("@")
        place, slash, key = f"***{rest[1] and '@' + rest[2]}".partition("/")
    elif "@" in place:
        place = f"***@{place.rpartition('@')[2]}"
    text = f"{found[1]}://{place}{slash}{key}"
    return re.sub(r"([?#]).*", r"\1***", text, flags=re.DOTALL)


def local_path(path: str) -> str:
    """The local path of a `file://` URL; others are returned unchanged.

    >>> local_path("file:///data/my%20prices"), local_path("data/prices")
    ('/data/my prices', 'data/prices')
    """
    if not path.lower().startswith("file://"):
        return path
    host, slash, rest = path[len("file://") :].partition("/")
    if host not in {"", "localhost"}:
        raise InputError(f"{path!r} is on the host {host!r}; give a file of this machine")
    return unquote(f"{slash}{rest}")


def common_folder(urls: Sequence[str]) -> str:
    """The URL of the innermost folder that holds all objects.

    >>> common_folder(["s3://prices/2025/a.parquet", "s3://prices/2026/a.parquet"])
    's3://prices'
    """
    folders = [url.split("/")[:-1] for url in urls]
    shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False))
    return "/".join(parts[0] for parts in shared)


class RemotePath(str):
    """The URL of an object, with its size and version if a listing gave them.

    It is a `str` that also has `name`, `stem`, `suffix` and `parent`, as a `pathlib.Path` has.
    """

    __slots__ = ("listed_s", "modified_ns", "options", "size", "version")

    size: int | None
    """In bytes; None if unknown."""
    version: str | None
    """The ETag, which changes with the contents; None if unknown."""
    modified_ns: int
    """The time of the last change, in nanoseconds since 1970; 0 if unknown."""
    listed_s: float | None
    """When it was listed, by `time.monotonic`; None in another process."""
    options: Any
    """Its storage's `loaders.remote.options.Options`; None: those known for its URL. They stay in
    this process, since they may hold secrets."""

    def __new__(
        cls,
        url: str,
        size: int | None = None,
        version: str | None = None,
        modified_ns: int = 0,
        listed_s: float | None = None,
        options: Any = None,
    ) -> Self:
        """A path; `listed_s` and `options` are of this process."""
        self = super().__new__(cls, url)
        self.size, self.version, self.modified_ns = size, version, modified_ns
        self.listed_s, self.options = listed_s, options
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.size, self.version, self.modified_ns)

    @property
    def name(self) -> str:
        """The part after the last slash."""
        return self.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return Path(self.name).stem

    @property
    def suffix(self) -> str:
        """The end of the name, such as `.parquet`."""
        return Path(self.name).suffix

    @property
    def parent(self) -> RemotePath:
        """The URL without its last part."""
        return RemotePath(self.rpartition("/")[0], options=self.options)

    def __truediv__(self, name: str | os.PathLike[str]) -> RemotePath:
        return RemotePath(f"{self}/{os.fspath(name)}", options=self.options)
