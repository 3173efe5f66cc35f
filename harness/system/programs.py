"""Run git and pip for a gate; an interrupt also ends them and their children."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from ...loaders.base.errors import FeedrateError, InputError

SHOWN_LINES = 15  # of the output of a failed build
END_S = 5.0  # for a stopped program to clean up


class BuildError(FeedrateError):
    """A revision that cannot be made to run."""


def git(folder: Path, *arguments: str, otherwise: str) -> str:
    """Run git and return its output.

    Raises:
        InputError: git is missing, or fails; the message is `otherwise` and git's last line.
    """
    try:
        result = call(["git", "-C", str(folder), *arguments], without_git())
    except FileNotFoundError as error:
        raise InputError("git is not installed; give --base-python and --head-python") from error
    if result.returncode:
        lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
        fatal = [line for line in lines if line.startswith("fatal:")]
        reason = "".join((fatal or lines[-1:])[:1]).removeprefix("fatal:").strip()
        raise InputError(otherwise + (f" (git: {reason})" if reason else ""))
    return str(result.stdout).strip()


def git_remove_worktree(top: Path, tree: Path) -> None:
    """Remove a worktree, if there is one."""
    # Force twice: a git that was stopped while making the tree left it locked.
    remove = ["worktree", "remove", "--force", "--force", str(tree)]
    call(["git", "-C", str(top), *remove], without_git())


def run_program(command: Sequence[str], failure: str, temporary: Path | None = None) -> str:
    """Run a program and return its output; `temporary` is its folder for temporary files.

    Raises:
        BuildError: it failed; the message has its last lines.
    """
    variables = {} if temporary is None else {"TMPDIR": str(temporary)}
    try:
        result = call(command, {**without_git(), **variables}, stderr=subprocess.STDOUT)
    except OSError as error:
        raise BuildError(f"{failure}: {command[0]}: {error.strerror}") from error
    if result.returncode:
        lines = result.stdout.strip().splitlines()[-SHOWN_LINES:]
        raise BuildError("\n  ".join([f"{failure}:", *lines]))
    return str(result.stdout).strip()


def call(
    command: Sequence[str], environment: Mapping[str, str], stderr: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    """Run a program; an interrupt also ends it and its children."""
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
    """End a program and its children: with SIGTERM, so that they can clean up, then SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)


@cache
def _git_variables() -> frozenset[str]:
    """Variables by which git points a hook at its repository, not at the worktree."""
    done = call(["git", "rev-parse", "--local-env-vars"], os.environ)
    return frozenset(done.stdout.split())


def without_git() -> dict[str, str]:
    """The environment without git's variables: with them, git would overwrite a hook's index."""
    return {name: value for name, value in os.environ.items() if name not in _git_variables()}
