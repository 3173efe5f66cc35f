"""Start processes for trials: their interpreter, their environment, and new processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ...loaders.base.machine import effective_cpus
from ..system.threads import budget
from ..trial.protocol import LOOK_HERE

CHILD_MODULE = "feedrate.harness.child"  # also of earlier revisions that the gate starts
START_TIMEOUT_S = 180.0  # importing TensorFlow on a busy two-core machine has taken 20 s


@dataclass(frozen=True)
class Python:
    """The interpreter and import path of a child process.

    Attributes:
        executable: the interpreter.
        path: folders whose packages take precedence over installed ones.
        apart: whether to ignore the current folder and PYTHONPATH, since the working tree there
            is no revision that the gate compares.
    """

    executable: str = sys.executable
    path: tuple[str, ...] = ()
    apart: bool = False

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of its processes."""
        inherited = None if self.apart else os.environ.get("PYTHONPATH")
        path = [*self.path, *filter(None, [inherited])]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path),
            **({"PYTHONSAFEPATH": "1"} if self.apart else {}),
        }

    def command(self, module: str, *arguments: str) -> list[str]:
        """The command for a module of feedrate; modules in the current folder shadow no others.

        Unless `apart`, that folder is searched last, for custom loaders.
        """
        here = [] if self.apart else [LOOK_HERE]
        return [self.executable, "-P", "-m", module, *arguments, *here]


HERE = Python()


class Process(Protocol):
    """A process that was started, in its own process group."""

    @property
    def pid(self) -> int:
        """The id of the process and of its group, which is not reused before `reap`."""
        ...

    @property
    def is_forked(self) -> bool:
        """Whether it shares memory with a process that it was forked from."""
        ...

    @property
    def is_lost(self) -> bool:
        """Whether the process that it was forked from has ended, which also ends it."""
        ...

    def has_ended(self) -> bool:
        """Whether it has ended; it is not reaped."""
        ...

    def reap(self) -> int:
        """Wait for its end and return its exit code; below 0, the signal that ended it."""
        ...


class Starter(Protocol):
    """Starts processes that run trials."""

    def start(self, streams: Sequence[int], environment: Mapping[str, str]) -> Process:
        """Start a process.

        Args:
            streams: descriptors for its stdin, stdout and stderr.
            environment: further environment variables.

        Raises:
            CannotStartError: the process cannot be started.
            OSError: the system cannot start any process.
        """
        ...


class CannotStartError(Exception):
    """A process could not be started; the message says why."""


class _NewProcess:
    """A process of a new interpreter."""

    is_forked = False
    is_lost = False

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def has_ended(self) -> bool:
        if self._process.returncode is not None:
            return True
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, options) is not None

    def reap(self) -> int:
        return self._process.wait()


@dataclass(frozen=True)
class Fresh:
    """Starts a new interpreter for each process.

    Attributes:
        python: the interpreter and packages.
    """

    python: Python = HERE

    def start(self, streams: Sequence[int], environment: Mapping[str, str]) -> Process:
        """As `Starter.start`."""
        stdin, stdout, stderr = streams
        process = subprocess.Popen(
            self.python.command(CHILD_MODULE, str(os.getpid())),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            env={**environment_of(self.python), **environment},
        )
        return _NewProcess(process)


def environment_of(python: Python) -> dict[str, str]:
    """The environment variables of a child: its interpreter's, and the sizes of thread pools."""
    return {
        **python.environment,
        **budget(effective_cpus(), os.environ),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "PYTHONUNBUFFERED": "1",
    }
