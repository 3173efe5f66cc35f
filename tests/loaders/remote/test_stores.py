"""Which store and which options an object is read with."""

import pickle

import pytest
from feedrate.loaders.base.errors import InputError
from feedrate.loaders.remote import stores
from feedrate.loaders.remote.options import NO_OPTIONS, options_for
from feedrate.loaders.remote.requests import get
from feedrate.loaders.remote.store import Body
from feedrate.loaders.remote.urls import RemotePath
from feedrate.loaders.storage import ParquetStorage

URL = "s3://twin/x"
ONE, OTHER = ({"endpoint": f"http://{name}.example"} for name in ("one", "other"))


class Opened:
    """A store that answers with the options and the environment it was opened with."""

    pages = True

    def __init__(self, _root, options):
        self.said = str(options.store.get("endpoint", stores.os.environ.get("AWS_ENDPOINT_URL")))

    def get(self, *_):
        return Body(self.said.encode(), 0, len(self.said), "1", 0)

    def page(self, prefix, _after):
        return [RemotePath(f"s3://twin/{prefix}/t_20250101.parquet", 5, "1")]


@pytest.fixture(autouse=True)
def opened(monkeypatch):
    monkeypatch.setattr(stores, "open_store", Opened)
    monkeypatch.setattr(stores, "_stores", {})
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://environment.example")


def answer(storage):
    [path] = storage.files("t")
    return get(path).data.decode()


def test_storages_of_one_url_keep_their_own_options():
    one = ParquetStorage(URL, ONE)
    other = ParquetStorage(URL, OTHER)
    plain = ParquetStorage(URL)
    assert answer(one) == "http://one.example"
    assert answer(other) == "http://other.example"
    assert answer(plain) == "http://environment.example"
    assert answer(one) == "http://one.example"


def test_urls_that_a_user_writes_take_the_options_given_last():
    ParquetStorage(URL, ONE)
    assert get(f"{URL}/t/a.parquet").data == b"http://one.example"
    ParquetStorage(URL, OTHER)
    assert get(f"{URL}/t/a.parquet").data == b"http://other.example"


def test_a_store_is_opened_again_if_the_environment_changes(monkeypatch):
    storage = ParquetStorage(URL)
    assert answer(storage) == "http://environment.example"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://corrected.example")
    assert answer(storage) == "http://corrected.example"


def test_options_stay_with_paths_made_from_others_and_leave_no_process():
    storage = ParquetStorage(URL, {**ONE, "secret": "HIDDEN"})
    [path] = storage.files("t")
    for made in (path.parent, path.parent / "b.parquet"):
        assert options_for(made) is options_for(path)
    copy = pickle.loads(pickle.dumps(path))  # noqa: S301 - our own
    assert copy == path
    assert copy.options is None
    assert b"HIDDEN" not in pickle.dumps(storage)
    again = pickle.loads(pickle.dumps(storage))  # noqa: S301 - our own
    assert dict(options_for(again.base_dir).store) == ONE
    plain = pickle.loads(pickle.dumps(ParquetStorage("s3://elsewhere")))  # noqa: S301 - our own
    assert options_for(plain.base_dir) == NO_OPTIONS


@pytest.mark.parametrize("endpoint", ["127.0.0.1:9000", "not a url", "ftp://x"])
def test_an_endpoint_is_a_url(endpoint):
    with pytest.raises(InputError, match="it begins with http:// or https://"):
        ParquetStorage(URL, {"endpoint": endpoint})


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("x", "storage_options is str; give a dict"),
        ({"endpoint": "http://KEY:HIDDEN@host"}, "contains credentials"),
    ],
)
def test_wrong_options_are_named(given, why):
    with pytest.raises(InputError, match=why) as caught:
        ParquetStorage(URL, given)
    assert "HIDDEN" not in str(caught.value)


def test_options_of_s3fs_are_known():
    client = {"endpoint_url": "http://minio.example", "region_name": "eu-1"}
    storage = ParquetStorage(URL, {"key": "K", "secret": "S", "client_kwargs": client})
    assert dict(options_for(storage.base_dir).store) == {
        "access_key_id": "K", "secret_access_key": "S", "endpoint": "http://minio.example",
        "region": "eu-1",
    }  # fmt: skip
