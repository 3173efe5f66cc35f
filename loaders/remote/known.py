"""The sizes and versions of objects, from listings where they are fresh, else by asking again."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence

from ..base.errors import FeedrateError
from ..base.settings import REQUESTS
from .ahead import map_paths
from .listing import list_folder
from .options import options_for
from .requests import get
from .store import Span
from .urls import RemotePath, is_url

FRESH_S = 5.0
"""A listing counts as current for this long, as files of a load that has just listed them."""
_FEW = 8  # objects of a folder that are asked about one by one rather than listed


def with_versions(paths: Sequence[str]) -> dict[str, RemotePath]:
    """The current size and version of each object that exists and has a version.

    One listing per folder, or one request per object where a folder holds few of them; none for
    objects that were listed in the last `FRESH_S` seconds.
    """
    now = time.monotonic()
    found: dict[str, RemotePath] = {}
    by_folder: defaultdict[RemotePath, list[str]] = defaultdict(list)
    for path in dict.fromkeys(paths):
        if isinstance(path, RemotePath) and path.version and _is_fresh(path, now):
            found[path] = path
        elif is_url(path):
            by_folder[RemotePath(path, options=options_for(path)).parent].append(path)
    single: list[str] = []
    for folder, wanted in by_folder.items():
        if len(wanted) <= _FEW:
            single += wanted
        else:
            single += _from_listing(folder, wanted, found)
    answers = map_paths(_ask, single, 0, REQUESTS)
    return found | {path: known for path in single if (known := next(answers)) and known.version}


def _is_fresh(path: RemotePath, now: float) -> bool:
    return path.listed_s is not None and now - path.listed_s < FRESH_S


def _from_listing(folder: str, wanted: list[str], found: dict[str, RemotePath]) -> list[str]:
    """Find objects of a folder by listing it; return those to ask about one by one."""
    try:
        _, objects = list_folder(folder)
    except FeedrateError:  # as of a web server, which has no listings
        return wanted
    listed: dict[str, RemotePath] = {path: path for path in objects if path.version}
    found.update((path, listed[path]) for path in wanted if path in listed)
    return []


def _ask(path: str) -> RemotePath | None:
    try:
        body = get(path, Span(0, 1))
    except FeedrateError:
        return None  # reading it will raise the error
    now, options = time.monotonic(), options_for(path)
    return RemotePath(path, body.size, body.version, body.modified_ns, now, options)
