"""What leads the trials on a node: an actor, whose trials run in clean processes of their own."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import msgspec
import psutil

from ...loaders.base.errors import FeedrateError
from ...loaders.choosing.profile import Job, Profile, store_path
from ...loaders.parquet.dataset import Dataset
from ..plan.host import Host
from ..plan.source import open_source
from ..plan.spec import Spec, Trial
from ..record.results import Phase
from ..run.executor import Executor, TrialRun
from ..run.opening import child_processes
from ..run.profile_writing import save
from ..system.ranks import VARIABLE
from ..trial.work import Data

MUST_AGREE = ("files", "bytes", "schema", "snapshot")
"""What must be the same in the data of a node and of the machine that leads: of `Dataset`."""
SET_BY_RAY = ("OMP_NUM_THREADS", "PYTHONBREAKPOINT", "PYTHONUNBUFFERED")
"""Variables of Ray's workers that a process started by hand would not have (ray 2.60)."""


class Agent:
    """Runs trials on its node, each in new processes.

    They have the environment that the node was started with: with the variables that Ray sets for
    its workers, trials would measure conditions that users do not have.
    """

    def __init__(self, name: str) -> None:
        _as_the_node_was_started()
        self._name = name
        self._executor: Executor | None = None

    def host(self, local_ranks: int) -> Host:
        """Describe the node, as one of `local_ranks` on it, in this and all later calls."""
        if local_ranks > 1:
            os.environ[VARIABLE] = str(local_ranks)
        return replace(Host.here(), name=self._name)

    def difference(self, data: str, data_type: str | None, here: Dataset) -> str:
        """How this node's data differ from those of the machine that leads; '' if they do not."""
        try:
            found = open_source(data, data_type).dataset
        except FeedrateError as error:
            return str(error)
        differing = [
            f"{name} {getattr(found, name)} instead of {getattr(here, name)}"
            for name in MUST_AGREE
            if getattr(found, name) != getattr(here, name)
        ]
        return ", ".join(differing)

    def open(self, data: Data, spec: Spec) -> None:
        """Prepare to run trials on some data."""
        self.close()
        self._executor = child_processes(data, spec, 0)

    def run(
        self,
        trial: Trial,
        phase: Phase,
        passes: int,
        verify: bool,
        every: int,
        within_s: float | None,
    ) -> TrialRun:
        """As `Executor.run`."""
        return self._opened.run(
            trial, phase, passes=passes, verify=verify, every=every, within_s=within_s
        )

    def reference(
        self, job: Job, files: int, ordered: bool, every: int, within_s: float | None
    ) -> TrialRun:
        """As `Executor.reference`."""
        return self._opened.reference(job, files, ordered=ordered, every=every, within_s=within_s)

    def close(self) -> None:
        """End all processes of trials."""
        if self._executor is not None:
            self._executor.close()
            self._executor = None

    @property
    def _opened(self) -> Executor:
        if self._executor is None:
            raise RuntimeError("open the data first")
        return self._executor


def store_profile(profile: bytes, base_dir: str) -> str:
    """Save a profile where loaders on this node look for it; the reason if it cannot be."""
    made = msgspec.json.decode(profile, type=Profile)
    try:
        save(made, Path(store_path(base_dir, made.machine)), [])
    except FeedrateError as error:
        return str(error)
    return ""


def _as_the_node_was_started() -> None:
    """Remove Ray's environment variables, and undo those that it sets for its workers."""
    for name in [one for one in os.environ if one.startswith("RAY_")]:
        del os.environ[name]
    try:
        node = psutil.Process(os.getppid()).environ()
    except psutil.Error:
        return
    for name in SET_BY_RAY:
        if name in node:
            os.environ[name] = node[name]
        else:
            os.environ.pop(name, None)
