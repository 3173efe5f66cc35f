"""The versions of objects: from listings where they are fresh, else by asking again."""

import time
from unittest import mock

import pytest
from feedrate.loaders.base.errors import StorageError
from feedrate.loaders.remote import known, requests
from feedrate.loaders.remote.faults import Fault
from feedrate.loaders.remote.known import FRESH_S, with_versions
from feedrate.loaders.remote.store import Body
from feedrate.loaders.remote.urls import RemotePath


class FakeStore:
    """A store whose objects have versions."""

    def __init__(self):
        self.versions = {f"{number}": "v1" for number in range(20)}
        self.single, self.listed = [], []
        self.lists = True

    def get(self, key, _, __):
        self.single.append(key)
        if key not in self.versions:
            raise Fault("missing", "it does not exist")
        return Body(b"x", 0, 5, self.versions[key], 7)

    def folders(self, prefix):
        self.listed.append(prefix)
        if not self.lists:
            raise Fault("other", "it does not list")
        return [], [
            RemotePath(f"s3://bucket/{key}", 5, version) for key, version in self.versions.items()
        ]


@pytest.fixture
def store():
    store = FakeStore()
    with mock.patch.object(requests, "store_of", return_value=store):
        yield store


def path(number, version="v1", age_s=None):
    listed_s = None if age_s is None else time.monotonic() - age_s
    return RemotePath(f"s3://bucket/{number}", 5, version, 7, listed_s)


def test_a_fresh_listing_is_taken_as_it_is(store):
    paths = [path(number, "old", age_s=0.0) for number in range(30)]
    assert with_versions(paths) == {one: one for one in paths}
    assert store.single == store.listed == []


def test_few_objects_are_asked_about_one_by_one(store):
    paths = [path(1, "old", age_s=FRESH_S + 1), path(2), path(3, None, age_s=0.0), "s3://bucket/4"]
    found = with_versions([*paths, *paths])
    assert {name: one.version for name, one in found.items()} == dict.fromkeys(paths, "v1")
    assert sorted(store.single) == ["1", "2", "3", "4"]
    assert store.listed == []


def test_many_objects_of_a_folder_take_one_listing(store):
    paths = [path(number) for number in range(12)]
    assert {one.version for one in with_versions(paths).values()} == {"v1"}
    assert (store.single, store.listed) == ([], [""])


def test_where_there_are_no_listings_objects_are_asked_about(store):
    store.lists = False
    paths = [path(number) for number in range(12)]
    assert len(with_versions(paths)) == 12
    assert len(store.single) == 12


def test_objects_that_are_gone_or_have_no_version_are_left_out(store):
    store.versions["2"] = None
    assert list(with_versions([path(1), path(2), path(99)])) == [path(1)]
    many = [path(number) for number in [*range(12), 99]]
    found = with_versions(many)
    assert path(99) not in found
    assert path(2) not in found
    assert len(found) == 11


def test_files_are_left_out(store):
    assert with_versions(["data/a.parquet"]) == {}
    assert store.single == store.listed == []


def test_a_store_that_cannot_be_listed_raises_no_error_here(store):
    with mock.patch.object(known, "list_folder", side_effect=StorageError("denied")):
        assert len(with_versions([path(number) for number in range(12)])) == 12
    assert len(store.single) == 12
