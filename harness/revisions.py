"""Revisions of a repository, built so that a process can run each over the same environment."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ..loaders.atomic import locked
from ..loaders.errors import FeedrateError, InputError
from ..loaders.homes import cache_home
from .child_process import Python

KEPT = 20  # revisions in the cache; the oldest go
LATELY_S = 24 * 3600.0
SHOWN_LINES = 15  # of a build that failed
_WHOLE = "complete"  # marks a revision whose build went well
_PROJECT_FILES = ("pyproject.toml", "setup.py")


class BuildError(FeedrateError):
    """A revision that does not become something that can be run."""


@dataclass(frozen=True)
class Revision:
    """A revision that can be run.

    Attributes:
        name: as it was asked for.
        commit: what it is; empty for an interpreter that was given ready-made.
        python: what runs it.
    """

    name: str
    commit: str
    python: Python

    def __str__(self) -> str:
        return f"{self.name} ({self.commit[:10]})" if self.commit else self.name


def ready_made(executable: str) -> Revision:
    """An interpreter in whose environment a revision is installed.

    Raises:
        BuildError: it cannot be started, or has no harness of feedrate.
    """
    python = Python(executable, apart=True)
    _run([executable, "-c", "import feedrate.harness.child"], f"{executable} cannot be used")
    return Revision(executable, "", python)


def build(ref: str, folder: Path | None = None) -> Revision:
    """Build a revision's wheel, and lay it over this environment.

    What was built before is taken from the cache. Where the revision requires other packages than
    are installed here, it gets an environment of its own, with those and all that is here.

    Args:
        ref: a branch, a tag or a commit.
        folder: in the repository and its project; by default the current folder.

    Raises:
        InputError: there is no repository, no project or no such revision.
        BuildError: it does not build, or what it requires cannot be installed.
    """
    folder = (folder or Path.cwd()).resolve()
    top = Path(
        _git(folder, "rev-parse", "--show-toplevel", otherwise=f"{folder} is in no git repository")
    )
    project = _project(folder, top)
    missing = f"there is no revision {ref!r} in {top}; git fetch it, or name another"
    # The end of options: a ref that starts with a dash is a ref.
    commit = _git(
        top,
        "rev-parse",
        "--verify",
        "--quiet",
        "--end-of-options",
        f"{ref}^{{commit}}",
        otherwise=missing,
    )
    home = cache_home() / "gate"
    home.mkdir(parents=True, exist_ok=True)
    place = home / f"{commit[:12]}-{_environment_key(project)}"
    with locked(home):
        if not (place / _WHOLE).exists():
            with _worktree(top, commit) as tree, _finished(place) as unfinished:
                _install(tree / project, unfinished, f"revision {ref} ({commit[:10]})")
        os.utime(place)
        _forget(home)
    return Revision(ref, commit, _python(place))


def is_dirty(folder: Path | None = None) -> bool:
    """Whether files differ from the commit that is checked out."""
    here = folder or Path.cwd()
    return bool(_git(here, "status", "--porcelain", "--untracked-files=no", otherwise=str(here)))


def _project(folder: Path, top: Path) -> Path:
    """The folder of the project, from the repository's top."""
    for place in (folder, *folder.parents):
        if any((place / name).is_file() for name in _PROJECT_FILES):
            return place.relative_to(top)
        if place == top:
            break
    raise InputError(
        f"{top} has no pyproject.toml, so its revisions cannot be built; give ready-made "
        "environments with --base-python and --head-python"
    )


def _environment_key(project: Path) -> str:
    """What a built revision depends on beside its commit: interpreter and installed packages."""
    installed = sorted({f"{one.name}=={one.version}" for one in metadata.distributions()})
    parts = [str(project), sys.executable, sys.version, *installed]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _install(project: Path, place: Path, what: str) -> None:
    """The project's wheel, unpacked into a folder, or into an environment where it needs more."""
    with tempfile.TemporaryDirectory(prefix="feedrate-") as wheels:
        pip = [sys.executable, "-m", "pip"]
        quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
        _run(
            [*pip, "wheel", *quiet, "--no-deps", "-w", wheels, str(project)],
            f"{what} does not build",
        )
        built = [str(path) for path in Path(wheels).glob("*.whl")]
        packages = place / "packages"
        _run(
            [
                *pip,
                "install",
                *quiet,
                "--no-deps",
                "--no-index",
                "--no-compile",
                "--target",
                str(packages),
                *built,
            ],
            f"the wheel of {what} cannot be unpacked",
        )
        if unmet := _unmet(packages):
            _own_environment(place / "environment", unmet, what)
    # Compiled now: whichever revision is launched first would else pay for it.
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", str(packages)], check=False, capture_output=True
    )


def _unmet(packages: Path) -> list[str]:
    """What a wheel requires, with the extras that are in use here, and this environment has not."""
    unmet = []
    for found in metadata.distributions(path=[str(packages)]):
        name = canonicalize_name(found.name)
        extras = ["", *(extra for extra in _extras(found) if _in_use(name, extra))]
        unmet += [
            str(one)
            for text in found.requires or ()
            if any(_applies(one := Requirement(text), extra) for extra in extras)
            and canonicalize_name(one.name) != name  # extras that it names of itself
            and not _is_met(one)
        ]
    return list(dict.fromkeys(unmet))


def _extras(found: metadata.Distribution) -> Sequence[str]:
    return found.metadata.get_all("Provides-Extra") or ()


def _in_use(name: str, extra: str) -> bool:
    """Whether all that an extra of what is installed here brings is there, in any version."""
    try:
        requires = metadata.distribution(name).requires or []
    except metadata.PackageNotFoundError:
        return False
    requirements = [Requirement(text) for text in requires]
    brought = [one for one in requirements if _applies(one, extra) and not _applies(one, "")]
    others = [one for one in brought if canonicalize_name(one.name) != name]
    return bool(others) and all(_version(one.name) is not None for one in others)


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _is_met(requirement: Requirement) -> bool:
    version = _version(requirement.name)
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _own_environment(place: Path, requirements: Sequence[str], what: str) -> None:
    """A virtual environment that sees what is installed here, with other versions before it."""
    _run([sys.executable, "-m", "venv", str(place)], f"no environment can be made for {what}")
    python = _executable(place)
    inside = _run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], what)
    # As site folders, not as plain paths, so that what is installed editably there is found.
    shared = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    lines = [f"import site; site.addsitedir({path!r})\n" for path in shared]
    Path(inside, "feedrate-gate.pth").write_text("".join(lines), encoding="utf-8")
    plain = [requirement.partition(";")[0].strip() for requirement in requirements]
    _run(
        [
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-input",
            *plain,
        ],
        f"what {what} requires cannot be installed",
    )


def _python(place: Path) -> Python:
    own = place / "environment"
    executable = _executable(own) if own.exists() else sys.executable
    return Python(executable, (str(place / "packages"),), apart=True)


def _executable(environment: Path) -> str:
    scripts = "Scripts" if os.name == "nt" else "bin"
    return str(environment / scripts / "python")


@contextlib.contextmanager
def _worktree(top: Path, commit: str) -> Iterator[Path]:
    """A checkout of a commit, which leaves no trace in the repository."""
    with tempfile.TemporaryDirectory(prefix="feedrate-") as temporary:
        tree = Path(temporary, "tree")
        try:
            _git(
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
            subprocess.run(
                ["git", "-C", str(top), "worktree", "remove", "--force", str(tree)],
                capture_output=True, check=False,
            )  # fmt: skip


@contextlib.contextmanager
def _finished(place: Path) -> Iterator[Path]:
    """A folder that counts when all went well and goes if not, with what a killed build left."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    try:
        yield place
        (place / _WHOLE).touch()
    finally:
        if not (place / _WHOLE).exists():
            shutil.rmtree(place, ignore_errors=True)


def _forget(home: Path) -> None:
    """Remove what was used longest ago, and not lately: another gate may be running it."""
    built = sorted(
        (path for path in home.iterdir() if path.is_dir()),
        key=lambda path: path.stat().st_mtime,
        reverse=True,
    )
    for path in built[KEPT:]:
        if time.time() - path.stat().st_mtime > LATELY_S:
            shutil.rmtree(path, ignore_errors=True)


def _git(folder: Path, *arguments: str, otherwise: str) -> str:
    """What git says.

    Raises:
        InputError: git is missing, or refuses; the message is `otherwise` and git's last line.
    """
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise InputError("git is not installed; give --base-python and --head-python") from error
    if done.returncode:
        told = done.stderr.strip().splitlines()
        raise InputError(f"{otherwise}" + (f" (git: {told[-1]})" if told else ""))
    return done.stdout.strip()


def _run(command: Sequence[str], failure: str) -> str:
    """The output of a program.

    Raises:
        BuildError: it failed; the message has its last lines.
    """
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except OSError as error:
        raise BuildError(f"{failure}: {command[0]}: {error.strerror}") from error
    if done.returncode:
        last = done.stdout.strip().splitlines()[-SHOWN_LINES:]
        raise BuildError("\n  ".join([f"{failure}:", *last]))
    return done.stdout.strip()
