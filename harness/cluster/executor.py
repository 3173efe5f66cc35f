"""Run trials on a node; if it dies, on another of its kind."""

from __future__ import annotations

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
from ..record.results import Phase
from ..run.executor import TrialRun
from ..trial.work import Data
from .nodes import LEASE_S, Node, NodeLostError, lease

MOST_CRASHES = 2  # of an agent on a living node, in one run


@dataclass(frozen=True)
class Question:
    """The data that a node must have: where, and what they are here."""

    data: str
    data_type: str
    dataset: Dataset


@dataclass
class Kind:
    """The nodes of one kind of machine, and what happened to them.

    Attributes:
        nodes: all of them that are alive, as far as is known.
        free: those that no executor has.
        question: what each must have.
        local_ranks: of how many ranks a trial consists.
        find_new: returns nodes of this kind that have joined the cluster.
        notes: for the user.
    """

    nodes: list[Node]
    local_ranks: int = 1
    question: Question | None = None
    find_new: Callable[[], list[Node]] = list
    notes: list[str] = field(default_factory=list)
    free: list[Node] = field(init=False)
    is_stopped: bool = False
    """Whether measuring was stopped: processes that end then are not started again."""

    def __post_init__(self) -> None:
        self.free = list(self.nodes)

    def take(self) -> Node | None:
        """A free node, or a new one; None if there is none."""
        if not self.free:
            new = self.find_new()
            self.nodes += new
            self.free += new
        return self.free.pop(0) if self.free else None

    def stop(self) -> None:
        """End everything that runs, so that its threads end."""
        self.is_stopped = True
        for node in self.nodes:
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
    kind: Kind
    data: Data
    spec: Spec
    launches: Iterator[int]
    _is_open: bool = field(init=False, default=False)

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
        return self._run("run", trial, phase, passes, verify, every, within_s=within_s)

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
        return self._run("reference", job, files, ordered, every, within_s=within_s)

    def close(self) -> None:
        """End the processes of trials on the node."""
        self._is_open = False
        self.node.close()

    def _run(self, method: str, *arguments: Any, within_s: float | None) -> TrialRun:
        stop_at = None if within_s is None else time.monotonic() + within_s
        crashes = 0
        while True:
            left = None if stop_at is None else max(0.0, stop_at - time.monotonic())
            try:
                self._open()
                self.node.is_busy = True
                run: TrialRun = ray.get(getattr(self.node.agent, method).remote(*arguments, left))
                self.node.is_busy = False
                return replace(run, launch=next(self.launches))
            except RayTaskError:  # our own mistake there
                raise
            except OutOfMemoryError:
                why = f"Ray's memory monitor ended it on {self.node.name}, where memory ran low"
                self._restart_or_replace()
                return self._failed("out-of-memory", why)
            except RayError as error:
                was = self.node
                self._restart_or_replace()
                crashes += self.node is was
                if crashes >= MOST_CRASHES:
                    last = str(error).strip().splitlines()[-1]
                    why = f"the process that led it on {was.name} ended twice: {last}"
                    return self._failed("crash", why)

    def _failed(self, verdict: Any, message: str) -> TrialRun:
        return TrialRun([], None, verdict, message, launch=next(self.launches))

    def _open(self) -> None:
        """Give the data to the agent of the node, if it has none yet.

        Raises:
            InputError: the node has other data, or none.
        """
        if self._is_open:
            return
        asked = self.kind.question
        if asked is not None:
            differing = ray.get(
                self.node.agent.difference.remote(asked.data, asked.data_type, asked.dataset)
            )
            if differing:
                raise InputError(
                    f"{self.node.name} has other data than this machine in {asked.data}: "
                    f"{differing}. Nodes need the same files at the same path, or objects in a "
                    "store (s3://…)"
                )
        ray.get(self.node.agent.open.remote(self.data, self.spec))
        self._is_open = True

    def _restart_or_replace(self) -> None:
        """Start the node's agent again; if the node is dead, go on with another.

        Raises:
            NodeLostError: there is no other.
        """
        was, self._is_open = self.node, False
        if self.kind.is_stopped:
            raise NodeLostError(was.name, "measuring was stopped")
        if was.is_alive and lease([was], self.kind.local_ranks)[0]:
            return
        was.kill()
        self.kind.nodes.remove(was)
        other = self.kind.take()
        if other is None:
            raise NodeLostError(
                was.name,
                f"node {was.name} died, or did not answer for {LEASE_S:.0f} s, and the cluster "
                "has no other free node like it",
            )
        self.kind.notes.append(f"{was.name} died; {other.name} repeated its trial and went on")
        self.node = other
