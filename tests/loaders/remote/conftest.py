"""An S3 server for all tests of a process, and storages in it."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from feedrate.loaders.remote import options, requests, source, stores
from feedrate.loaders.storage import ParquetStorage

from ...servers.proxy import Proxy
from ...servers.running import start_child
from ...servers.s3 import ACCESS_KEY, SECRET_KEY, Endpoint, put
from .failing import end_requests

BUCKET = "feedrate"
# In a process of its own: moto's buckets belong to a process, and other tests empty them.
SERVE = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.servers.s3 import moto_server
with moto_server() as endpoint:
    print(endpoint.url, flush=True)
    sys.stdin.read()
"""
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def moto():
    """An S3 server that follows the protocol, with a bucket."""
    pytest.importorskip("obstore")
    pytest.importorskip("moto.server")
    root = Path(__file__).parents[3]
    child = start_child(
        [sys.executable, "-c", SERVE, str(root)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with child:
        endpoint = Endpoint(child.stdout.readline().strip(), ACCESS_KEY, SECRET_KEY)
        put(endpoint, BUCKET, {})
        yield endpoint
        child.kill()


@pytest.fixture(scope="module")
def s3(moto):
    """The server, which the environment names."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in moto.environment().items():
            patch.setenv(name, value)
        yield moto


@pytest.fixture(scope="module")
def upload(s3):
    """A function that puts the files of a folder into a new one by URL, and returns its URL."""

    def upload_folder(folder):
        key = f"place-{next(_numbers)}"
        files = (path for path in Path(folder).rglob("*") if path.is_file())
        put(s3, BUCKET, {f"{key}/{one.relative_to(folder)}": one.read_bytes() for one in files})
        return f"s3://{BUCKET}/{key}"

    return upload_folder


@pytest.fixture
def url(s3):  # noqa: ARG001 - it sets the environment
    """The URL of a new folder."""
    return f"s3://{BUCKET}/place-{next(_numbers)}"


@pytest.fixture
def behind(moto):
    """A function that gives a storage behind a proxy, and the proxy: `behind(url, faults=[…])`."""
    running = []

    def put_behind(url, storage_options=None, upstream=moto, **settings):
        one = Proxy(upstream.url, **settings).running()
        proxy = one.__enter__()
        running.append(one)
        keys = {"access_key_id": upstream.access_key, "secret_access_key": upstream.secret_key}
        place = {"endpoint": proxy.url, "region": upstream.region, **keys}
        return ParquetStorage(url, {**place, **(storage_options or {})}), proxy

    yield put_behind
    for one in running:
        one.__exit__(None, None, None)


@pytest.fixture(autouse=True)
def _fresh_stores():
    """No test sees the options, the stores or the ends of objects of another, or its requests."""
    yield
    end_requests()
    forget_stores()


def forget_stores():
    """Forget what this process knows of stores."""
    options._given.clear()
    stores._stores.clear()
    requests._answered.clear()
    source.forget_ends()
