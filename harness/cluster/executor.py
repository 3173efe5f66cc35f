"""Run trials on a node; if it dies, on another of its kind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from ...loaders.base.errors import InputError
from ...loaders.choosing.profile import Job
from ...loaders.parquet.dataset import Dataset
from ..plan.spec import Spec, Trial
from ..record.results import Phase, Verdict
from ..run.executor import TrialRun
from ..trial.work import Data
from .nodes import LEASE_S, Node, NodeLostError, last_line, lease

MOST_ENDS = 2  # of an agent on a living node, in one run


@dataclass(frozen=True)
class ExpectedData:
    """What each node must find: where the data are, and their description here."""

    data: str
    data_type: str
    dataset: Dataset


@dataclass
class MachineKind:
    """The nodes of one kind of machine. Threads may share it.

    Attributes:
        nodes: all of them that are alive, as far as is known.
        expected: the data that each must have.
        local_ranks: ranks per trial.
        find_new: returns nodes of this kind that have joined the cluster, leased.
        free: those that no executor has.
        notes: what happened to them, for the user.
        stopped: is set when measuring is stopped: what ends then is not started again.
    """

    nodes: list[Node]
    expected: ExpectedData
    local_ranks: int = 1
    find_new: Callable[[], list[Node]] = list
    free: list[Node] = field(init=False)
    notes: list[str] = field(init=False, default_factory=list)
    stopped: threading.Event = field(init=False, default_factory=threading.Event)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.free = list(self.nodes)

    def take(self) -> Node | None:
        """A leased node that no executor has; None if there is none."""
        with self._lock:
            while self.free and not self.stopped.is_set():
                node = self.free.pop(0)
                if node.agent is not None or lease([node], self.local_ranks)[0]:
                    return node
            new = [] if self.stopped.is_set() else self.find_new()
            self.nodes += new
            self.free += new[1:]
            return new[0] if new else None

    def lost(self, node: Node) -> None:
        """Forget a node that is dead or was taken by others."""
        with self._lock:
            node.kill()
            self.nodes = [one for one in self.nodes if one is not node]

    def release_spares(self) -> None:
        """Let others use the free nodes but the first; `take` leases them again."""
        for node in self.free[1:]:
            node.kill()

    def stop(self) -> None:
        """End everything that runs, at once, so that its threads end."""
        self.stopped.set()
        self.close()

    def close(self) -> None:
        """Let all nodes go."""
        for node in list(self.nodes):
            node.kill()


@dataclass
class NodeExecutor:
    """Runs each trial on a node of some kind, one at a time.

    Attributes:
        node: where; another takes its place if it dies.
        kind: the other nodes of that kind.
        data: files and columns.
        spec: how to measure.
        launches: numbers for launches, which nodes share.
    """

    node: Node
    kind: MachineKind
    data: Data
    spec: Spec
    launches: Iterator[int]
    _is_open: bool = field(init=False, default=False)
    _has_ended: bool = field(init=False, default=False)
    """Whether the agent was ended, and is to be started again."""

    def run(
        self,
        trial: Trial,
        phase: Phase,
        *,
        passes: int,
        verify: bool,
        every: int = 1,
        within_s: float | None = None,
    ) -> TrialRun:
        """As `Executor.run`; a trial whose node died is run again on another."""
        return self._run(
            lambda agent, left_s: agent.run.remote(trial, phase, passes, verify, every, left_s),
            within_s,
        )

    def reference(
        self,
        job: Job,
        files: int,
        *,
        ordered: bool,
        every: int = 1,
        within_s: float | None = None,
    ) -> TrialRun:
        """As `Executor.reference`."""
        return self._run(
            lambda agent, left_s: agent.reference.remote(job, files, ordered, every, left_s),
            within_s,
        )

    def close(self) -> None:
        """End the processes of trials on the node."""
        self._is_open = False
        self.node.close()

    def _run(self, ask: Callable[[Any, float | None], Any], within_s: float | None) -> TrialRun:
        """Ask the node's agent for a run, until one comes to an end."""
        stop_at = None if within_s is None else time.monotonic() + within_s
        ends = 0
        while True:
            if self._has_ended or self.kind.stopped.is_set():
                self._start_again()
            left_s = None if stop_at is None else max(0.0, stop_at - time.monotonic())
            try:
                self._open()
                self.node.is_busy = True
                run: TrialRun = ray.get(ask(self.node.agent, left_s))
                self.node.is_busy = False
                return replace(run, launch=next(self.launches))
            except RayTaskError:  # our own mistake there
                raise
            except OutOfMemoryError:
                self._has_ended = True
                why = f"Ray's memory monitor ended it on {self.node.name}, where memory ran low"
                return self._failed("out-of-memory", why)
            except RayError as error:
                self._has_ended = True
                ends += 1
                if ends >= MOST_ENDS and self.node.is_alive:
                    why = f"its process on {self.node.name} ended {MOST_ENDS} times"
                    why = f"{why}: {last_line(error)}"
                    return self._failed("crash", why)

    def _failed(self, verdict: Verdict, why: str) -> TrialRun:
        return TrialRun([], None, verdict, why, launch=next(self.launches))

    def _open(self) -> None:
        """Give the data to the agent of the node, if it has none yet.

        Raises:
            InputError: the node has other data, or none.
        """
        if self._is_open:
            return
        expected, agent = self.kind.expected, self.node.agent
        differing = ray.get(
            agent.difference.remote(expected.data, expected.data_type, expected.dataset)
        )
        if differing:
            raise InputError(
                f"{self.node.name} has other data than this machine in {expected.data}: "
                f"{differing}. Nodes need the same files at the same path, or objects in a store "
                "(s3://…)"
            )
        ray.get(agent.open.remote(self.data, self.spec))
        self._is_open = True

    def _start_again(self) -> None:
        """Start the node's agent again; if that is impossible, go on with another node.

        Raises:
            NodeLostError: there is no other, or measuring was stopped.
        """
        was, self._is_open = self.node, False
        if self.kind.stopped.is_set():
            raise NodeLostError(was.name, "measuring was stopped")
        if not (was.is_alive and lease([was], self.kind.local_ranks)[0]):
            what = f"did not answer for {LEASE_S:.0f} s" if was.is_alive else "died"
            self.kind.lost(was)
            other = self.kind.take()
            if other is None:
                raise NodeLostError(
                    was.name,
                    f"node {was.name} {what}, and the cluster has no other free node like it; "
                    "the samples so far are kept, go on with --resume",
                )
            self.kind.notes.append(f"{was.name} {what}; {other.name} repeated its trial")
            self.node = other
        self._has_ended = False
        if self.kind.stopped.is_set():  # while a node was leased
            self.kind.close()
            raise NodeLostError(was.name, "measuring was stopped")
