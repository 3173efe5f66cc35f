"""A real Ray cluster on this machine: three nodes of two kinds, which the tests start and end."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import psutil
import pytest

ray = pytest.importorskip("ray")

from feedrate.harness import sweep, sweep_on_ray, tune_on_ray  # noqa: E402
from feedrate.harness.cli.app import run  # noqa: E402
from feedrate.harness.cluster import nodes as nodes_module  # noqa: E402
from feedrate.harness.cluster import verb  # noqa: E402
from feedrate.harness.cluster.outcome import cluster_json  # noqa: E402
from feedrate.harness.record.results import read_results  # noqa: E402
from feedrate.loaders import Profile  # noqa: E402
from feedrate.loaders.base.errors import FeedrateError, InputError  # noqa: E402
from feedrate.loaders.base.machine import effective_cpus  # noqa: E402
from feedrate.loaders.choosing.profile import find_profile  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

from ...backends import unregister  # noqa: E402

pytestmark = pytest.mark.cluster
QUICK = {"backends": ["pytorch"], "cache": ["none"], "files": [3], "passes": 1, "progress": False}

SOON_DEAD = {
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 4,
}
"""A node that does not answer for 4 s is dead, instead of 15 s."""

LOADERS = """
import os, time
from pathlib import Path
import pandas as pd

HERE = Path(__file__).parent

def read(settings, files, columns, target, job):
    return pd.concat([pd.read_parquet(file, columns=columns) for file in files], ignore_index=True)

def waits(*arguments):
    mark = HERE / "waits"
    if not mark.exists():
        mark.write_text(os.environ["NODE"])
        time.sleep(60)
    return read(*arguments)

def hogs(*arguments):
    filled = []
    for _ in range(80):
        filled.append(b"x" * (100 << 20))
        time.sleep(0.02)
    time.sleep(30)

def tells(settings, files, columns, target, job):
    names = sorted(name for name in os.environ if name.startswith(("RAY_", "OMP_")))
    (HERE / "environment").write_text(" ".join(names))
    return read(settings, files, columns, target, job)

for function in (waits, hogs, tells):
    function.uses = frozenset()
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A head without CPUs, two nodes of one kind (a, b), and one that may use one CPU (small)."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "cluster_loaders.py").write_text(LOADERS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        patch.setenv("FEEDRATE_HOME", str(folder / "home"))
        patch.syspath_prepend(str(folder))
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": SOON_DEAD}
        made = Cluster(initialize_head=True, head_node_args=head)
        made.folder, made.by_name = folder, {}
        allowed = os.sched_getaffinity(0)
        try:
            for name in ("a", "b", "small"):
                patch.setenv("NODE", name)
                os.sched_setaffinity(0, {min(allowed)} if name == "small" else allowed)
                labels = {"kind": "small" if name == "small" else "large", "node": name}
                made.by_name[name] = made.add_node(num_cpus=1, labels=labels)
            os.sched_setaffinity(0, allowed)
            yield made
        finally:
            os.sched_setaffinity(0, allowed)
            made.shutdown()


@pytest.fixture
def loader():
    """A function that names a loader of the cluster's folder."""
    names = []

    def name(function):
        names.append(f"cluster_loaders:{function}")
        return names[-1]

    yield name
    for one in names:
        unregister(one)


def of_trials(cluster):
    """Processes on the cluster's nodes that lead trials or run them."""
    commands = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = " ".join(process.cmdline())
            if re.search(r"ray::Agent|feedrate\.harness\.(child|fork_server)", command):
                home = process.environ().get("FEEDRATE_HOME")
                commands += [command] if home == str(cluster.folder / "home") else []
    return commands


def test_each_kind_of_machine_gets_its_own_choice_and_profile(
    cluster, storage, tmp_path, monkeypatch
):
    if effective_cpus() == 1:
        pytest.skip("this machine has one CPU, so that its nodes are of one kind")
    results = tmp_path / "results.jsonl"
    outcome = tune_on_ray(
        storage,
        address=cluster.address,
        results=results,
        workers=[0, 1],
        budget="60s",
        tie=2,
        **QUICK,
    )
    cpus = sorted(one.host.machine.effective_cpus for one in outcome.machines)
    assert cpus == [1, effective_cpus()]
    assert not results.exists()
    assert len(list(tmp_path.glob("results-*cpu-*.jsonl"))) == 2
    monkeypatch.setenv("FEEDRATE_HOME", str(cluster.folder / "home"))  # that of the nodes
    for one, found in outcome.found:
        assert found.results.header.environment == one.host.machine
        assert found.profile.machine == one.host.machine
        assert Profile.load(find_profile(storage, one.host.machine)) == found.profile
    machines = cluster_json(outcome)["machines"]
    assert {len(machine["nodes"]) for machine in machines} == {1, 2}
    assert "what to use on each machine" in str(outcome)
    assert of_trials(cluster) == []


def test_nodes_share_a_sweep_whose_samples_are_those_of_one_machine(cluster, storage, tmp_path):
    results = tmp_path / "results.jsonl"
    options = {**QUICK, "workers": [0, 1], "repeats": 2}
    (one,) = sweep_on_ray(
        storage, address=cluster.address, labels="kind=large", results=results, **options
    ).machines
    here = sweep(storage, results=tmp_path / "here.jsonl", **options)

    def kept(samples):
        return sorted((s.trial, s.round, s.verdict, s.rows, s.fingerprint) for s in samples)

    assert len(one.nodes) == 2
    assert kept(one.outcome.results.samples) == kept(here.results.samples)
    launches = [sample.launch for sample in one.outcome.results.samples]
    assert len(set(launches)) == len(launches)
    (again,) = sweep_on_ray(
        storage, address=cluster.address, labels="node=a", results=results, resume=True, **options
    ).machines
    assert len(again.outcome.results.samples) == len(launches)  # nothing was left to measure


def test_trials_see_none_of_the_variables_that_ray_sets(cluster, storage, loader):
    sweep_on_ray(
        storage, address=cluster.address, labels="node=a", loader=loader("tells"), repeats=1,
        workers=[0], **QUICK,
    )  # fmt: skip
    assert (cluster.folder / "environment").read_text() == ""


def test_a_kind_that_fails_leaves_the_others_their_outcome(
    cluster, storage, tmp_path, monkeypatch, capsys
):
    if effective_cpus() == 1:
        pytest.skip("this machine has one CPU, so that its nodes are of one kind")
    plain = verb.sweep

    def failing(*arguments, host, **options):
        if host.machine.effective_cpus == 1:
            raise InputError("this kind is at fault")
        return plain(*arguments, host=host, **options)

    monkeypatch.setattr(verb, "sweep", failing)
    arguments = [
        "sweep", storage, "--ray", cluster.address, "--results", tmp_path / "r.jsonl", "--json",
        "--backends", "original", "--files", "2", "--repeats", "1", "--passes", "1",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["feedrate", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        run()
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert "this kind is at fault" in err
    failed, measured = sorted(json.loads(out)["machines"], key=lambda one: one["error"] is None)
    assert failed["machine"]["effective_cpus"] == 1
    assert Path(measured["results"]).exists()


def test_an_interrupt_leaves_no_process_and_keeps_what_was_measured(cluster, storage, tmp_path):
    results = tmp_path / "results.jsonl"
    sweeping = subprocess.Popen(
        [
            sys.executable, "-m", "feedrate.harness", "sweep", storage, "--ray", cluster.address,
            "--ray-labels", "kind=large", "--results", results, "--repeats", "50",
            "--backends", "original",
        ],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (results.exists() and results.stat().st_size > 5000):
        time.sleep(0.1)
    sweeping.send_signal(signal.SIGTERM)
    _, err = sweeping.communicate(timeout=60)
    assert sweeping.returncode == 143, err
    assert f"what was measured is in {results}. Go on with: the same command and --resume" in err
    assert read_results(results).samples
    assert of_trials(cluster) == []


def test_what_a_cluster_cannot_do_is_said_before_anything_starts(storage):
    with pytest.raises(InputError, match="storage is emulated on this machine alone"):
        tune_on_ray(storage, address="local", emulate_storage="latency=1ms", **QUICK)
    with pytest.raises(InputError, match="--resume needs --results"):
        tune_on_ray(storage, address="local", resume=True, **QUICK)


def test_no_cluster_at_the_address_is_said_at_once(storage):
    began = time.monotonic()
    with pytest.raises(InputError, match=r"no Ray cluster at 127\.0\.0\.1:9: .* --ray local"):
        tune_on_ray(storage, address="127.0.0.1:9", **QUICK)
    with pytest.raises(InputError, match="no address"):
        tune_on_ray(storage, address="nowhere", **QUICK)
    assert time.monotonic() - began < 10


def test_labels_of_no_node_are_an_error_that_lists_them(cluster, storage):
    with pytest.raises(InputError, match=r"selects none of .*\(3\).*kind=large"):
        tune_on_ray(storage, address=cluster.address, labels="kind=huge", **QUICK)


def test_other_versions_on_a_node_are_an_error_that_names_it(cluster, storage, monkeypatch):
    monkeypatch.setattr(nodes_module, "__version__", "999.0")
    with pytest.raises(InputError, match=r"has feedrate .* instead of 999\.0.*pip install"):
        tune_on_ray(storage, address=cluster.address, **QUICK)


def test_a_node_with_other_files_is_named(cluster, storage, monkeypatch):
    found = verb.open_source(os.fspath(storage), None)
    others = msgspec.structs.replace(found.dataset, files=4)
    monkeypatch.setattr(verb, "open_source", lambda *_: dataclasses.replace(found, dataset=others))
    with pytest.raises(InputError, match=r"has other data .*: files 12 instead of 4.*same path"):
        sweep_on_ray(storage, address=cluster.address, labels="node=a", workers=[0], **QUICK)


def test_a_trial_that_rays_memory_monitor_ends_is_out_of_memory(cluster, storage, loader):
    memory = psutil.virtual_memory()
    if memory.available < 12 << 30:
        pytest.skip("the loader takes up to 8 GiB")
    threshold = (memory.total - memory.available + (4 << 30)) / memory.total
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_memory_usage_threshold", str(threshold))
        patch.setenv("RAY_memory_monitor_refresh_ms", "100")
        node = cluster.add_node(num_cpus=1, labels={"node": "tight"})
    try:
        (one,) = sweep_on_ray(
            storage, address=cluster.address, labels="node=tight", loader=loader("hogs"),
            repeats=1, workers=[0], **{**QUICK, "backends": ["original"]},
        ).machines  # fmt: skip
    finally:
        cluster.remove_node(node, allow_graceful=False)
    verdicts = {sample.backend: sample.verdict for sample in one.outcome.results.samples}
    assert verdicts == {"original": "ok", "cluster_loaders:hogs": "out-of-memory"}
    (why,) = [
        sample.reasons["verdict"]
        for sample in one.outcome.results.samples
        if sample.verdict == "out-of-memory"
    ]
    assert "Ray's memory monitor" in why


@pytest.fixture
def mortal(cluster):
    """Two more nodes, with the label `kind=mortal`."""
    with pytest.MonkeyPatch.context() as patch:
        nodes = {}
        for name in ("c", "d"):
            patch.setenv("NODE", name)
            nodes[name] = cluster.add_node(num_cpus=1, labels={"kind": "mortal"})
    yield nodes
    for node in set(nodes.values()) & set(cluster.worker_nodes):
        cluster.remove_node(node, allow_graceful=False)


def test_a_node_that_dies_loses_no_trial(cluster, mortal, storage, loader, tmp_path):
    mark = cluster.folder / "waits"

    def kill():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (mark.exists() and mark.read_text()):
            time.sleep(0.05)
        cluster.remove_node(mortal[mark.read_text()], allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        (one,) = sweep_on_ray(
            storage, address=cluster.address, labels="kind=mortal", loader=loader("waits"),
            repeats=1, workers=[0], **{**QUICK, "backends": ["original"]},
        ).machines  # fmt: skip
    finally:
        killer.join()
    samples = read_results(one.outcome.results_path).samples
    assert {sample.backend: sample.verdict for sample in samples} == {
        "original": "ok",
        "cluster_loaders:waits": "ok",
    }
    mark.unlink()
    killer = threading.Thread(target=kill)
    killer.start()
    results = tmp_path / "results.jsonl"
    options = {"results": results, "loader": loader("waits"), "workers": [0], "repeats": 1, **QUICK}
    with pytest.raises(FeedrateError, match=r"died, .*no other free node like it.*--resume"):
        sweep_on_ray(storage, address=cluster.address, labels="kind=mortal", **options)
    killer.join()
    kept = len(read_results(results).samples)
    (one,) = sweep_on_ray(  # on another node of the same kind
        storage, address=cluster.address, labels="node=a", resume=True, **options
    ).machines
    assert len(one.outcome.results.samples) == 3 > kept
    assert of_trials(cluster) == []
