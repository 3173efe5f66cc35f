"""Find the user's objects: in a storage, one data type's folder, any folder, or by a pattern."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ...loaders.base.dates import date_of, date_order
from ...loaders.base.errors import InputError, ParquetFileError, StorageError
from ...loaders.remote.listing import list_objects
from ...loaders.remote.requests import get
from ...loaders.remote.store import Span
from ...loaders.remote.urls import RemotePath, common_folder, split_url
from ...loaders.storage import SUFFIX

SIGNS = "*["
"""Signs that make a pattern of a URL; `?` begins a query."""
_WEB = ("http", "https")


class Objects(NamedTuple):
    """The Parquet objects below a folder."""

    folder: RemotePath
    files: dict[str, RemotePath]
    """By their keys relative to the folder."""
    is_named: bool
    """Whether the user named the objects, and not the folder."""


def find_objects(url: str) -> Objects:
    """The Parquet objects that a URL names, by one listing, or one request for a single object.

    Args:
        url: of a folder, of one object, or a pattern, as `checked_url` returns it.

    Raises:
        StorageError: there is none, no such bucket, or the store refuses or does not answer.
        InputError: a folder of a web server, which has no listings.
    """
    if split_url(url).scheme in _WEB:
        return _on_the_web(url)
    has_sign = any(sign in split_url(url).key for sign in SIGNS)
    folder = RemotePath(_before_signs(url) if has_sign else url)
    found = list_objects(folder)
    if has_sign and not any(path == url or path.startswith(f"{url}/") for path in found):
        return _matching(url, found)
    if has_sign:
        folder = RemotePath(url)
        found = [path for path in found if path.startswith(f"{url}/")] or found
    if not found and url.lower().endswith(SUFFIX):
        return _single(url)
    start = len(folder) + 1
    named = ((path[start:], path) for path in found if path.lower().endswith(SUFFIX))
    files = {name: path for name, path in named if not _is_hidden(name)}
    if not files:
        what = "no Parquet object in" if found else "nothing in"
        raise StorageError(
            f"there is {what} {url}; give the URL of a storage, of a folder of Parquet objects, "
            "or of one"
        )
    return Objects(folder, files, is_named=False)


def in_order(files: Iterable[tuple[str, RemotePath]]) -> list[RemotePath]:
    """Objects in order of dates, then of names.

    Args:
        files: each with its key relative to the data type's folder.
    """
    dated = [(date_of(name), name, path) for name, path in files]
    dated.sort(key=lambda file: date_order(file[0], file[1]))
    return [path for _, _, path in dated]


def _on_the_web(url: str) -> Objects:
    if not url.lower().endswith(SUFFIX):
        raise InputError(f"{url}: a web server has no listings; give the URL of one Parquet file")
    return _single(url)


def _single(url: str) -> Objects:
    try:
        body = get(url, Span(0, 1))
    except ParquetFileError as error:
        raise StorageError(
            f"there is no object {url}, and no folder of that name; check it"
        ) from error
    path = RemotePath(url, body.size, body.version, body.modified_ns)
    return Objects(path.parent, {path.name: path}, is_named=True)


def _before_signs(pattern: str) -> str:
    """The innermost folder whose name has no sign."""
    first = min(at for sign in SIGNS if (at := pattern.find(sign)) >= 0)
    return pattern[:first].rpartition("/")[0]


def _matching(pattern: str, found: Sequence[RemotePath]) -> Objects:
    expression = re.compile(_as_expression(pattern), re.DOTALL)
    paths = [path for path in found if expression.fullmatch(path)]
    if not paths:
        raise StorageError(f"no object matches {pattern}; quote the pattern and check its folder")
    folder = RemotePath(common_folder(paths))
    return Objects(folder, {path[len(folder) + 1 :]: path for path in paths}, is_named=True)


def _as_expression(pattern: str) -> str:
    """A pattern of `glob` as a regular expression.

    >>> _as_expression("s3://prices/**/a_*[0-5]")
    's3://prices/(?:.*/)?a_[^/]*[0-5]'
    """
    parts = re.split(r"(\*\*/|\*+|\[!?[^\]/]+\])", pattern)
    return "".join(map(_as_part, parts))


def _as_part(part: str) -> str:
    if part == "**/":
        return "(?:.*/)?"
    if part.startswith("*"):
        return "[^/]*"
    if part.startswith("[") and part.endswith("]"):
        inner = part[1:-1].replace("\\", r"\\")
        return f"[^{inner[1:]}]" if inner.startswith("!") else f"[{inner}]"
    return re.escape(part)


def _is_hidden(name: str) -> bool:
    """Whether a part of a key begins with `.` or `_`."""
    return name[0] in "._" or "/." in name or "/_" in name
