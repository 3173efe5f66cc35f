"""`tune` and `sweep` on a Ray cluster, for the CLI and for notebooks."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec

from ...loaders.base.errors import FeedrateError, InputError
from ...loaders.choosing.profile import Profile
from ..plan.host import Host, are_alike
from ..plan.source import open_source
from ..plan.spec import Spec, load_spec
from ..record.journal import new_results_file
from ..record.results import read_results
from ..run.executor import Executor
from ..run.scheduler import Scheduler
from ..run.tuner import Outcome, sweep, tune
from ..show.progress import PlainLines, Progress, WithResultsPath, make_progress
from ..trial.work import Data
from .agent import store_profile
from .executor import ExpectedData, MachineKind, NodeExecutor
from .labels import Selector, parse_selectors
from .nodes import (
    Node,
    NodeLostError,
    ask_each,
    by_machine,
    check_versions,
    connected,
    host_of,
    last_line,
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
    data = _checked(data, loaded, results, resume=resume)
    with _kinds(data, loaded, address, labels) as cluster:

        def measure(kind: MachineKind, files: _Files) -> Outcome:
            kind.release_spares()
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
                outcome.notes.extend(_store_on_nodes(kind, outcome.profile, cluster.base_dir))
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
    data = _checked(data, loaded, results, resume=resume)
    with _kinds(data, loaded, address, labels) as cluster:

        def measure(kind: MachineKind, files: _Files) -> Outcome:
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
    """The kinds of machines that take part, and notes on nodes that do not."""

    selectors: Sequence[Selector]
    local_ranks: int
    base_dir: str
    """The folder of the data's storage, by which stores find a profile."""
    kinds: list[tuple[Host, list[str], MachineKind]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def joined(self, host: Host) -> list[Node]:
        """Nodes like a host that have joined the cluster since; others are left alone."""
        with self.lock:
            known = frozenset(node.id for _, _, kind in self.kinds for node in kind.nodes)
            new = nodes_of(self.selectors, known)
            try:
                check_versions(new)
            except InputError as error:
                self.notes.append(f"new nodes were left out: {error}")
                return []
            leased, notes = lease(new, self.local_ranks)
            self.notes += notes
            alike = [node for node in leased if are_alike(host_of(node).machine, host.machine)]
            for node in leased:
                if node not in alike:
                    node.kill()
            return alike


@contextmanager
def _kinds(data: str, spec: Spec, address: str, labels: str | None) -> Iterator[_Cluster]:
    """Connect to a cluster and take its nodes; at the end, also after errors, let them go."""
    selectors = [] if labels is None else parse_selectors(labels)
    source = open_source(data, spec.data_type)  # before anything is started
    expected = ExpectedData(data, source.data_type, source.dataset)
    with ExitStack() as stack:
        stack.enter_context(connected(address))
        nodes = nodes_of(selectors)
        check_versions(nodes)
        cluster = _Cluster(selectors, spec.local_ranks, os.fspath(source.base_dir))
        for node in nodes:
            stack.callback(node.kill)
        leased, cluster.notes = lease(nodes, spec.local_ranks)
        if not leased:
            raise InputError(
                f"no node of the cluster could be had for measuring: {'; '.join(cluster.notes)}"
            )
        for alike in by_machine(leased):
            host = host_of(alike[0])
            kind = MachineKind(
                list(alike), expected, spec.local_ranks, partial(cluster.joined, host)
            )
            stack.callback(kind.close)
            cluster.kinds.append((host, [node.name for node in alike], kind))
        yield cluster


def _checked(data: Path_, spec: Spec, results: Path_ | None, *, resume: bool) -> str:
    """The data as nodes must name it; raises `InputError` for what is not possible there."""
    if resume and results is None:
        raise InputError("--resume needs --results FILE, the sweep to continue")
    if spec.emulate_storage is not None:
        raise InputError(
            "storage is emulated on this machine alone, not on the nodes of a cluster: leave out "
            "--emulate-storage or --ray"
        )
    return _absolute(data)


def _absolute(data: Path_) -> str:
    text = os.fspath(data)
    return text if "://" in text else str(Path(text).absolute())


def _on_one(kind: MachineKind, data: Data, spec: Spec, launched: int) -> Executor:
    """The executor of a search, which uses one node at a time."""
    node = kind.take()
    if node is None:
        raise NodeLostError("", "no node of this kind is left; go on with --resume")
    return NodeExecutor(node, kind, data, spec, itertools.count(launched + 1))


def _on_each(
    cluster: _Cluster,
    measure: Callable[[MachineKind, _Files], Outcome],
    results: Path_ | None,
    profile: Path_ | Literal[False] | None,
    progress: Progress | Literal[False] | None,
) -> ClusterOutcome:
    """Measure on each kind of machine, all at the same time."""
    several = len(cluster.kinds) > 1
    base = new_results_file() if results is None else Path(results)
    if several and base.exists() and not base.stat().st_size:
        base.unlink()  # each kind has a file of its own
    names = _distinct_names([host for host, _, _ in cluster.kinds])
    jobs = [
        (kind, _files(host, name if several else "", base, profile, progress))
        for (host, _, kind), name in zip(cluster.kinds, names, strict=True)
    ]
    outcomes = _at_once(measure, jobs) if several else [(measure(*jobs[0]), None)]
    machines = [
        Measured(host, nodes, *outcome)
        for (host, nodes, _), outcome in zip(cluster.kinds, outcomes, strict=True)
    ]
    if all(one.error is not None for one in machines):
        raise InputError("; ".join(f"{one.host.name}: {one.error}" for one in machines))
    notes = [*cluster.notes, *(note for _, _, kind in cluster.kinds for note in kind.notes)]
    return ClusterOutcome(machines, notes)


def _at_once(
    measure: Callable[[MachineKind, _Files], Outcome], jobs: Sequence[tuple[MachineKind, _Files]]
) -> list[tuple[Outcome | None, FeedrateError | None]]:
    """The outcome of each kind, or why there is none: one that fails leaves others alone."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        futures = [pool.submit(_measured, measure, *job) for job in jobs]
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


def _measured(
    measure: Callable[[MachineKind, _Files], Outcome], kind: MachineKind, files: _Files
) -> Outcome:
    """Measure on one kind of machine, and let its nodes go."""
    try:
        return measure(kind, files)
    finally:
        kind.close()


def _outcome_of(future: Future[Outcome]) -> tuple[Outcome | None, FeedrateError | None]:
    error = future.exception()
    return (None, error) if isinstance(error, FeedrateError) else (future.result(), None)


def _files(
    host: Host,
    name: str,
    results: Path,
    profile: Path_ | Literal[False] | None,
    progress: Progress | Literal[False] | None,
) -> _Files:
    """The files of one kind of machine, with its name if there are several kinds.

    If a sweep is resumed on more kinds than it began with, the journal without a name is continued
    on the machine that it is of.
    """
    journal = results
    if name and not (results.exists() and _is_of(results, host)):
        journal = _named(results, name)
    if progress is None:
        progress = PlainLines(host.name) if name else make_progress()
    shown = progress if progress is False else WithResultsPath(progress, journal)
    if profile is None or profile is False:
        return _Files(host, journal, profile, shown)
    file = Path(profile)
    return _Files(host, journal, _named(file, name) if name else file, shown)


def _is_of(journal: Path, host: Host) -> bool:
    return are_alike(read_results(journal).header.environment, host.machine)


def _named(path: Path, name: str) -> Path:
    return path.with_stem(f"{path.stem}-{name}")


def _distinct_names(hosts: Sequence[Host]) -> list[str]:
    """A name for each machine: its CPUs and a hash; its memory if it differs in nothing else."""
    names = []
    for host in hosts:
        machine = msgspec.structs.replace(host.machine, memory_bytes=0)
        digest = hashlib.sha256(msgspec.json.encode(machine, order="deterministic")).hexdigest()
        names.append(f"{machine.effective_cpus}cpu-{digest[:6]}")
    return [
        name if names.count(name) == 1 else f"{name}-{round(host.machine.memory_bytes / 2**30)}gib"
        for name, host in zip(names, hosts, strict=True)
    ]


def _store_on_nodes(kind: MachineKind, profile: Profile, base_dir: str) -> list[str]:
    """Save a profile in the store of each node of a kind, where loaders look for it; notes."""
    failed, encoded = [], msgspec.json.encode(profile)
    for node, problem, error in ask_each(kind.nodes, store_profile, encoded, base_dir):
        if why := problem if error is None else last_line(error):
            failed.append(f"the profile was not stored on {node.name}: {why}")
    stored = len(kind.nodes) - len(failed)
    told = [f"the profile is also in the stores of the {stored} nodes of this kind"]
    return [*(told if stored > 1 else []), *failed]
