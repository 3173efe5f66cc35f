"""List objects: their sizes and versions, of many dates at once.

A listing returns 1,000 objects at a time, one request after the other. Where keys spell dates in
their order, as in `prices/2025/01/05/a.parquet`, `prices/date=2025-01-05/a.parquet` or
`prices/prices_20250105.parquet`, several parts of the keys are listed at once: whenever a part is
longer than one answer, its remaining dates are divided. So thousands of dates take no request each.

A listing takes about 500 bytes of memory per object.
"""

from __future__ import annotations

import bisect
import datetime as dt
import re
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from .faults import Fault
from .options import options_for
from .requests import raise_for, repeated
from .store import PAGE, Store
from .stores import store_of
from .urls import RemotePath, split_url

AT_ONCE = 32  # requests in flight
ANSWERS = 3  # of a part of the keys
_DAY = dt.timedelta(days=1)
_SEPARATORS = ("/", "-", "")
_DATES = tuple(
    re.compile(rf"(?<!\d)((?:19|20)\d\d){separator}(\d\d){separator}(\d\d)(?!\d)")
    for separator in _SEPARATORS
)
_LAST = chr(sys.maxunicode)  # sorts after all other letters, digits and signs


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

    def spells(self, key: str, date: str | None) -> bool:
        """Whether a key has a date, `YYYYMMDD`, where this layout has it."""
        start = len(self.before)
        text = key[start : start + 8 + 2 * len(self.separator)]
        digits = text.replace(self.separator, "") if self.separator else text
        return digits == date and key.startswith(self.before)

    def day(self, key: str) -> dt.date | None:
        """The date in a key; None if it spells none there."""
        start = len(self.before)
        text = key[start : start + 8 + 2 * len(self.separator)]
        written = self.separator.join(("%Y", "%m", "%d"))
        try:
            day = dt.datetime.strptime(text, written).date()  # noqa: DTZ007 - days have no zone
        except ValueError:
            return None
        # `strptime` also takes 2025/9/05, whose key is not in the order of dates.
        return day if key.startswith(self.key(day)) else None


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
    return _stamped(url, found)


def _all(store: Store, prefix: str) -> list[RemotePath]:
    return [path for some in store.all(prefix) for path in some]


def _by_pages(url: str) -> list[RemotePath]:
    """All objects: one request if an answer has room for them, else several at once."""
    page = _Pager(url)
    found = page("")
    if len(found) < PAGE:
        return found
    first, last = page.key(found[0]), page.key(found[-1])
    layout = layout_of([first, last])
    return found + _list_parts(page, _rest(first, last, None, layout, AT_ONCE), layout)


def _within(url: str, layout: KeyLayout, first: dt.date, last: dt.date) -> list[RemotePath]:
    """The objects of some dates, however spelled, and those before or after all dates."""
    # Keys of other years, if any, lie before or after these.
    first, last = max(first, dt.date(1000, 1, 1)), min(last, dt.date(2999, 12, 31))
    spelled = [KeyLayout(layout.before, separator) for separator in _SEPARATORS]
    parts = sorted((other.key(first), f"{other.key(last)}{_LAST}") for other in spelled)
    joined = [_Part("", f"{layout.before}1")]
    for after, before in parts:  # of different years they overlap
        if joined[-1].before is not None and after <= joined[-1].before:
            joined[-1] = _Part(joined[-1].after, max(joined[-1].before, before))
        else:
            joined.append(_Part(after, before))
    return _list_parts(_Pager(url), [*joined, _Part(f"{layout.before}3", None)], layout)


class _Part(NamedTuple):
    """The keys after one and before another, which is the end if None."""

    after: str
    before: str | None


class _Pager:
    """Lists up to `PAGE` objects after a key, in order."""

    def __init__(self, url: str) -> None:
        self._url = url
        parts = split_url(url)
        self._prefix, self._key_start = parts.key, len(parts.root) + 1

    def __call__(self, after: str) -> list[RemotePath]:
        return repeated(self._url, lambda store: store.page(self._prefix, after))

    def key(self, path: str) -> str:
        return path[self._key_start :]

    def before(self, paths: Sequence[RemotePath], key: str | None) -> Sequence[RemotePath]:
        """The first of some paths in order, up to a key."""
        return paths if key is None else paths[: bisect.bisect_left(paths, key, key=self.key)]


def _list_parts(page: _Pager, parts: Iterable[_Part], layout: KeyLayout | None) -> list[RemotePath]:
    """The objects of parts of the keys, several answers at a time."""
    found: list[RemotePath] = []
    waiting = list(parts)
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
                    inside = page.before(answer, part.before)
                    found += inside
                    if len(inside) == len(answer) >= PAGE:
                        free = AT_ONCE - len(running) - len(waiting)
                        keys = page.key(answer[0]), page.key(answer[-1])
                        waiting += _rest(*keys, part.before, layout, free)
        finally:
            for future in running:
                future.cancel()
    return found


def _rest(
    first: str, after: str, before: str | None, layout: KeyLayout | None, free: int
) -> list[_Part]:
    """What follows an answer, in parts of as many days each, up to today where it has no end.

    A part is expected to take `ANSWERS` answers: its last one also brings keys of the next part.

    Args:
        first: the first key of the answer.
        after: its last key.
        before: the end of the keys to list; None: the end of all.
        layout: how keys spell dates.
        free: most parts.
    """
    whole = [_Part(after, before)]
    if layout is None:
        return whole
    begin, low = layout.day(first), layout.day(after)
    high = layout.day(before) if before is not None else _today()
    if begin is None or low is None or high is None or high <= low:
        return whole
    days = (high - low).days
    answers = days / max(1, (low - begin).days)
    count = min(free, days, round(answers / ANSWERS))
    if count < 2:  # noqa: PLR2004 - two are the fewest to divide into
        return whole
    starts = [low + days * step // count * _DAY for step in range(1, count)]
    edges = [after, *map(layout.key, starts), before]
    return list(map(_Part, edges[:-1], edges[1:]))  # type: ignore[arg-type]  # only the last may be None


def _today() -> dt.date:
    return dt.datetime.now(dt.UTC).date()


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
    return [folder.rpartition("/")[2] for folder in folders], _stamped(url, objects)


def _stamped(url: str, paths: list[RemotePath]) -> list[RemotePath]:
    """Paths with the time of their listing, and with the options of its URL."""
    now, options = time.monotonic(), options_for(url)
    for path in paths:
        path.listed_s, path.options = now, options
    return paths


def _folders(store: Store, prefix: str) -> tuple[list[str], list[RemotePath]]:
    return store.folders(prefix)
