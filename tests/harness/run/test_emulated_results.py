"""Results on emulated storage are marked everywhere, and become no profile by themselves."""

import csv
import json
import os

import msgspec
import pytest
from feedrate.harness import recommend, sweep, tune
from feedrate.harness.cli.app import app
from feedrate.harness.gate.outcome import GateOutcome, Judgement
from feedrate.harness.gate.plan import GatePlan
from feedrate.harness.gate.view import gate_json, gate_markdown, verdict_line
from feedrate.harness.in_process import in_process
from feedrate.harness.record.results import read_results
from feedrate.harness.show.as_json import recommendations_json
from feedrate.harness.show.terminal import as_text, profile_view
from feedrate.loaders import OptimizedHistoricalDataLoader
from feedrate.loaders.base.errors import FeedrateWarning, InputError
from feedrate.loaders.choosing.profile import Profile
from feedrate.loaders.choosing.trust import mismatches
from feedrate.loaders.storage import ParquetStorage
from feedrate.reports.markdown import markdown_report
from feedrate.reports.measured import Measured
from feedrate.reports.samples import samples_csv
from feedrate.reports.story import report
from typer.testing import CliRunner

STORE = "latency=1ms,bandwidth=900MB/s"
LABEL = "Emulated storage: 1.00 ms a request, 858 MiB/s in all"
QUICK = {
    "backends": ["original"], "files": [2], "repeats": 1, "passes": 1, "progress": False,
    "make_executor": in_process,
}  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    before = set(os.environ)
    monkeypatch.setenv("FEEDRATE_HOME", str(tmp_path / "home"))
    yield tmp_path / "home"
    for name in set(os.environ) - before - {"FEEDRATE_HOME"}:
        del os.environ[name]


@pytest.fixture
def emulated(storage, tmp_path):
    """A sweep of one trial on emulated storage."""
    return sweep(storage, emulate_storage=STORE, results=tmp_path / "e.jsonl", **QUICK)


def test_a_sweep_reads_the_rows_of_the_files_through_the_emulation(emulated, storage, tmp_path):
    local = sweep(storage, results=tmp_path / "l.jsonl", **QUICK)
    (there,), (here,) = ([*one.results.samples] for one in (emulated, local))
    assert there.verdict == here.verdict == "ok"
    assert there.fingerprint == here.fingerprint
    # Two files, each with 5 requests of at least a millisecond.
    assert there.metrics["wall_s"] >= 0.01
    header = emulated.results.header
    assert header.emulated.latency_s == [0.001]
    assert header.emulated.source == STORE
    assert header.dataset.storage == "emulated object store"
    assert header.dataset.folder == local.results.header.dataset.folder
    assert local.results.header.emulated is None


def test_the_label_is_in_every_output(emulated):
    outcome = recommend(emulated.results_path)
    assert str(outcome).startswith(LABEL)
    assert outcome._repr_markdown_().startswith(f"**{LABEL}")
    (told,) = recommendations_json(outcome.results, outcome.recommendations)
    assert told["emulated"].startswith(LABEL)
    measured = Measured("e", outcome.results, outcome.recommendations)
    told = report([measured])
    assert "on emulated storage" in told.about
    assert f"**{LABEL}" in markdown_report(told)
    assert all(chart.title.endswith("(emulated storage)") for chart in told.charts)
    beside = Measured("l", outcome.results, outcome.recommendations, 1)
    assert "data: emulated storage" in markdown_report(report([measured, beside]))
    path = str(emulated.results_path)
    assert CliRunner().invoke(app, ["recommend", path]).stdout.startswith(LABEL)
    assert CliRunner().invoke(app, ["report", path]).stdout.startswith(LABEL)
    document = json.loads(CliRunner().invoke(app, ["recommend", path, "--json"]).stdout)
    assert document["emulated"]["source"] == STORE
    rows = [*csv.DictReader(samples_csv({"e": outcome.results}).splitlines())]
    assert all(row["emulated"].startswith(LABEL) for row in rows)


def test_a_profile_is_only_written_where_it_is_named_and_loaders_refuse_it(
    emulated, storage, tmp_path, home
):
    path = tmp_path / "p.json"
    assert recommend(emulated.results_path).profile_path is None
    assert not home.exists()
    recommend(emulated.results_path, profile=path)
    profile = Profile.load(path)
    assert profile.emulated.startswith("1.00 ms a request, 858 MiB/s in all")
    assert "storage  emulated: 1.00 ms a request" in as_text(profile_view(profile, path))
    (reason,) = [why for why in mismatches(profile, profile.machine, []) if "storage" in why]
    assert reason.startswith("the storage was emulated (1.00 ms a request")
    with pytest.warns(FeedrateWarning, match="does not hold here: the storage was emulated .1.00"):
        loader = OptimizedHistoricalDataLoader(ParquetStorage(storage), profile=path)
    assert "Profile not used" in loader.explain()


def test_it_replaces_no_profile_of_real_storage(emulated, storage, tmp_path):
    path, real = tmp_path / "p.json", tmp_path / "l.jsonl"
    recommend(sweep(storage, results=real, **QUICK).results_path, profile=path)
    before = path.read_bytes()
    for write in (
        lambda: recommend(emulated.results_path, profile=path),
        lambda: tune(storage, emulate_storage=STORE, profile=path, **QUICK),
    ):
        with pytest.raises(InputError, match="is a profile of real storage"):
            write()
    assert path.read_bytes() == before
    other = tmp_path / "e.json"
    recommend(emulated.results_path, profile=other)
    recommend(real, profile=other)  # a real one may replace it, and keeps nothing of it
    assert Profile.load(other).emulated is None


@pytest.mark.slow
def test_tune_stores_no_profile_of_emulated_storage(storage, home, tmp_path):
    found = tune(storage, emulate_storage=STORE, budget="60s", **QUICK)
    assert found.profile_path is None
    assert not home.exists()
    assert any("since the storage was emulated" in note for note in found.notes)
    named = tune(storage, emulate_storage=STORE, budget="60s", profile=tmp_path / "p", **QUICK)
    assert Profile.load(named.profile_path).emulated is not None


@pytest.mark.slow
def test_child_processes_read_through_the_emulation(storage, tmp_path):
    settings = {**QUICK, "backends": ["pytorch"], "jobs": ["frame", "stream"], "target": "points"}
    del settings["make_executor"]
    pytest.importorskip("torch")
    path = tmp_path / "c.jsonl"
    sweep(storage, emulate_storage="latency=20ms", workers=[1], requests=[1], results=path,
          columns=["minutes"], cache=["none"], **settings)  # fmt: skip
    samples = read_results(path).samples
    assert {sample.verdict for sample in samples} == {"ok"}
    assert {sample.job for sample in samples} == {"frame", "stream"}
    for sample in samples:
        assert sample.metrics["wall_s"] >= 0.02


def test_a_sweep_is_not_resumed_with_another_store(emulated, storage):
    path = emulated.results_path
    for store in ("latency=2ms", None):
        with pytest.raises(InputError, match="the emulated storage is another one"):
            sweep(storage, emulate_storage=store, results=path, resume=True, **QUICK)
    sweep(storage, emulate_storage=STORE, results=path, resume=True, **QUICK)


def test_a_wrong_store_names_the_spec(storage, tmp_path):
    spec = tmp_path / "spec.toml"
    spec.write_text('emulate_storage = "latency=soon"')
    with pytest.raises(InputError, match=r"spec\.toml: latency of emulate_storage is 'soon'"):
        sweep(storage, spec=spec, **QUICK)


def test_a_gate_is_marked(storage, tmp_path):
    plan = GatePlan.open(str(storage), None, None, {"emulate_storage": STORE})
    assert plan.data.of_objects
    with plan.journal(tmp_path / "g.jsonl", "main", "HEAD"):
        pass
    known = read_results(tmp_path / "g.jsonl")
    assert known.header.emulated == plan.emulation
    assert plan.differences(known) == []
    local = GatePlan.open(str(storage), None, None, {})
    assert [one for one in local.differences(known) if one.startswith("emulated storage was")]
    outcome = GateOutcome(Judgement("pass", []), "main", "HEAD", emulation=plan.emulation)
    assert f". {LABEL}" in verdict_line(outcome)
    assert LABEL in gate_markdown(outcome)
    assert gate_json(outcome)["emulated"]["source"] == STORE
    assert "Emulated" not in verdict_line(GateOutcome(Judgement("pass", []), "main", "HEAD"))


def test_results_of_before_have_no_label(storage, tmp_path):
    local = sweep(storage, results=tmp_path / "l.jsonl", **QUICK)
    header = msgspec.to_builtins(local.results.header)
    del header["emulated"]
    path = tmp_path / "old.jsonl"
    lines = local.results_path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([msgspec.json.encode(header), *lines[1:]]))
    assert read_results(path).header.emulated is None
    assert "Emulated" not in str(recommend(path))
