"""Options, fixtures that run the comparisons, and the table of requirements at the end."""

from __future__ import annotations

import datetime as dt
import shlex
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from feedrate.loaders.base.machine import fingerprint

from . import plan
from .data import Setup, make_data
from .interleave import Comparison, Measured, UnavailableError
from .requirements import exit_status
from .table import HEADINGS, LIMIT_HEADINGS, Run, as_text, write

RUN = pytest.StashKey[Run]()
PACKAGES = (
    "numpy", "pandas", "pyarrow", "polars", "duckdb", "torch", "tensorflow", "tensorflow-cpu",
    "keras", "datasets", "ray", "pytest-benchmark",
)  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the suite's options."""
    group = parser.getgroup("feedrate benchmarks")
    group.addoption(
        "--requirements",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="write the table of requirements to FILE, as JSON if it ends in .json, else Markdown",
    )
    group.addoption(
        "--rounds",
        type=int,
        metavar="N",
        help="rounds of every comparison; each has its own number by default",
    )
    group.addoption(
        "--data",
        type=Path,
        metavar="DIR",
        help="a folder with flights and lineitem, which are written there if they are missing",
    )
    group.addoption(
        "--worker-data",
        type=float,
        default=1.0,
        metavar="GIB",
        help="how much data worker processes share, in GiB (default: 1)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Record the date, the command, the machine and the versions of packages."""
    config.stash[RUN] = Run(
        date=dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=shlex.join(["pytest", *sys.argv[1:]]),
        machine=fingerprint(),
        versions={name: version for name in PACKAGES if (version := _version(name))},
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@pytest.fixture(scope="session")
def setup(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    """The data, written if missing."""
    folder = request.config.getoption("data") or tmp_path_factory.mktemp("data")
    make_data(folder)
    scratch = tmp_path_factory.mktemp("scratch")
    gib = request.config.getoption("worker_data")
    return Setup(str(folder.absolute()), str(scratch), gib)


@pytest.fixture(scope="session")
def measured(request: pytest.FixtureRequest, setup: Setup) -> Callable[[Comparison], Measured]:
    """Measure a comparison on first use; all its sides share the result."""
    config = request.config
    failed: dict[str, Exception] = {}

    def once(comparison: Comparison) -> Measured:
        done = config.stash[RUN].measured
        if comparison.name in failed:
            raise failed[comparison.name]
        if comparison.name not in done:
            rounds = config.getoption("rounds") or comparison.rounds
            try:
                done[comparison.name] = comparison, plan.run(comparison, setup, rounds)
            except (UnavailableError, RuntimeError) as error:
                failed[comparison.name] = error
                raise
        return done[comparison.name][1]

    return once


@pytest.hookimpl(trylast=True)  # below pytest-benchmark's tables
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the requirements with their measurements."""
    run = terminalreporter.config.stash[RUN]
    if not run.measured:
        return
    if run.outcomes:
        terminalreporter.section("requirements")
        for line in as_text(HEADINGS, run.requirement_rows()):
            terminalreporter.line(line)
    if run.limits:
        terminalreporter.section("how close to the limit")
        for line in as_text(LIMIT_HEADINGS, run.limit_rows()):
            terminalreporter.line(line)
    terminalreporter.line("")
    terminalreporter.line(run.summary())


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write the requested files; fail if a requirement is missed, or nothing was measured."""
    if session.config.option.collectonly:
        return
    run = session.config.stash[RUN]
    for path in session.config.getoption("requirements"):
        write(run, path)
    failed = exit_status(run.outcomes) if run.outcomes else not run.measured
    if exitstatus == pytest.ExitCode.OK and failed:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
