"""What `--emulate-storage` may be: text, or the file of a measured store."""

import msgspec
import pytest
from feedrate.harness.plan.emulated_storage import STORAGE, as_emulation, emulated
from feedrate.harness.plan.source import open_source
from feedrate.harness.plan.spec import load_spec
from feedrate.harness.record.emulated import described, label
from feedrate.harness.record.measured_store import VERSION, MeasuredStore, Step
from feedrate.loaders.base.errors import DocumentError, InputError, StorageError
from feedrate.loaders.base.machine import fingerprint
from feedrate.loaders.remote.emulation import Emulation

STORE = MeasuredStore(
    created="2026-11-30T10:00:00+00:00", url="s3://prices", machine=fingerprint(),
    latency_s=[0.02, 0.03, 0.09], p50_s=0.03, p95_s=0.08, p99_s=0.09, latencies=100,
    connection_bytes_per_s=5e7, bytes_per_s=2e8, requests_per_s=3000.0, throttled_per_s=None,
    throttled_in_flight=None, reasons={"throttled_per_s": "none"},
    small=[Step(in_flight=1, requests_per_s=33.0, bytes_per_s=33.0, seconds=1.0)],
    objects=9, requests=500, bytes=10**8, seconds=15.0,
)  # fmt: skip


def test_text_gives_each_value_in_its_unit():
    text = "latency=30ms, jitter=10ms,bandwidth=200MB/s,connection=50MB,requests=3k/s,throttle=5000"
    assert as_emulation(text) == Emulation(
        latency_s=[0.03, 0.04], bytes_per_s=2e8, connection_bytes_per_s=5e7, requests_per_s=3000.0,
        throttled_per_s=5000.0, source=text.replace(" ", ""),
    )  # fmt: skip
    assert as_emulation("latency=0,bandwidth=1GiB/s").latency_s == [0.0]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("latency=30ms,bandwith=1MB/s", "did you mean 'bandwidth'"),
        ("latency=fast", "latency of emulate_storage is 'fast'"),
        ("bandwidth=200MB/s", "has no latency"),
        ("latency=30ms,bandwidth=0MB/s", "bandwidth of emulate_storage is"),
        ("latency=30ms,bandwidth", "write it like latency=30ms"),
        ("latency=30ms,requests=many", "requests of emulate_storage is 'many'"),
        ("latency=30", "latency of emulate_storage is '30'; write it like 30ms"),
        ("latency=-1ms", "write it like 30ms"),
        ("latency=30ms,bandwidth=200", "write it in bytes, like 200MB/s"),
        ("latency=30ms,bandwidth=200Mbit/s", "write it in bytes, like 200MB/s"),
        ("latency=30ms,latency=3ms", "has a value twice"),
        ("", "is empty"),
    ],
)
def test_a_wrong_value_is_named(text, why):
    with pytest.raises(InputError, match=why):
        as_emulation(text)


def test_a_file_gives_what_was_measured(tmp_path):
    path = tmp_path / "a=b.json"  # although it looks like a value
    STORE.save(path)
    assert MeasuredStore.load(path) == STORE
    assert as_emulation(str(path)) == Emulation(
        latency_s=[0.02, 0.03, 0.09], bytes_per_s=2e8, connection_bytes_per_s=5e7,
        requests_per_s=3000.0, source="a=b.json, measured at s3://prices on 2026-11-30",
    )  # fmt: skip
    assert path.read_text().startswith('{\n  "format": "feedrate-storage",\n  "version": 1,')


def changed(**fields):
    return msgspec.json.encode({**msgspec.to_builtins(STORE), **fields})


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no measured store of feedrate: "),
        (b"\xff{", "no measured store of feedrate: "),
        (b"[1]", "no measured store of feedrate: "),
        (changed()[:-20], "no measured store of feedrate: "),
        (changed(format="feedrate-profile"), "its format is 'feedrate-profile'"),
        (changed(version=VERSION + 1), f"of version {VERSION + 1}, and this feedrate reads up to"),
        (changed(version=0), "its version is 0"),
        (changed(latency_s="slow"), "damaged measured store: Expected `array`"),
        (changed(latency_s=[]), "damaged measured store: latency_s is "),
        (changed(bytes_per_s=-1.0), "damaged measured store: bytes_per_s is -1.0"),
    ],
)
def test_a_damaged_file_is_a_clear_error(tmp_path, content, why):
    path = tmp_path / "store.json"
    path.write_bytes(content)
    with pytest.raises(DocumentError) as caught:
        as_emulation(str(path))
    assert why in str(caught.value)


def test_a_missing_file_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(DocumentError, match="feedrate doctor"):
        as_emulation(str(tmp_path / "none.json"))


def test_a_file_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(StorageError, match="cannot write"):
        STORE.save(tmp_path)


def test_local_data_become_objects_that_are_marked(storage):
    source = open_source(str(storage))
    found = emulated(source, as_emulation("latency=0ms"))
    assert found.of_objects
    assert found.dataset.storage == STORAGE
    assert found.dataset.folder == source.dataset.folder
    assert len(found.files) == len(source.files)
    assert all(path.endswith(name) for path, name in zip(found.files, source.files, strict=True))
    assert found.data_type == source.data_type
    assert [found.name_in_type(path) for path in found.files] == [
        source.name_in_type(path) for path in source.files
    ]
    with pytest.raises(InputError, match="is in an object store"):
        emulated(found, as_emulation("latency=0ms"))


def test_a_name_that_no_url_can_have_is_refused(storage):
    first = min((storage / "logs").iterdir())
    first.rename(first.with_name("logs#_20250101.parquet"))
    with pytest.raises(InputError, match="which a URL cannot have"):
        emulated(open_source(str(storage)), as_emulation("latency=0ms"))


def test_the_label_says_what_was_emulated():
    text = label(STORE.emulation("store.json"))
    assert text.startswith("Emulated storage: 30.0 ms a request (20.0 ms to 90.0 ms), 191 MiB/s")
    assert "store.json, measured at s3://prices on 2026-11-30" in text
    assert text.endswith("Not measured on a real store.")
    limited = Emulation(latency_s=[0.01], throttled_per_s=5500.0)
    assert described(limited) == "10.0 ms a request, throttled from 5.50 k requests/s"


def test_it_is_a_key_of_a_spec(tmp_path):
    spec = tmp_path / "spec.toml"
    spec.write_text('emulate_storage = "latency=30ms"')
    assert load_spec(spec, {}).emulate_storage == "latency=30ms"
