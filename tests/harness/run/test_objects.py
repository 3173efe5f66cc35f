"""Objects are measured like files: same rows, requests counted, several numbers of them tried."""

import dataclasses

import msgspec
import pytest
from feedrate.harness import sweep, tune
from feedrate.harness.in_process import in_process
from feedrate.harness.plan.source import open_source
from feedrate.harness.plan.spec import OBJECT_REQUESTS
from feedrate.harness.record.metrics import REQUEST_METRICS
from feedrate.harness.record.results import read_results
from feedrate.harness.run.child_executor import ChildExecutor
from feedrate.harness.run.prediction import estimate_rows, rows_of
from feedrate.harness.show.terminal import as_text, sweep_view
from feedrate.harness.trial.alone import bytes_of, total_bytes
from feedrate.harness.trial.breakdown import files_alone
from feedrate.harness.trial.ceilings import ceilings
from feedrate.harness.trial.objects_alone import contents, objects_reader
from feedrate.harness.trial.reference import reference, sample_of
from feedrate.harness.trial.what_if import what_ifs
from feedrate.harness.trial.work import Data
from feedrate.loaders import OptimizedHistoricalDataLoader, ParquetStorage, Profile
from feedrate.loaders.base.errors import InputError
from feedrate.loaders.base.settings import LoaderSettings
from feedrate.loaders.remote.requests import counts

QUICK = {
    "backends": ["pytorch"], "workers": [0], "cache": ["none"], "files": [3], "repeats": 1,
    "passes": 2, "progress": False, "make_executor": in_process,
}  # fmt: skip


@pytest.fixture
def place(storage, upload):
    return upload(storage)


@pytest.fixture
def both(storage, place):
    """The same data as files and as objects."""
    return [
        open_source(str(where)).trial_data(["stream"], None, "started", NO_FILE)
        for where in (storage, place)
    ]


class NoFile:
    """The spec of no file."""

    def at(self, _):
        return pytest.MonkeyPatch.context()


NO_FILE = NoFile()


def test_data_of_objects_survive_a_message_with_what_was_listed(both):
    data = msgspec.json.decode(msgspec.json.encode(both[1]), type=Data)
    assert data == both[1]
    assert data.of_objects
    assert [path.size for path in data.first(3)] == [size for size, _ in data.listed[:3]]
    assert all(path.version for path in data.first(3))
    few = sample_of(data, 12, 5)
    assert few.first(9) == [data.paths[0], data.paths[5], data.paths[10], data.paths[11]]
    assert few.first(9)[1].size == data.listed[5][0]


@pytest.mark.parametrize("job", ["frame", "batches", "stream"])
def test_the_original_delivers_the_same_rows_of_objects_and_files(both, job):
    files, objects = both
    assert reference(job, 12, objects, ordered=True) == reference(job, 12, files, ordered=True)


def test_sizes_and_rows_of_objects_come_from_the_listing_and_the_footers(both):
    files, objects = (data.first(12) for data in both)
    before = counts()
    assert total_bytes(objects) == total_bytes(files)
    assert counts() == before
    assert rows_of(objects) == rows_of(files) == 600
    assert estimate_rows(objects, None) == estimate_rows(files, None)


@pytest.mark.parametrize("columns", [None, ["points"]])
def test_the_parts_of_a_pass_over_objects_are_timed_alone(both, columns):
    paths = both[1].first(12)
    settings = LoaderSettings(backend="pytorch", num_workers=2, requests=4)
    metrics, reasons = files_alone(paths, columns, settings, "as-is")
    assert set(metrics) == {"read_alone_s", "load_alone_s", "ceiling_read_s", "ceiling_decode_s"}
    assert not reasons
    assert 0 < metrics["ceiling_read_s"] <= metrics["read_alone_s"] < metrics["load_alone_s"]
    plain = LoaderSettings(backend="original")
    metrics, reasons = files_alone(paths, columns, plain, "as-is")
    assert set(metrics) == {"ceiling_decode_s"}
    assert "plain pandas waits" in reasons["read_alone_s"]


def test_columns_of_large_objects_are_read_alone_in_parts(both, monkeypatch):
    files, objects = (data.first(12) for data in both)
    assert contents(objects, 4) == bytes_of(files)
    assert objects_reader(objects, ["points"], 4)() == total_bytes(files)  # small: read whole
    from feedrate.harness.trial import objects_alone

    plain = objects_alone.options_for(objects[0]).limits
    limits = dataclasses.replace(plain, whole_bytes=10, tail_bytes=10, gap_bytes=0)
    options = type("Options", (), {"limits": limits})
    monkeypatch.setattr(objects_alone, "options_for", lambda _: options)
    assert 0 < objects_reader(objects, ["points"], 4)() < total_bytes(files) / 2
    assert objects_reader(objects, None, 4)() == total_bytes(files)


def test_limits_of_this_machine_are_measured_on_copies_of_objects(both):
    found = {ceiling.name: ceiling for ceiling in ceilings(both[1].first(4))}
    assert "storage read" not in found
    assert found["decode, 1 thread"].rate > 0


def test_no_object_is_rewritten_to_see_what_that_would_save(both):
    metrics, reasons = what_ifs(both[1].first(2), None, lambda *_: pytest.fail("loaded"))
    assert set(metrics.values()) == {None}
    assert "in their store" in reasons["merged_pct"]


def test_a_sweep_tries_several_numbers_of_requests_and_counts_them(place, tmp_path):
    outcome = sweep(place, results=tmp_path / "r.jsonl", jobs=["frame", "stream"], **QUICK)
    results = outcome.results
    assert results.header.spec["requests"] == list(OBJECT_REQUESTS)
    samples = results.samples
    assert {one.verdict for one in samples} <= {"ok", "idle-workers"}
    ours = [one for one in samples if one.backend == "pytorch"]
    assert {one.settings.requests for one in ours} == set(OBJECT_REQUESTS)
    sizes = total_bytes(open_source(place).files[:3])
    for one in ours:
        most = 4 if one.job == "frame" else 6  # a stream plans by the ends of objects
        assert 3 <= one.metrics["requests"] <= most
        assert one.metrics["request_bytes"] >= sizes
        assert (one.metrics["request_retries"], one.metrics["request_throttled_s"]) == (0, 0)
    plain = next(one for one in samples if one.backend == "original")
    assert plain.metrics["requests"] is None
    assert "plain pandas" in plain.reasons["requests"]
    text = " ".join(as_text(sweep_view(results)).split())
    assert "16 requests" in text
    assert "Requests in flight are 64 where none are named." in text


def test_what_has_no_meaning_for_the_data_is_refused(storage, place, tmp_path):
    with pytest.raises(InputError, match="requests is 4, 8, and it has no effect on files"):
        sweep(storage, requests=[4, 8], **QUICK)
    with pytest.raises(InputError, match="objects are never in the page cache"):
        sweep(place, page_cache="cold", **QUICK)
    spec = tmp_path / "grid.toml"
    spec.write_text("requests = [4]\n")
    with pytest.raises(InputError, match=r"spec .*grid\.toml: requests is 4"):
        sweep(storage, spec=spec, **QUICK)


def test_files_have_no_requests(storage, tmp_path):
    results = sweep(storage, results=tmp_path / "r.jsonl", **QUICK).results
    assert results.header.spec["requests"] is None
    for one in results.samples:
        assert one.settings.requests == LoaderSettings().requests
        assert {one.metrics[name] for name in REQUEST_METRICS} == {None}
        assert one.reasons["requests"] == "the data are files, not objects"


@pytest.mark.slow
def test_a_tune_of_objects_writes_the_profile_that_a_loader_finds(place, tmp_path):
    outcome = tune(
        place, results=tmp_path / "r.jsonl", budget="120s", requests=[2, 8],
        **{**QUICK, "files": [5]},
    )  # fmt: skip
    entry = Profile.load(outcome.profile_path).entry_for("frame")
    loader = OptimizedHistoricalDataLoader(ParquetStorage(place))
    assert loader.settings == entry.settings
    assert str(outcome.profile_path) in loader.explain()
    frame = loader.load_files(loader.storage.files("logs"))
    assert loader.stats()["requests"]["requests"] >= 12
    assert len(frame) == 600
    view = sweep_view(read_results(tmp_path / "r.jsonl"), outcome.recommendations, verbose=True)
    if entry.settings.backend == "pytorch":
        assert "1.00 a file" in as_text(view)


@pytest.mark.parametrize("job", ["frame", "stream"])
@pytest.mark.slow
def test_forked_and_new_processes_read_objects(both, job):
    from feedrate.harness.plan.spec import make_trial

    pytest.importorskip("torch")
    settings = LoaderSettings(backend="pytorch", num_workers=2, cache="none", seed=0)
    trial = make_trial(job, settings, 12)
    with ChildExecutor(both[1], timeout_s=60) as executor:
        runs = [
            executor.run(trial, phase, passes=2, verify=True)
            for phase in ("confirming", "explaining", "memory")
        ]
        expected = executor.reference(job, 12, ordered=False).fingerprint
    for run in runs:
        assert run.verdict is None, run.message
        assert run.fingerprint == expected
        requests = [done.metrics["requests"] for done in run.passes]
        assert requests == [12, 12] if job == "frame" else 24 >= requests[0] >= requests[1] == 12
