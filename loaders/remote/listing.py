"""List objects: their sizes and versions, of many dates at once.

A listing returns 1,000 objects at a time, one request after the other. Where keys spell dates in
their order, as in `prices/2025/01/05/a.parquet`, `prices/date=2025-01-05/a.parquet` or
`prices/prices_20250105.parquet`, several parts of the keys are listed at once: whenever a part is
longer than one answer, its remaining dates are divided. So thousands of dates take no request each.

A listing takes about 500 bytes of memory per object.
"""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from .faults import Fault
from .requests import raise_for, repeated
from .store import PAGE, Store
from .stores import store_of
from .urls import RemotePath, split_url

AT_ONCE = 32  # requests in flight: 100,000 objects then take 7 round trips
_DAY = dt.timedelta(days=1)
_DATES = tuple(
    re.compile(rf"(?<!\d)((?:19|20)\d\d){separator}(\d\d){separator}(\d\d)(?!\d)")
    for separator in ("/", "-", "")
)
_AFTER_DIGITS = ":"  # sorts after all digits


@dataclass(frozen=True)
class KeyLayout:
    """How keys spell dates in their order."""

    before: str
    """The part of the keys before the date."""
    separator: str
    """Between the numbers of the date."""

    def key(self, day: dt.date) -> str:
        """The beginning of the keys of a day.

        >>> KeyLayout("prices/date=", "-").key(dt.date(2025, 1, 5))
        'prices/date=2025-01-05'
        """
        return self.before + day.strftime(f"%Y{self.separator}%m{self.separator}%d")

    def day(self, key: str) -> dt.date | None:
        """The date in a key; None if it spells none there."""
        start = len(self.before)
        end = start + 8 + 2 * len(self.separator)
        if not key.startswith(self.before):
            return None
        digits = key[start:end].split(self.separator) if self.separator else [key[start:end]]
        try:
            return dt.datetime.strptime("".join(digits), "%Y%m%d").date()  # noqa: DTZ007 - days have no zone
        except ValueError:
            return None


def layout_of(keys: Sequence[str]) -> KeyLayout | None:
    """How the first and the last of some keys in order spell dates; None if they do not.

    >>> layout_of(["p/a_20250105.parquet", "p/a_20250107.parquet"])
    KeyLayout(before='p/a_', separator='')
    """
    for pattern in _DATES if keys else ():
        for found in pattern.finditer(keys[0]):
            separator = keys[0][found.end(1) : found.start(2)]
            layout = KeyLayout(keys[0][: found.start()], separator)
            if layout.day(keys[0]) is not None and layout.day(keys[-1]) is not None:
                return layout
    return None


def list_objects(
    url: str, layout: KeyLayout | None = None, days: tuple[dt.date, dt.date] | None = None
) -> list[RemotePath]:
    """The objects below a URL, in the order of their keys.

    Args:
        url: of a bucket or a folder in it.
        layout: how all keys below the URL that spell a date were found to spell it.
        days: with `layout`, the first and last date to list; objects without a date are listed too.

    Raises:
        StorageError: there is no such bucket, or the store refuses or does not answer.
    """
    try:
        pages = store_of(url).pages
        if pages and layout is not None and days is not None:
            found = _within(url, layout, *days)
        elif pages:
            found = _by_pages(url)
        else:
            prefix = split_url(url).key
            found = repeated(url, lambda store: _all(store, prefix))
    except Fault as fault:
        raise_for(url, fault, "list")
    found.sort()
    now = time.monotonic()
    for path in found:
        path.listed_s = now
    return found


def _all(store: Store, prefix: str) -> list[RemotePath]:
    return [path for some in store.all(prefix) for path in some]


def _by_pages(url: str) -> list[RemotePath]:
    """All objects: one request if an answer has room for them, else several at once."""
    page = _pager(url)
    found = page("")
    if len(found) < PAGE:
        return found
    keys = [_key(path) for path in found]
    layout = layout_of(keys)
    return found + _list_parts(page, [_Part(keys[-1], None)], layout)


def _within(url: str, layout: KeyLayout, first: dt.date, last: dt.date) -> list[RemotePath]:
    """The objects of some dates, and those whose keys lie before or after all dates."""
    parts = [
        _Part("", f"{layout.before}1"),
        _Part(layout.key(first), f"{layout.key(last)}{_AFTER_DIGITS}"),
        _Part(f"{layout.before}3", None),
    ]
    return _list_parts(_pager(url), parts, layout)


class _Part(NamedTuple):
    """The keys after one and before another, which is the end if None."""

    after: str
    before: str | None


Pager = Callable[[str], list[RemotePath]]
"""Lists up to `PAGE` objects after a key."""


def _pager(url: str) -> Pager:
    prefix = split_url(url).key

    def page(after: str) -> list[RemotePath]:
        return repeated(url, lambda store: store.page(prefix, after))

    return page


def _list_parts(page: Pager, parts: Iterable[_Part], layout: KeyLayout | None) -> list[RemotePath]:
    """The objects of parts of the keys, several answers at a time."""
    found: list[RemotePath] = []
    waiting = [divided for part in parts for divided in _divided(part, layout, 1)]
    running: dict[Future[list[RemotePath]], _Part] = {}
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="feedrate-list") as pool:
        try:
            while waiting or running:
                while waiting and len(running) < AT_ONCE:
                    part = waiting.pop()
                    running[pool.submit(page, part.after)] = part
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    part = running.pop(future)
                    answer = future.result()
                    inside = list(_before(answer, part.before))
                    found += inside
                    if len(inside) == len(answer) >= PAGE:
                        rest = _Part(_key(answer[-1]), part.before)
                        free = AT_ONCE - len(running) - len(waiting)
                        waiting += _divided(rest, layout, free)
        finally:
            for future in running:
                future.cancel()
    return found


def _before(paths: Sequence[RemotePath], key: str | None) -> Iterator[RemotePath]:
    return (path for path in paths if key is None or _key(path) < key)


def _divided(part: _Part, layout: KeyLayout | None, count: int) -> list[_Part]:
    """A part in up to `count` parts of as many days each, up to today where it has no end."""
    if layout is None or count < 2:  # noqa: PLR2004 - two are the fewest to divide into
        return [part]
    first = layout.day(part.after)
    last = layout.day(part.before) if part.before is not None else _today()
    if first is None or last is None or last <= first:
        return [part]
    days = (last - first).days
    count = min(count, days)
    starts = [first + days * step // count * _DAY for step in range(1, count)]
    edges = [part.after, *map(layout.key, starts), part.before]
    return list(map(_Part, edges[:-1], edges[1:]))  # type: ignore[arg-type]  # only the last may be None


def _today() -> dt.date:
    return dt.datetime.now(dt.UTC).date()


def _key(path: str) -> str:
    return split_url(path).key


def list_folder(url: str) -> tuple[list[str], list[RemotePath]]:
    """The names of the folders in a folder, and the objects in it.

    Raises:
        StorageError: as `list_objects`.
    """
    prefix = split_url(url).key
    try:
        folders, objects = repeated(url, partial(_folders, prefix=prefix))
    except Fault as fault:
        raise_for(url, fault, "list")
    return [folder.rpartition("/")[2] for folder in folders], objects


def _folders(store: Store, prefix: str) -> tuple[list[str], list[RemotePath]]:
    return store.folders(prefix)
