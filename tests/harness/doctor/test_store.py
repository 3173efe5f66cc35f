"""The store is measured within its bounds: no latency below the true one, and no more bytes."""

import json
import time

import msgspec
import pytest
from feedrate.harness.cli import store_view as view
from feedrate.harness.cli.app import app
from feedrate.harness.cli.store_view import store_view
from feedrate.harness.doctor import store, store_probe
from feedrate.harness.doctor.store import measure_store
from feedrate.harness.doctor.store_probe import LEAST_PART, MOST_PART, Account, part_bytes, rates
from feedrate.harness.record.measured_store import QUANTILES, MeasuredStore
from feedrate.harness.show.terminal import as_text
from feedrate.loaders.base.errors import StorageError
from feedrate.loaders.remote.emulation import Emulation, emulated_path, publish
from typer.testing import CliRunner

from ...servers.faults import Fault
from ...servers.proxy import Proxy
from ...servers.s3 import SECRET_KEY, put

DELAY_S = 0.03
SIZE = 400_000
SECONDS = 1.5  # moto answers some 200 requests in it


@pytest.fixture(scope="module")
def objects(moto):
    """Objects of two sizes in a bucket of their own."""
    bucket = "measured"
    large = {f"large/{number}": bytes(SIZE) for number in range(3)}
    put(moto, bucket, {**large, "small/x": bytes(2000), "small/empty": b""})
    return f"s3://{bucket}"


@pytest.fixture
def behind(moto, monkeypatch):
    """A function that puts a proxy before the server, which the environment then names."""
    running = []
    monkeypatch.setattr(store, "GRACE_S", 0.5)
    monkeypatch.setattr(store_probe, "GRACE_S", 0.5)

    def start(**settings):
        one = Proxy(moto.url, **settings).running()
        proxy = one.__enter__()
        running.append(one)
        for name, value in proxy.endpoint(moto).environment().items():
            monkeypatch.setenv(name, value)
        return proxy

    yield start
    for one in running:
        one.__exit__(None, None, None)


def test_no_latency_is_below_the_true_one(objects, behind, tmp_path):
    proxy = behind(delay_s=DELAY_S)
    found = measure_store(f"{objects}/large", seconds=SECONDS)
    assert len(found.latency_s) == QUANTILES
    assert DELAY_S <= found.latency_s[0] <= found.p50_s <= found.p95_s <= found.p99_s
    assert found.latencies > 1
    assert found.url == objects
    assert (found.throttled_per_s, found.throttled_in_flight) == (None, None)
    assert "none with up to" in found.reasons["throttled_per_s"]
    gets = [one for one in proxy.requests if one.method == "GET" and not one.query]
    assert found.requests == len(gets) > found.latencies
    assert found.bytes == sum(one.sent for one in gets if one.status == 206)
    assert [step.in_flight for step in found.small][:2] == [1, 4]
    assert found.small[1].requests_per_s <= 4 / DELAY_S
    assert found.objects == 3
    assert found.emulation("x.json").latency_s == found.latency_s
    found.save(tmp_path / "store.json")
    assert MeasuredStore.load(tmp_path / "store.json") == found
    text = (tmp_path / "store.json").read_text()
    assert SECRET_KEY not in text
    assert proxy.url not in text


def test_throttling_is_seen_and_ends_the_steps(objects, behind):
    behind(delay_s=0.005, faults=[Fault("status", status=503, matches="large", after=40)])
    found = measure_store(f"{objects}/large", seconds=SECONDS)
    last = (*found.small, *found.large)[-1]
    assert last.throttled > 0
    assert not any(step.throttled for step in (*found.small, *found.large)[:-1])
    assert found.throttled_in_flight == last.in_flight
    assert found.throttled_per_s >= 1
    assert found.bytes_per_s is None
    assert found.reasons["bytes_per_s"] == "throttling began before"
    assert "throttled_per_s" not in found.reasons


@pytest.mark.parametrize("most_bytes", [5, 700_000])
def test_no_more_bytes_are_read_than_allowed(objects, behind, most_bytes):
    proxy = behind()
    found = measure_store(f"{objects}/large", seconds=SECONDS, most_bytes=most_bytes)
    assert found.bytes <= most_bytes
    gets = [one for one in proxy.requests if not one.query]
    assert sum(one.sent for one in gets) <= most_bytes


def test_small_objects_tell_nothing_of_bandwidth(objects, behind):
    behind(delay_s=0.005)
    found = measure_store(f"{objects}/small", seconds=SECONDS)
    assert (found.bytes_per_s, found.connection_bytes_per_s, found.large) == (None, None, [])
    assert "the largest object has 1.95 KiB" in found.reasons["bytes_per_s"]
    assert found.objects == 1  # the empty one has nothing to read


def test_one_object_can_be_named(objects, behind):
    behind()
    assert measure_store(f"{objects}/small/x", seconds=SECONDS).objects == 1


@pytest.mark.parametrize(
    ("place", "fault", "why"),
    [
        ("", Fault("status", status=403), "check the credentials"),
        ("/none", None, "there is nothing to read in s3://measured/none"),
        ("-not", None, "there is no bucket s3://measured-not"),
        ("/large/1", Fault("timeout", matches="large/1"), "check the network"),
        ("/large", Fault("status", status=500, matches="large/", after=1), "none of"),
    ],
)
def test_a_store_that_cannot_be_measured_is_a_clear_error(objects, behind, place, fault, why):
    behind(faults=[] if fault is None else [fault])
    began = time.monotonic()
    with pytest.raises(StorageError, match=why) as caught:
        measure_store(f"{objects}{place}", seconds=SECONDS)
    assert SECRET_KEY not in str(caught.value)
    assert time.monotonic() - began < 30


def test_answers_that_never_come_end_with_the_time(objects, behind):
    behind(faults=[Fault("timeout", matches="large/", after=30)])
    began = time.monotonic()
    found = measure_store(f"{objects}/large", seconds=SECONDS)
    assert time.monotonic() - began < 30
    assert "no answer in time" in found.reasons["failed"]


def test_an_emulated_store_is_measured_as_it_was_defined(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "GRACE_S", 0.5)
    (tmp_path / "x").write_bytes(bytes(SIZE))
    root = publish(Emulation(latency_s=[DELAY_S, 2 * DELAY_S], bytes_per_s=1e6))
    found = measure_store(emulated_path(root, tmp_path), seconds=SECONDS)
    assert found.latency_s[0] >= DELAY_S
    assert found.connection_bytes_per_s is None or found.connection_bytes_per_s < 2e6


def test_a_request_counts_for_the_time_that_it_takes():
    calls = [store_probe.Call(0.0, 2.0, 100)] * 4  # longer than the step
    requests, received, took = rates(calls, 0.0, 1.0)
    assert (requests, received, took) == (2.0, 200.0, 0.8)
    assert rates([], 0.0, 1.0)[:2] == (0.0, 0.0)


def test_large_requests_are_smaller_the_more_there_are():
    size = part_bytes(1e9)
    assert size(1) == MOST_PART
    assert size(256) * 256 <= 128 << 20
    assert part_bytes(1e3)(1) == LEAST_PART


def test_an_account_refuses_what_is_too_much():
    account = Account(time.monotonic() + 60, most_bytes=100)
    assert account.begin("x", 60, 100)
    assert not account.begin("x", 60, 100)
    assert account.requests == 1


@pytest.fixture
def measured(objects, behind):
    behind(delay_s=0.005, faults=[Fault("status", status=503, matches="large", after=40)])
    return measure_store(f"{objects}/large", seconds=SECONDS)


def test_the_table_fits_a_terminal(measured):
    lines = as_text(store_view(measured)).splitlines()
    assert max(map(len, lines)) <= 80
    assert any("to the first byte: the median of" in line for line in lines)
    assert any(line.startswith("throttling from ") for line in lines)


def test_doctor_writes_what_it_measured_of_a_url(objects, behind, measured, monkeypatch, tmp_path):
    behind()
    asked = []
    monkeypatch.setattr(view, "measure_store", lambda url: (asked.append(url), measured)[1])
    monkeypatch.setattr("feedrate.harness.cli.doctor_view.run_doctor", lambda *_, **__: ([], []))
    path = tmp_path / "store.json"
    command = ["doctor", f"{objects}/large/*.parquet", "--write-storage", str(path)]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    assert asked == [f"{objects}/large"]
    assert MeasuredStore.load(path) == measured
    assert msgspec.convert(json.loads(done.stdout)["store"], MeasuredStore) == measured
    done = CliRunner().invoke(app, command)
    assert f"Store {objects}" in done.stdout


@pytest.mark.parametrize(
    ("data", "name", "why"),
    [([], "x.json", "is for a store"), (["."], "x.json", "is for a store"),
     (["s3://measured"], "no/x.json", "there is no folder")],
)  # fmt: skip
def test_what_cannot_be_written_is_an_error_at_once(tmp_path, data, name, why):
    done = CliRunner().invoke(app, ["doctor", *data, "--write-storage", str(tmp_path / name)])
    assert why in str(done.exception)
