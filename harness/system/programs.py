"""Programs that a gate needs: git and pip, which end with what they started when we are stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from ...loaders.base.errors import FeedrateError, InputError

SHOWN_LINES = 15  # of a build that failed
END_S = 5.0  # for a program that is stopped to clean up


class BuildError(FeedrateError):
    """A revision that does not become something that can be run."""


def git(folder: Path, *arguments: str, otherwise: str) -> str:
    """What git says.

    Raises:
        InputError: git is missing, or refuses; the message is `otherwise` and git's last line.
    """
    try:
        done = call(["git", "-C", str(folder), *arguments], without_git())
    except FileNotFoundError as error:
        raise InputError("git is not installed; give --base-python and --head-python") from error
    if done.returncode:
        told = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        fatal = [line for line in told if line.startswith("fatal:")]
        why = "".join((fatal or told[-1:])[:1]).removeprefix("fatal:").strip()
        raise InputError(otherwise + (f" (git: {why})" if why else ""))
    return str(done.stdout).strip()


def git_remove_worktree(top: Path, tree: Path) -> None:
    """Remove a worktree, as far as there is one."""
    # Twice: git that was stopped while it made the tree has left it locked.
    remove = ["worktree", "remove", "--force", "--force", str(tree)]
    call(["git", "-C", str(top), *remove], without_git())


def run_program(command: Sequence[str], failure: str, temporary: Path | None = None) -> str:
    """The output of a program, which may keep what it needs meanwhile in a folder.

    Raises:
        BuildError: it failed; the message has its last lines.
    """
    own = {} if temporary is None else {"TMPDIR": str(temporary)}
    try:
        done = call(command, {**without_git(), **own}, stderr=subprocess.STDOUT)
    except OSError as error:
        raise BuildError(f"{failure}: {command[0]}: {error.strerror}") from error
    if done.returncode:
        last = done.stdout.strip().splitlines()[-SHOWN_LINES:]
        raise BuildError("\n  ".join([f"{failure}:", *last]))
    return str(done.stdout).strip()


def call(
    command: Sequence[str], environment: Mapping[str, str], stderr: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    """Run a program that ends, with all that it started, when we are stopped."""
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr,
        text=True, errors="replace", start_new_session=True,
    ) as process:  # fmt: skip
        try:
            out, errors = process.communicate()
        except BaseException:
            _end(process)
            raise
    return subprocess.CompletedProcess(list(command), process.returncode, out, errors)


def _end(process: subprocess.Popen[str]) -> None:
    """End a program and its children: first so that they can clean up, then for sure."""
    for way in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, way)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)


@cache
def _of_git() -> frozenset[str]:
    """The variables by which git tells a hook its repository, which is not the worktree's."""
    done = call(["git", "rev-parse", "--local-env-vars"], os.environ)
    return frozenset(done.stdout.split())


def without_git() -> dict[str, str]:
    """What programs inherit: in a hook git's own index would else be written over."""
    return {name: value for name, value in os.environ.items() if name not in _of_git()}
