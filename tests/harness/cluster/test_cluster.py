"""A real Ray cluster on this machine: three nodes of two kinds, which the tests start and end."""

import dataclasses
import os
import threading
import time

import msgspec
import psutil
import pytest

ray = pytest.importorskip("ray")

from feedrate.harness import sweep, sweep_on_ray, tune_on_ray  # noqa: E402
from feedrate.harness.cluster import nodes as nodes_module  # noqa: E402
from feedrate.harness.cluster import verb  # noqa: E402
from feedrate.harness.cluster.facts import facts  # noqa: E402
from feedrate.harness.cluster.outcome import cluster_json  # noqa: E402
from feedrate.harness.record.results import read_results  # noqa: E402
from feedrate.loaders import Profile  # noqa: E402
from feedrate.loaders.base.errors import FeedrateError, InputError  # noqa: E402
from feedrate.loaders.base.machine import effective_cpus  # noqa: E402
from feedrate.loaders.choosing.profile import find_profile  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

from ...backends import unregister  # noqa: E402

pytestmark = pytest.mark.slow
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


def of_trials():
    """Processes that lead trials or run them, on any node."""
    commands = []
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if "ray::Agent" in command or "feedrate.harness.child" in command:
            commands.append(command)
    return commands


def test_each_kind_of_machine_gets_its_own_choice_and_profile(
    cluster, storage, tmp_path, monkeypatch
):
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
    if effective_cpus() == 1:
        pytest.skip("this machine has one CPU, so that its nodes are of one kind")
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
    assert of_trials() == []


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


def test_no_cluster_at_the_address_is_said_at_once(storage):
    began = time.monotonic()
    with pytest.raises(InputError, match=r"no Ray cluster at 127\.0\.0\.1:9: .* --ray local"):
        tune_on_ray(storage, address="127.0.0.1:9", **QUICK)
    with pytest.raises(InputError, match="no address"):
        tune_on_ray(storage, address="nowhere", **QUICK)
    assert time.monotonic() - began < 10


def test_labels_of_no_node_are_an_error_that_lists_them(cluster, storage):
    with pytest.raises(InputError, match=r"none of the cluster's 3 nodes.*kind=large"):
        tune_on_ray(storage, address=cluster.address, labels="kind=huge", **QUICK)


def test_other_versions_on_a_node_are_an_error_that_names_it(cluster, storage, monkeypatch):
    monkeypatch.setattr(nodes_module, "__version__", "999.0")
    with pytest.raises(InputError, match=r"has feedrate .* instead of 999\.0.*pip install"):
        tune_on_ray(storage, address=cluster.address, **QUICK)
    assert facts()["Ray"] == ray.__version__


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


def test_a_node_that_dies_loses_no_trial(cluster, storage, loader):
    """The last test, since it takes a node from the cluster."""
    mark = cluster.folder / "waits"

    def kill():
        while not mark.exists() or not mark.read_text():
            time.sleep(0.05)
        cluster.remove_node(cluster.by_name[mark.read_text()], allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        (one,) = sweep_on_ray(
            storage, address=cluster.address, labels="kind=large", loader=loader("waits"),
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
    with pytest.raises(FeedrateError, match=r"died, .*no other free node like it"):
        tune_on_ray(
            storage, address=cluster.address, labels="kind=large", loader=loader("waits"),
            workers=[0], **QUICK,
        )  # fmt: skip
    killer.join()
    assert of_trials() == []
