"""Build revisions of a repository, so that each runs on top of the same environment."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import msgspec

from ...loaders.base.atomic import locked
from ...loaders.base.errors import InputError
from ...loaders.base.homes import cache_home
from ..run.process_start import Python
from ..system.programs import BuildError, call, git, git_remove_worktree, run_program, without_git
from .wheels import ENVIRONMENT, PACKAGES, executable_of, install

KEPT = 20  # revisions in the cache, of a few MB each; the oldest are removed
LATELY_S = 24 * 3600.0  # revisions used within this time are kept: another gate may run them
_SUBMODULE = "160000"  # the mode of a submodule's commit in a git tree
_TREES = "feedrate-tree-"  # prefix of worktree folders; the id of their process follows
_COMPLETE = "complete"  # marks a revision that was built successfully
_PROJECT_FILES = ("pyproject.toml", "setup.py")
# Run by a revision's Python: imports modules, and prints the files of those that it also has.
_PROBE = """
import importlib, json, os, sys
packages, *names = sys.argv[1:]
broken = ""
for name in names:
    try:
        importlib.import_module(name)
        broken = ""
    except BaseException as error:
        broken = f"{type(error).__name__}: {error}"
tops = {name.partition(".")[0] for name in os.listdir(packages)}
files = {
    name: os.path.realpath(module.__file__)
    for name, module in list(sys.modules.items())
    if name.partition(".")[0] in tops and getattr(module, "__file__", None)
}
print("\\n" + json.dumps({"files": files, "broken": broken}))
"""


class _Probed(msgspec.Struct):
    """The output of the probe."""

    files: dict[str, str]
    """The files of imported modules that the revision also has, by module name."""
    broken: str
    """Why the last module could not be imported; empty if it could."""


@dataclass(frozen=True)
class Revision:
    """A revision that can be run.

    Attributes:
        name: as the user gave it.
        commit: its commit; empty for a ready-made interpreter.
        python: the interpreter that runs it.
        packages: the folder of its built packages; None for a ready-made interpreter.
    """

    name: str
    commit: str
    python: Python
    packages: Path | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.commit[:10]})" if self.commit else self.name


def ready_made(executable: str) -> Revision:
    """Return the revision that is installed in an interpreter's environment.

    Raises:
        BuildError: it cannot be started, or lacks feedrate's harness.
    """
    python = Python(executable, apart=True)
    run_program([executable, "-c", "import feedrate.harness.child"], f"{executable} cannot be used")
    return Revision(executable, "", python)


def build(ref: str, folder: Path | None = None) -> Revision:
    """Build a revision's wheel, to run on top of this environment.

    Builds are cached. A revision that requires other packages than are installed here gets its own
    environment, with those and all that are installed here.

    Args:
        ref: a branch, a tag or a commit.
        folder: a folder of the project in the repository; by default the current folder.

    Raises:
        InputError: there is no repository, no project or no such revision.
        BuildError: it does not build, or its requirements cannot be installed.
    """
    folder = (folder or Path.cwd()).resolve()
    top = _top(folder)
    project = _project_folder(folder, top)
    commit = commit_of(ref, folder)
    home = cache_home() / "gate"
    home.mkdir(parents=True, exist_ok=True)
    built = home / f"{commit[:12]}-{_environment_key(project)}"
    with locked(home):
        if not (built / _COMPLETE).exists():
            with _worktree(top, commit) as tree, _new_build(built):
                name = f"revision {ref} ({commit[:10]})"
                if not (tree / project).is_dir():
                    raise BuildError(f"{name} has no folder {project}")
                install(tree / project, built, name)
        os.utime(built)
        _remove_old_builds(home)
    return Revision(ref, commit, _python(built), built / PACKAGES)


def commit_of(ref: str, folder: Path | None = None) -> str:
    """The commit of a branch, a tag or an abbreviated commit.

    Raises:
        InputError: there is no repository, or no such revision.
    """
    top = _top((folder or Path.cwd()).resolve())
    missing = f"there is no revision {ref!r} in {top}; git fetch it, or name another"
    # After --end-of-options, a ref that starts with a dash is still a ref.
    options = ("--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    return git(top, "rev-parse", *options, otherwise=missing)


def _top(folder: Path) -> Path:
    missing = f"git finds no repository at {folder}, or may not use it"
    return Path(git(folder, "rev-parse", "--show-toplevel", otherwise=missing))


def submodules(commit: str, folder: Path | None = None) -> list[str]:
    """The folders of a commit's submodules; a revision is built without them."""
    top = _top((folder or Path.cwd()).resolve())
    listed = git(top, "ls-tree", "-r", "-z", commit, otherwise=f"{top} has no commit {commit}")
    entries = [entry.partition("\t") for entry in listed.split("\0")]
    return [path for mode, _, path in entries if mode.startswith(f"{_SUBMODULE} ")]


def is_dirty(folder: Path | None = None) -> bool:
    """Whether tracked files differ from the checked-out commit."""
    here = folder or Path.cwd()
    failed = f"the working tree in {here} cannot be compared with its commit"
    return bool(git(here, "status", "--porcelain", "--untracked-files=no", otherwise=failed))


def check_is_run(revision: Revision, modules: Sequence[str], runner: str) -> None:
    """Raise if importing some modules runs other code than the revision's.

    Args:
        revision: a built revision; a ready-made interpreter is not checked.
        modules: the modules of the compared loaders.
        runner: the module that runs them.

    Raises:
        InputError: neither they nor their imports are part of the revision.
        BuildError: packages installed here take precedence over the revision's, or the runner
            cannot be imported in its environment.
    """
    if revision.packages is None:
        return
    python = revision.python
    done = call(
        [python.executable, "-c", _PROBE, str(revision.packages), *modules, runner],
        {**without_git(), **python.environment},
    )
    if done.returncode:
        return  # the probe itself failed; the first launch will report why
    probed = msgspec.json.decode(done.stdout.splitlines()[-1], type=_Probed)
    installed = sorted(
        path.stem
        for path in revision.packages.iterdir()
        if path.suffix != ".dist-info" and path.name != "__pycache__"
    )
    if probed.broken and runner.partition(".")[0] not in installed:
        raise BuildError(
            f"in the environment of {revision} feedrate itself does not run: {probed.broken}; the "
            "revision's requirements must be compatible with feedrate's"
        )
    prefix = os.path.realpath(revision.packages) + os.sep
    if any(file.startswith(prefix) for file in probed.files.values()):
        return
    compared = ", ".join([*modules, runner])
    problem = f"the code to compare ({compared}) does not come from {revision}"
    if probed.files:
        name, file = next(iter(probed.files.items()))
        raise BuildError(f"{problem}: {name} is taken from {file}; install that without -e")
    raise InputError(
        f"{problem}, which has {', '.join(installed)}; name a loader of the project with --loader "
        "package.module:function"
    )


def _project_folder(folder: Path, top: Path) -> Path:
    """The folder of the project, relative to the repository's top."""
    for parent in (folder, *folder.parents):
        if any((parent / name).is_file() for name in _PROJECT_FILES):
            return parent.relative_to(top)
        if parent == top:
            break
    raise InputError(
        f"{folder} has no pyproject.toml, so no revision can be built; run this in the folder of "
        "the project, or give ready-made environments with --base-python and --head-python"
    )


def _environment_key(project: Path) -> str:
    """A hash of the project's folder, the interpreter and all installed packages."""
    installed = sorted({f"{one.name}=={one.version}" for one in metadata.distributions()})
    parts = [str(project), sys.executable, sys.version, *installed]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _python(built: Path) -> Python:
    environment = built / ENVIRONMENT
    executable = executable_of(environment) if environment.exists() else sys.executable
    return Python(executable, (str(built / PACKAGES),), apart=True)


@contextlib.contextmanager
def _worktree(top: Path, commit: str) -> Iterator[Path]:
    """Check out a commit in a temporary worktree, and remove it from the repository afterwards."""
    _remove_orphans(top)
    with tempfile.TemporaryDirectory(prefix=f"{_TREES}{os.getpid()}-") as temporary:
        tree = Path(temporary, "tree")
        try:
            git(
                top,
                "-c",
                f"core.hooksPath={os.devnull}",
                "worktree",
                "add",
                "--detach",
                "--force",
                str(tree),
                commit,
                otherwise=f"{commit[:10]} cannot be checked out",
            )
            yield tree
        finally:
            git_remove_worktree(top, tree)


def _remove_orphans(top: Path) -> None:
    """Remove the worktrees of gates that were killed before they could remove them."""
    listed = git(top, "worktree", "list", "--porcelain", otherwise=f"{top} has no worktrees")
    ours = re.escape(f"{tempfile.gettempdir()}/{_TREES}")
    for match in re.finditer(rf"^worktree ({ours}(\d+)-[^/]+)/tree$", listed, re.MULTILINE):
        if not Path(f"/proc/{match[2]}").exists():
            git_remove_worktree(top, Path(match[1], "tree"))
            shutil.rmtree(match[1], ignore_errors=True)


@contextlib.contextmanager
def _new_build(built: Path) -> Iterator[None]:
    """Empty a folder that a killed build may have left; mark it on success, else remove it."""
    shutil.rmtree(built, ignore_errors=True)
    built.mkdir()
    try:
        yield
        (built / _COMPLETE).touch()
    finally:
        if not (built / _COMPLETE).exists():
            shutil.rmtree(built, ignore_errors=True)


def _remove_old_builds(home: Path) -> None:
    """Remove the least recently used builds except `KEPT`, and except those used lately."""
    built = sorted(
        (path for path in home.iterdir() if path.is_dir()),
        key=lambda path: path.stat().st_mtime,
        reverse=True,
    )
    for path in built[KEPT:]:
        if time.time() - path.stat().st_mtime > LATELY_S:
            shutil.rmtree(path, ignore_errors=True)
