"""`tune` and `sweep` on a Ray cluster, for the CLI and for notebooks."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec
import ray
from ray.exceptions import RayError

from ...loaders.base.errors import FeedrateError, InputError
from ...loaders.choosing.profile import Profile
from ..plan.host import Host
from ..plan.source import open_source
from ..plan.spec import Spec, load_spec
from ..record.journal import new_results_file
from ..run.executor import Executor
from ..run.scheduler import Scheduler
from ..run.tuner import Outcome, sweep, tune
from ..show.progress import PlainLines, Progress, WithResultsPath, make_progress
from ..system.units import counted
from ..trial.work import Data
from .executor import Kind, NodeExecutor, Question
from .labels import Selector, parse_selectors
from .nodes import (
    Node,
    NodeLostError,
    are_alike,
    by_machine,
    check_versions,
    connected,
    host_of,
    lease,
    nodes_of,
)
from .outcome import ClusterOutcome, Measured
from .sweep import screen_on

Path_ = str | os.PathLike[str]


def tune_on_ray(
    data: Path_,
    *,
    address: str = "auto",
    labels: str | None = None,
    spec: Path_ | None = None,
    results: Path_ | None = None,
    resume: bool = False,
    profile: Path_ | Literal[False] | None = None,
    progress: Progress | Literal[False] | None = None,
    command: str = "feedrate.harness.tune_on_ray",
    **settings: Any,
) -> ClusterOutcome:
    """Tune on the nodes of a Ray cluster: a profile for each kind of machine there.

    A search uses one node at a time, so that all its times are of one machine; other nodes of the
    kind take over if it dies. Kinds of machines are searched at the same time.

    Args:
        data: as for `tune`; on every node at the same path, or objects in a store.
        address: of the cluster, as for `ray.init`; `local` starts one of this machine.
        labels: which nodes, such as `disk=nvme,zone=!b`; by default all with CPUs.
        spec: a TOML file with the fields of `Spec`.
        results: the journal to write; with several kinds of machines, one for each, whose names
            have the machine's CPUs and a hash added.
        resume: add the missing samples to existing journals.
        profile: as for `tune`; by default the user's store here and on each node.
        progress: shows the progress; by default on stderr, and False shows nothing.
        command: noted in the journals and profiles.
        **settings: fields of `Spec`; they override the file's.

    Raises:
        FeedrateError: bad input, no cluster, other versions there, or the last node of the only
            kind died; the message says what to do. Samples so far are kept.
    """
    loaded = load_spec(spec, settings)
    with _kinds(data, loaded, address, labels) as cluster:

        def measure(kind: Kind, files: _Files) -> Outcome:
            outcome = tune(
                data,
                spec=spec,
                results=files.results,
                resume=resume and files.results.exists(),
                profile=files.profile,
                progress=files.progress,
                make_executor=partial(_on_one, kind),
                host=files.host,
                command=command,
                **settings,
            )
            if profile is None and outcome.profile is not None:
                _store_on_nodes(kind, outcome.profile, os.fspath(data), loaded, outcome.notes)
            return outcome

        return _on_each(cluster, measure, results, profile, progress)


def sweep_on_ray(
    data: Path_,
    *,
    address: str = "auto",
    labels: str | None = None,
    spec: Path_ | None = None,
    results: Path_ | None = None,
    resume: bool = False,
    progress: Progress | Literal[False] | None = None,
    command: str = "feedrate.harness.sweep_on_ray",
    **settings: Any,
) -> ClusterOutcome:
    """Measure every trial of a grid on the nodes of a Ray cluster, which share its launches.

    Each node runs one trial at a time. Arguments and errors are those of `tune_on_ray`.
    """
    loaded = load_spec(spec, settings)
    with _kinds(data, loaded, address, labels) as cluster:

        def measure(kind: Kind, files: _Files) -> Outcome:
            executors: list[NodeExecutor] = []

            def make(trial_data: Data, measured: Spec, launched: int) -> Executor:
                launches = itertools.count(launched + 1)
                while kind.free:
                    executors.append(
                        NodeExecutor(kind.free.pop(0), kind, trial_data, measured, launches)
                    )
                return executors[0]

            def screen(scheduler: Scheduler) -> None:
                screen_on(scheduler, executors)

            return sweep(
                data,
                spec=spec,
                results=files.results,
                resume=resume and files.results.exists(),
                progress=files.progress,
                make_executor=make,
                screen=screen,
                host=files.host,
                command=command,
                **settings,
            )

        return _on_each(cluster, measure, results, False, progress)


@dataclass(frozen=True)
class _Files:
    """Where the results of one kind of machine go, and what shows its progress."""

    host: Host
    results: Path
    profile: Path | Literal[False] | None
    progress: Progress | Literal[False]


@dataclass
class _Cluster:
    """The kinds of machines that take part."""

    kinds: list[tuple[Host, list[str], Kind]] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def close(self) -> None:
        """Let all nodes go."""
        for node in self.nodes:
            node.close()
            node.kill()


@contextmanager
def _kinds(data: Path_, spec: Spec, address: str, labels: str | None) -> Iterator[_Cluster]:
    """Connect to a cluster and take its nodes; at the end, also after errors, let them go."""
    selectors = [] if labels is None else parse_selectors(labels)
    source = open_source(os.fspath(data), spec.data_type)  # before anything is started
    question = Question(_absolute(data), source.data_type, source.dataset)
    with ExitStack() as stack:
        stack.enter_context(connected(address))
        nodes = nodes_of(selectors)
        check_versions(nodes)
        cluster = _Cluster(nodes=nodes)
        stack.callback(cluster.close)
        leased, cluster.notes = lease(nodes, spec.local_ranks)
        if not leased:
            raise InputError(
                f"no node of the cluster could be had for measuring: {'; '.join(cluster.notes)}"
            )
        for nodes_alike in by_machine(leased):
            host = host_of(nodes_alike[0])
            find = partial(_joined, cluster, selectors, host, spec.local_ranks)
            kind = Kind(list(nodes_alike), spec.local_ranks, question, find)
            cluster.kinds.append((host, [node.name for node in nodes_alike], kind))
        yield cluster


def _joined(
    cluster: _Cluster, selectors: Sequence[Selector], host: Host, local_ranks: int
) -> list[Node]:
    """Nodes like `host` that have joined the cluster since."""
    new = nodes_of(selectors, frozenset(node.id for node in cluster.nodes))
    cluster.nodes += new
    return [node for node in lease(new, local_ranks)[0] if are_alike(host_of(node), host)]


def _absolute(data: Path_) -> str:
    text = os.fspath(data)
    return text if "://" in text else str(Path(text).absolute())


def _on_one(kind: Kind, data: Data, spec: Spec, launched: int) -> Executor:
    """The executor of a search, which uses one node at a time."""
    node = kind.take()
    if node is None:
        raise NodeLostError("", "the last node of this kind has died")
    return NodeExecutor(node, kind, data, spec, itertools.count(launched + 1))


def _on_each(
    cluster: _Cluster,
    measure: Callable[[Kind, _Files], Outcome],
    results: Path_ | None,
    profile: Path_ | Literal[False] | None,
    progress: Progress | Literal[False] | None,
) -> ClusterOutcome:
    """Measure on each kind of machine, all at the same time."""
    several = len(cluster.kinds) > 1
    base = new_results_file() if results is None else Path(results)
    if several and base.exists() and not base.stat().st_size:
        base.unlink()  # each kind has a file of its own
    jobs = [
        (kind, _files(host, base, profile, progress, several=several))
        for host, _, kind in cluster.kinds
    ]
    outcomes = _at_once(measure, jobs) if several else [measure(*jobs[0])]
    machines = [
        Measured(host, names, *_either(outcome))
        for (host, names, _), outcome in zip(cluster.kinds, outcomes, strict=True)
    ]
    failed = [one for one in machines if one.error is not None]
    if len(failed) == len(machines) and failed[0].error is not None:
        if several:
            raise InputError("; ".join(f"{one.host.name}: {one.error}" for one in failed))
        raise failed[0].error
    notes = [*cluster.notes, *(note for _, _, kind in cluster.kinds for note in kind.notes)]
    return ClusterOutcome(machines, notes)


def _either(outcome: Outcome | FeedrateError) -> tuple[Outcome | None, FeedrateError | None]:
    return (None, outcome) if isinstance(outcome, FeedrateError) else (outcome, None)


def _at_once(
    measure: Callable[[Kind, _Files], Outcome], jobs: Sequence[tuple[Kind, _Files]]
) -> list[Outcome | FeedrateError]:
    """The outcomes of all kinds, or why there is none: one that fails leaves others alone."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        futures = [pool.submit(measure, *job) for job in jobs]
        try:
            pending: set[Future[Outcome]] = set(futures)
            while pending:
                done, pending = wait(pending, return_when=FIRST_EXCEPTION)
                for one in done:
                    if not isinstance(one.exception(), FeedrateError | None):
                        one.result()
        except BaseException:
            for kind, _ in jobs:
                kind.stop()  # so that the threads end
            raise
        return [_outcome_of(future) for future in futures]


def _outcome_of(future: Future[Outcome]) -> Outcome | FeedrateError:
    error = future.exception()
    return error if isinstance(error, FeedrateError) else future.result()


def _files(
    host: Host,
    results: Path,
    profile: Path_ | Literal[False] | None,
    progress: Progress | Literal[False] | None,
    *,
    several: bool,
) -> _Files:
    """The files of one kind of machine: named by it if there are several."""
    named = _named_by(results, host)
    journal = named if several or named.exists() else results
    shown: Progress | Literal[False]
    if progress is None:
        shown = PlainLines(host.name) if several else make_progress()
    else:
        shown = progress
    if shown is not False:
        shown = WithResultsPath(shown, journal)
    if profile is None or profile is False:
        return _Files(host, journal, profile, shown)
    file = Path(profile)
    return _Files(host, journal, _named_by(file, host) if several else file, shown)


def _named_by(path: Path, host: Host) -> Path:
    """A file's name with the machine's CPUs and a hash of the machine added."""
    machine = msgspec.structs.replace(host.machine, memory_bytes=0)
    digest = hashlib.sha256(msgspec.json.encode(machine, order="deterministic")).hexdigest()[:6]
    return path.with_stem(f"{path.stem}-{host.machine.effective_cpus}cpu-{digest}")


def _store_on_nodes(kind: Kind, profile: Profile, data: str, spec: Spec, notes: list[str]) -> None:
    """Save a profile in the store of each node of a kind, where loaders there look for it."""
    base_dir = os.fspath(open_source(data, spec.data_type).base_dir)
    encoded = msgspec.json.encode(profile)
    failed = []
    for node in kind.nodes:
        try:
            if problem := ray.get(node.agent.store.remote(encoded, base_dir), timeout=60):
                failed.append(f"{node.name}: {problem}")
        except RayError as error:
            failed.append(f"{node.name}: {str(error).splitlines()[0]}")
    stored = len(kind.nodes) - len(failed)
    notes.append(f"the profile is in the store of {counted(stored, 'node')} of this kind")
    notes += [f"the profile was not stored on {one}" for one in failed]
