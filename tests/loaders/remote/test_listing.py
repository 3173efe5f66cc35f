"""Listings: layouts of keys, and every key once however the keys are divided."""

import datetime as dt
import threading
from bisect import bisect_right
from contextlib import contextmanager
from unittest import mock

import pytest

pytest.importorskip("hypothesis")
from feedrate.loaders.base.errors import StorageError
from feedrate.loaders.remote import listing, requests
from feedrate.loaders.remote.faults import Fault
from feedrate.loaders.remote.listing import KeyLayout, layout_of, list_folder, list_objects
from feedrate.loaders.remote.urls import RemotePath
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ...servers.stub import flat, hive, nested

PAGE = 4
DAY = dt.date(2024, 12, 30)
LAYOUTS = {
    "nested": KeyLayout("prices/", "/"),
    "hive": KeyLayout("prices/date=", "-"),
    "flat": KeyLayout("prices/prices_", ""),
}
NAMES = {"nested": nested, "hive": hive, "flat": flat}


class FakeStore:
    """A bucket of keys that lists `PAGE` of them at a time."""

    pages = True

    def __init__(self, keys, faults=0):
        self.keys = sorted(set(keys))
        self.asked = 0
        self.faults = faults
        self._lock = threading.Lock()

    def page(self, prefix, after):
        with self._lock:
            self.asked += 1
            self.faults -= 1
            if self.faults == 0:
                raise Fault("denied", "access is denied")
        start = bisect_right(self.keys, max(after, f"{prefix}/"))
        return self.paths(
            key for key in self.keys[start : start + PAGE] if key.startswith(f"{prefix}/")
        )

    def all(self, prefix):
        yield self.paths(key for key in self.keys if key.startswith(f"{prefix}/"))

    def paths(self, keys):
        return [RemotePath(f"s3://bucket/{key}", 1, "v") for key in keys]

    def folders(self, prefix):
        inside = [key.removeprefix(f"{prefix}/") for key in self.keys]
        found = sorted({key.partition("/")[0] for key in inside if "/" in key})
        single = [f"{prefix}/{key}" for key in inside if "/" not in key]
        return [f"{prefix}/{name}" for name in found], self.paths(single)


@contextmanager
def serving(store):
    with (
        mock.patch.object(listing, "PAGE", PAGE),
        mock.patch.object(listing, "store_of", return_value=store),
        mock.patch.object(requests, "store_of", return_value=store),
    ):
        yield store


def names(found):
    return [path.removeprefix("s3://bucket/") for path in found]


DAYS = st.dates(DAY, DAY + dt.timedelta(days=40)) | st.dates(dt.date(1900, 1, 1))
DATED = st.builds(
    lambda name, day, part: NAMES[name](day, part),
    st.sampled_from(sorted(NAMES)), DAYS, st.integers(0, 5),
)  # fmt: skip
ANY = st.text(st.sampled_from("0129ab-_=/.:ä"), min_size=1, max_size=14).map("prices/{}".format)
KEYS = st.lists(DATED, max_size=60) | st.lists(DATED | ANY, max_size=60)


def bare_days(keys):
    """Keys that are a date and nothing after it; no Parquet file has such a name."""
    return {key for key in keys for layout in LAYOUTS.values()
            if (day := layout.day(key)) and layout.key(day) == key}  # fmt: skip


@settings(deadline=None, max_examples=50)
@given(KEYS)
@example([hive(DAY + dt.timedelta(days=day), 0) for day in range(40)])
def test_each_object_is_listed_once(keys):
    keys = set(keys) - bare_days(keys)
    with serving(FakeStore(keys)):
        assert names(list_objects("s3://bucket/prices")) == sorted(keys)


@settings(deadline=None, max_examples=50)
@given(KEYS, st.sampled_from(sorted(LAYOUTS)), DAYS, st.integers(0, 30))
def test_all_objects_of_some_days_are_listed_once(keys, name, first, count):
    keys, layout = set(keys) - bare_days(keys), LAYOUTS[name]
    last = min(first, dt.date.max - dt.timedelta(days=31)) + dt.timedelta(days=count)
    with serving(FakeStore(keys)):
        found = names(list_objects("s3://bucket/prices", layout, (first, last)))
    assert found == sorted(set(found))
    assert set(found) <= keys
    wanted = {
        key
        for key in keys
        if key[:-1].startswith(layout.before)  # the others lie before or after all dates
        and (day := layout.day(key)) is not None
        and first <= day <= last
    }
    assert wanted <= set(found)
    assert {key for key in keys if not key.startswith(layout.before)} <= set(found)


@pytest.mark.parametrize("name", sorted(NAMES))
@pytest.mark.parametrize("per_day", [1, 3, 30])
def test_thousands_of_dates_take_few_more_requests_than_full_answers(name, per_day):
    days = 3000 // per_day
    keys = [
        NAMES[name](DAY - dt.timedelta(days=day), part)
        for day in range(days)
        for part in range(per_day)
    ]
    with serving(FakeStore(keys)) as store, mock.patch.object(listing, "_today", return_value=DAY):
        assert len(list_objects("s3://bucket/prices")) == len(keys)
        assert store.asked <= 1.35 * len(keys) / PAGE + 2 * listing.AT_ONCE
        store.asked = 0
        week = (DAY - dt.timedelta(days=6), DAY)
        assert len(list_objects("s3://bucket/prices", LAYOUTS[name], week)) == 7 * per_day
        assert store.asked <= 7 * per_day / PAGE + listing.AT_ONCE


def test_a_listing_of_less_than_one_answer_takes_one_request():
    with serving(FakeStore([hive(DAY, part) for part in range(PAGE - 1)])) as store:
        assert len(list_objects("s3://bucket/prices")) == PAGE - 1
    assert store.asked == 1
    with serving(FakeStore([])):
        assert list_objects("s3://bucket/prices") == []


def test_a_store_without_an_order_is_listed_at_once():
    store = FakeStore([hive(DAY, part) for part in range(20)])
    store.pages = False
    with serving(store):
        assert names(list_objects("s3://bucket/prices")) == store.keys
    assert store.asked == 0


@pytest.mark.parametrize("at", [1, 2, 7])
def test_a_listing_that_fails_is_an_error_that_names_the_folder(at):
    keys = [hive(DAY + dt.timedelta(days=day), 0) for day in range(100)]
    with (
        serving(FakeStore(keys, faults=at)),
        pytest.raises(StorageError, match="cannot list s3://bucket/prices: access is denied"),
    ):
        list_objects("s3://bucket/prices")


def test_listed_objects_know_when_they_were_listed():
    with serving(FakeStore([hive(DAY, part) for part in range(20)])):
        assert all(path.listed_s is not None for path in list_objects("s3://bucket/prices"))


@pytest.mark.parametrize(
    ("keys", "layout"),
    [
        ([nested(DAY, 0), nested(DAY, 1)], LAYOUTS["nested"]),
        ([hive(DAY, 0)], LAYOUTS["hive"]),
        ([flat(DAY, 0), flat(DAY, 7)], LAYOUTS["flat"]),
        (["p/2024/2025/01/05/a"], KeyLayout("p/2024/", "/")),
        (["p/20250105/2025-01-06.parquet"], KeyLayout("p/20250105/", "-")),
        (["p/20250105_a", "p/2025-01-06"], None),
        (["p/20251305"], None),
        (["p/120250105"], None),
        (["p/202501051"], None),
        (["p/a", "p/b"], None),
        ([], None),
    ],
)
def test_the_layout_of_keys(keys, layout):
    assert layout_of(keys) == layout


def test_a_layout_spells_days_and_reads_them():
    for layout in LAYOUTS.values():
        assert layout.day(f"{layout.key(DAY)}/x") == DAY
        assert layout.day("other") is None
        assert layout.day(f"{layout.before}20x4") is None


def test_a_folder_is_listed_by_names_and_objects():
    with serving(FakeStore(["data/prices/a", "data/odds/b/c", "data/x"])):
        assert list_folder("s3://bucket/data") == (["odds", "prices"], ["s3://bucket/data/x"])


def test_months_of_one_digit_are_not_in_the_order_of_dates():
    days = (DAY + dt.timedelta(number) for number in range(700))
    keys = [f"prices/{day.year}/{day.month}/{day:%d}/a.parquet" for day in days]
    store = FakeStore(keys)
    with serving(store):
        assert list_objects("s3://bucket/prices") == store.paths(sorted(keys))
    layout = KeyLayout("prices/", "/")
    assert layout.day("prices/2025/9/05/a.parquet") is None
    assert layout.day("prices/2025/10/05/a.parquet") == dt.date(2025, 10, 5)
