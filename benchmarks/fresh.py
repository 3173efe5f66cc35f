"""Tasks in fresh processes, which live until the parent has measured the memory they hold.

`python -m benchmarks.fresh MODULE:FUNCTION OPTIONS` runs one: it prepares, waits for `go` on its
input, and answers in lines of JSON.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from feedrate.harness.system.procfs import set_parent_death_signal

ROOT = Path(__file__).resolve().parent.parent
ERROR_TAIL = 6000  # characters of stderr in an error
END_TIMEOUT_S = 30.0  # Ray takes some seconds to stop its servers

Ready = Callable[[], None]
Task = Callable[[Any, Ready], tuple[Any, Any]]
"""Takes the options and a function to call once when prepared. Returns the result, which must be
valid JSON, and objects to hold until the parent has measured."""


class Fresh:
    """A task in a fresh process.

    Args:
        task: a function of a module of this package.
        options: its options; must be valid JSON.
        environment: variables to set.
    """

    def __init__(
        self, task: Task, options: object, environment: Mapping[str, str] | None = None
    ) -> None:
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - until exit
        where = f"{task.__module__}:{task.__qualname__}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, where, json.dumps(options)],
            cwd=ROOT,
            env={**os.environ, **QUIET, **(environment or {})},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
        )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        # At the end of its input, the task stops and ends its processes; the rest is killed.
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        if failure[0] is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._errors.close()

    def wait_until_ready(self) -> None:
        """Wait until the task is prepared; it then waits for `go`."""
        self._read()

    def go(self) -> Any:
        """Let the task run, and return its result; it holds its objects until `__exit__`."""
        if self._process.stdin is None:
            raise AssertionError
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        if self._process.stdout is None:
            raise AssertionError
        if line := self._process.stdout.readline():
            return json.loads(line)
        self._process.wait()
        self._errors.seek(0)
        text = self._errors.read()
        raise RuntimeError(f"exit status {self._process.returncode}:\n{text[-ERROR_TAIL:]}")


# Keeps peers from contacting servers, drawing progress bars and reporting use.
QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}


def run_fresh(task: Task, options: object, environment: Mapping[str, str] | None = None) -> Any:
    """Run a task in a fresh process, and return its result.

    Raises:
        RuntimeError: the task failed; the message ends with its stderr.
    """
    with Fresh(task, options, environment) as child:
        child.wait_until_ready()
        return child.go()


def main() -> None:
    """Run the task named on the command line."""
    set_parent_death_signal(os.getppid())
    where, options = sys.argv[1:]
    module, _, name = where.partition(":")
    task = getattr(importlib.import_module(module), name)

    # The output of libraries goes to stderr. Processes that they start do not inherit the pipe to
    # the parent, which would not see the end of this process otherwise.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(message: object) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    def ready() -> None:
        say("ready")
        sys.stdin.readline()

    result, held = task(json.loads(options), ready)
    say(result)
    sys.stdin.read()
    del held


if __name__ == "__main__":
    main()
