"""A storage in a bucket: one folder per data type, listed anew for each load."""

from __future__ import annotations

import bisect
import datetime as dt
from collections.abc import Sequence
from typing import NamedTuple

from ..base.dates import date_of, date_order
from ..base.errors import StorageError
from .faults import Fault
from .listing import KeyLayout, layout_of, list_folder, list_objects
from .requests import raise_for, repeated
from .store import PAGE
from .urls import RemotePath, split_url

Dated = tuple[str | None, RemotePath]


class RemoteFolder:
    """The folder of a storage.

    Once all objects of a data type are known to spell their dates in one way, and they are more
    than one answer holds, a load of some dates lists only these.

    Args:
        url: its URL, as `checked_url` returns it.
    """

    def __init__(self, url: RemotePath) -> None:
        self.url = url
        self._layouts: dict[str, KeyLayout] = {}

    def data_types(self) -> list[str]:
        """The names of its folders, sorted.

        Raises:
            StorageError: it is empty, there is no such bucket, or it cannot be listed.
        """
        folders, objects = list_folder(self.url)
        if not folders and not objects:
            raise StorageError(
                f"there is nothing in {self.url}; give the URL of the folder that holds one "
                "subfolder per data type"
            )
        return sorted(name for name in folders if not name.startswith((".", "_")))

    def dated(
        self, data_type: str, suffix: str, start: str | None = None, end: str | None = None
    ) -> Sequence[Dated]:
        """The objects of a data type with the date of each, in order of dates, then of names.

        Args:
            data_type: the folder's name.
            suffix: of the objects' names, in lower case.
            start: with `end`, objects of other dates may be left out.
            end: the last date, inclusive.

        Raises:
            StorageError: it cannot be listed.
        """
        folder = self.url / data_type
        layout = self._layouts.get(data_type)
        if layout is not None and start is not None and end is not None:
            found = list_objects(folder, layout, (_day(start), _day(end)))
            return _dated(folder, found, suffix).files
        found = list_objects(folder)
        listed = _dated(folder, found, suffix)
        self._layouts.pop(data_type, None)
        if len(found) > PAGE and listed.layout is not None:
            self._layouts[data_type] = listed.layout
        return listed.files

    def put(self, path: RemotePath, data: bytes) -> None:
        """Write an object.

        Raises:
            StorageError: there is no such bucket, or the store refuses or does not answer.
        """
        key = split_url(path).key
        try:
            repeated(path, lambda store: store.put(key, data))
        except Fault as fault:
            raise_for(path, fault, "write")

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_layouts": {}}


class _Listed(NamedTuple):
    files: list[Dated]
    layout: KeyLayout | None
    """How all of them spell their dates."""


def _dated(folder: str, objects: Sequence[RemotePath], suffix: str) -> _Listed:
    start = len(folder) + 1
    key_start = len(split_url(folder).root) + 1
    names = [
        (path[start:], path)
        for position, path in enumerate(objects)
        if path[-len(suffix) :].lower() == suffix and not _is_folder(objects, position)
    ]
    visible = [(name, path) for name, path in names if not _is_hidden(name)]
    dated = [(date_of(name), name, path) for name, path in visible]
    ends = [path[key_start:] for _, path in (*visible[:1], *visible[-1:])]
    layout = layout_of(ends)
    if layout is not None and not all(
        layout.spells(path[key_start:], date) for date, _, path in dated
    ):
        layout = None
    dated.sort(key=lambda file: date_order(file[0], file[1]))
    return _Listed([(date, path) for date, _, path in dated], layout)


def _is_folder(objects: Sequence[RemotePath], position: int) -> bool:
    """Whether an object of a listing in order marks a folder: empty, as `a/` is listed for `a/b`.

    Consoles and Hadoop write such markers; obstore drops the slash at their end.
    """
    path = objects[position]
    if path.size != 0:
        return False
    inside = bisect.bisect_left(objects, f"{path}/", position)
    return inside < len(objects) and objects[inside].startswith(f"{path}/")


def _is_hidden(name: str) -> bool:
    """Whether a part of a name begins with `.` or `_`."""
    return name[0] in "._" or "/." in name or "/_" in name


def _day(date: str) -> dt.date:
    return dt.date(int(date[:4]), int(date[4:6]), int(date[6:]))
