"""URLs: one spelling, no secrets in them, and paths that know their size and version."""

import os
import pickle
from pathlib import PurePosixPath

import pytest
from feedrate.loaders.base.errors import InputError
from feedrate.loaders.remote.urls import (
    RemotePath,
    checked_url,
    common_folder,
    is_url,
    local_path,
    split_url,
    without_secrets,
)


@pytest.mark.parametrize(
    ("given", "checked"),
    [
        ("s3://prices", "s3://prices"),
        ("s3://prices/", "s3://prices"),
        ("S3://Prices/Daily", "s3://Prices/Daily"),
        ("s3a://prices//daily/", "s3://prices/daily"),
        ("s3n://prices/a", "s3://prices/a"),
        ("gcs://prices/a", "gs://prices/a"),
        ("azure://prices/a", "az://prices/a"),
        ("abfss://box@account.dfs.core.windows.net/a", "abfs://box@account.dfs.core.windows.net/a"),
        ("https://host:8443/a b/c", "https://host:8443/a b/c"),
        ("hdfs:///data", "hdfs:///data"),
        ("hdfs://host:8020/data", "hdfs://host:8020/data"),
        ("http://[::1]:9000/data", "http://[::1]:9000/data"),
        ("memory://a", "memory://a"),
        ("s3://p/date=2025-01-04 00%3A00%3A00/ä+", "s3://p/date=2025-01-04 00%3A00%3A00/ä+"),
    ],
)  # fmt: skip
def test_a_url_has_one_spelling(given, checked):
    assert checked_url(given) == checked
    assert checked_url(checked) == checked


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("s3://KEYID:HIDDEN@prices/daily", r"s3://\*\*\*@prices/daily: .*may not contain cred"),
        ("s3://HIDDEN@prices", "may not contain credentials"),
        ("https://me:HIDDEN@host/a", "may not contain credentials"),
        ("abfs://me:HIDDEN@account.dfs.core.windows.net/a", "may not contain credentials"),
        ("s3://a@b@prices/HIDDEN?x", r"\*\*\*@prices"),
        ("s3://KEYID:HIDDEN/x@prices/a", r"s3://\*\*\*@prices/a: .*may not contain cred"),
        ("https://me:HIDDEN/x@host:80/a", r"https://\*\*\*@host:80/a: .*may not contain"),
        ("s3://KEYID:1:HIDDEN", "may not contain credentials"),
        ("https://host/a?sig=HIDDEN", r"https://host/a\?\*\*\*: .*may not end in a query"),
        ("s3://prices/daily#HIDDEN", r"s3://prices/daily#\*\*\*: "),
        ("s3://prices?a=HIDDEN\nb=HIDDEN", "may not end in a query"),
        ("s3://", "names no bucket; write it as s3://BUCKET/FOLDER"),
        ("s3:///daily", "names no bucket"),
        ("prices/daily", "is no URL"),
    ],
)
def test_a_url_without_a_bucket_or_with_a_secret_is_refused_without_showing_it(given, message):
    with pytest.raises(InputError, match=message) as caught:
        checked_url(given)
    if "daily" not in given or "HIDDEN" in given:
        assert "HIDDEN@" not in str(caught.value)
        assert "=HIDDEN" not in str(caught.value)
        assert "#HIDDEN" not in str(caught.value)
        assert ":HIDDEN" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("s3://K:S@prices/a?sig=T#x", "s3://***@prices/a?***"),
        ("s3://K:S/T/U@prices/a", "s3://***@prices/a"),
        ("s3://K:S@more@prices/a", "s3://***@prices/a"),
        ("s3://prices/a@b", "s3://prices/a@b"),
        ("data/a?b", "data/a?b"),
        ("s3://prices", "s3://prices"),
    ],
)
def test_messages_show_a_url_without_secrets(given, shown):
    assert without_secrets(given) == shown


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("s3://prices", True),
        ("gs://p/a", True),
        ("hdfs://h/a", True),
        ("FILE:///data", False),
        ("file:///data", False),
        ("data/s3/x", False),
        ("C://data", False),  # a drive
        ("a b://c", False),
        ("", False),
        (None, False),
        (PurePosixPath("s3://prices"), False),
        (b"s3://prices", False),
    ],
)
def test_which_paths_are_urls(path, answer):
    assert is_url(path) is answer


def test_a_url_of_a_file_is_a_local_path():
    assert local_path("file:///data/my%20prices") == "/data/my prices"
    assert local_path("FILE://localhost/data") == "/data"
    assert local_path("data/prices") == "data/prices"
    assert local_path("s3://prices/a") == "s3://prices/a"
    with pytest.raises(InputError, match="is on the host 'server'"):
        local_path("file://server/data")


def test_the_parts_of_a_url():
    assert split_url("s3://prices/2025/a b.parquet") == ("s3", "prices", "2025/a b.parquet")
    assert split_url("s3://prices").root == "s3://prices"
    assert split_url("s3://prices").key == ""
    with pytest.raises(InputError, match="is no URL"):
        split_url("prices/a")


def test_the_innermost_folder_of_objects():
    assert common_folder(["s3://p/2025/a", "s3://p/2025/b"]) == "s3://p/2025"
    assert common_folder(["s3://p/2025/a", "s3://p/2026/a"]) == "s3://p"
    assert common_folder(["s3://p/2025/a"]) == "s3://p/2025"
    assert common_folder(["s3://p/20/a", "s3://p/2025/a"]) == "s3://p"


def test_a_remote_path_is_its_text_and_knows_its_object():
    path = RemotePath("s3://prices/2025/a.b.parquet", 5, "v1", 7, listed_s=1.0)
    assert path == "s3://prices/2025/a.b.parquet"
    assert hash(path) == hash(str(path))
    assert {str(path): 1}[path] == 1
    assert {path: 1}[str(path)] == 1
    assert sorted([path, "s3://a"]) == ["s3://a", path]
    assert (path.name, path.stem, path.suffix) == ("a.b.parquet", "a.b", ".parquet")
    assert path.parent == "s3://prices/2025"
    assert path.parent / "c" / PurePosixPath("d") == "s3://prices/2025/c/d"
    assert (path.size, path.version, path.modified_ns, path.listed_s) == (5, "v1", 7, 1.0)
    assert type(str(path)) is str
    assert isinstance(path / "x", RemotePath)
    assert os.fspath(path) is path
    assert (path / "x").version is None
    with pytest.raises(AttributeError):
        path.other = 1


def test_a_pickled_remote_path_keeps_all_but_the_time_of_its_listing():
    path = RemotePath("s3://prices/ä", 5, "v1", 7, listed_s=1.0)
    copy = pickle.loads(pickle.dumps(path))  # noqa: S301 - it is our own
    assert type(copy) is RemotePath
    assert copy == path
    assert (copy.size, copy.version, copy.modified_ns, copy.listed_s) == (5, "v1", 7, None)
