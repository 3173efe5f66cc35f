"""Build and unpack a project's wheel, and make an environment if it requires more packages."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ..system.programs import call, run_program

PACKAGES, ENVIRONMENT = "packages", "environment"
_PIP = (sys.executable, "-P", "-m", "pip")
_QUIETLY = ("--quiet", "--disable-pip-version-check", "--no-input")


def install(project: Path, place: Path, what: str) -> None:
    """Build a project's wheel, unpack it, and make an environment if it requires more packages.

    Args:
        project: the folder of its pyproject.toml.
        place: receives `PACKAGES`, and `ENVIRONMENT` if one is needed.
        what: the project's name in messages.

    Raises:
        BuildError: it does not build, or its requirements cannot be installed.
    """
    with tempfile.TemporaryDirectory(prefix="feedrate-", ignore_cleanup_errors=True) as folder:
        temporary = Path(folder)
        wheel = [*_PIP, "wheel", *_QUIETLY, "--no-deps", "-w", folder, str(project)]
        run_program(wheel, f"{what} does not build", temporary)
        packages = place / PACKAGES
        built = [str(path) for path in temporary.glob("*.whl")]
        alone = ("--no-deps", "--no-index", "--no-compile", "--target", str(packages))
        unpack = [*_PIP, "install", *_QUIETLY, *alone, *built]
        run_program(unpack, f"the wheel of {what} cannot be unpacked", temporary)
        if unmet := unmet_requirements(packages):
            _make_environment(place / ENVIRONMENT, unmet, what, temporary)
    # Compile now; otherwise the side that is launched first would. Files that cannot be compiled,
    # such as some packages' templates, are ignored.
    call([sys.executable, "-P", "-m", "compileall", "-q", str(packages)], os.environ)


def unmet_requirements(packages: Path) -> list[str]:
    """The unmet requirements of a wheel, including those of its extras that are in use here."""
    unmet = []
    for wheel in metadata.distributions(path=[str(packages)]):
        name = canonicalize_name(wheel.name)
        extras = ["", *(extra for extra in _extras(wheel) if _in_use(name, extra))]
        unmet += [
            str(requirement)
            for text in wheel.requires or ()
            if any(_applies(requirement := Requirement(text), extra) for extra in extras)
            and canonicalize_name(requirement.name) != name  # it may require its own extras
            and not _is_met(requirement)
        ]
    return list(dict.fromkeys(unmet))


def _extras(wheel: metadata.Distribution) -> Sequence[str]:
    return wheel.metadata.get_all("Provides-Extra") or ()


def _in_use(name: str, extra: str) -> bool:
    """Whether all packages that an extra of an installed package adds are installed here."""
    try:
        requires = metadata.distribution(name).requires or []
    except metadata.PackageNotFoundError:
        return False
    requirements = [Requirement(text) for text in requires]
    added = [one for one in requirements if _applies(one, extra) and not _applies(one, "")]
    others = [one for one in added if canonicalize_name(one.name) != name]
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


def _make_environment(
    environment: Path, requirements: Sequence[str], project: str, temporary: Path
) -> None:
    """Make a virtual environment that sees packages installed here, after its own."""
    # Installed with the pip that is here: an environment's own takes 4 s to make.
    venv = [sys.executable, "-P", "-m", "venv", "--without-pip", str(environment)]
    run_program(venv, f"no environment can be made for {project}")
    python = executable_of(environment)
    find_packages = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = run_program(find_packages, f"the environment of {project} does not work")
    # As site folders, not as plain paths, so that editable installs there are found.
    shared = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    lines = [f"import site; site.addsitedir({path!r})\n" for path in shared]
    Path(packages, "feedrate-gate.pth").write_text("".join(lines), encoding="utf-8")
    unmarked = [requirement.partition(";")[0].strip() for requirement in requirements]
    pip_install = [*_PIP, "--python", python, "install", *_QUIETLY, *unmarked]
    run_program(pip_install, f"the requirements of {project} cannot be installed", temporary)


def executable_of(environment: Path) -> str:
    """The interpreter of a virtual environment."""
    scripts = "Scripts" if os.name == "nt" else "bin"
    return str(environment / scripts / "python")
