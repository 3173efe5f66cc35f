"""The demo: real flights, a tuned profile, and the production loader that uses it."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

from rich.console import Console

from ...loaders import HistoricalDataLoader, OptimizedHistoricalDataLoader, ParquetStorage
from ...loaders.base.errors import FeedrateError, InputError, StorageError
from ...loaders.choosing.profile import Profile
from ..choose.recommendation import Advice
from ..datasets.data import write_flights
from ..record.results import read_results
from ..run.tuner import Outcome, tune
from ..show.progress import Progress
from ..show.terminal import sweep_view
from ..show.text import Text
from ..system.formats import format_seconds
from .chatter import without_chatter

FILE_COUNTS = [30, 365]  # a month and the year
WORKERS = [0, 1, 2]
_REPORTS = ("report.html", "report.md", "report-charts")
_FLIGHTS = re.compile(r"flights_2013\d{4}\.parquet$")
BUDGET_S = 130.0  # of the README's four minutes: data, report and last loads take the rest


def run_demo(out: Path, progress: Progress, console: Console) -> Outcome:
    """Run all steps once, and leave data, results, report and profile in one folder.

    Args:
        out: the folder; data from an earlier demo there is used again.
        progress: is notified of phases and runs.
        console: receives the output.

    Raises:
        InputError: the folder holds files that no demo has made.
        StorageError: the folder cannot be written.
    """
    _make_folder(out)
    data = out / "data"
    results, profile = out / "results.jsonl", out / "profile.json"
    if not (data / "flights").is_dir():
        _step(console, f"1. All flights out of New York in 2013, one file a day: {data}")
        write_flights(data)
    _step(console, "2. Measure three loaders with different settings")
    outcome = _tuned(data, results, profile, progress)
    console.print(sweep_view(outcome.results, outcome.recommendations))
    reports = _write_reports(out, results, outcome, console)
    _step(console, "3. What the production loader does with the profile")
    _production(ParquetStorage(data), profile, console)
    files = ", ".join(["data", results.name, profile.name, *reports])
    _step(console, f"Everything is in {out.resolve()}: {files}")
    return outcome


def _make_folder(out: Path) -> None:
    _check_folder(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot write {out}: {error.strerror or error}; choose a folder with --out"
        ) from error


def _tuned(data: Path, results: Path, profile: Path, progress: Progress) -> Outcome:
    """Tune; results and profile of an earlier demo are removed first."""
    results.unlink(missing_ok=True)
    profile.unlink(missing_ok=True)
    return tune(
        data,
        jobs=["frame", "batches"],
        data_type="flights",
        files=FILE_COUNTS,
        workers=WORKERS,
        budget=BUDGET_S,
        results=results,
        profile=profile,
        progress=progress,
        command=shlex.join(["feedrate", "demo", "--out", str(results.parent)]),
    )


def _write_reports(out: Path, results: Path, outcome: Outcome, console: Console) -> list[str]:
    """Write the reports if their modules are installed; return the files' names."""
    from .report_commands import missing_modules, write_reports

    if missing_modules():
        console.print("no report is written: that needs pip install 'feedrate[reports]'")
        return []
    page, text = out / "report.html", out / "report.md"
    advice = Advice(outcome.recommendations)
    write_reports({results: outcome.results}, {results: advice}, html=page, markdown=text)
    return [text.name, page.name]


def _check_folder(out: Path) -> None:
    """Raise `InputError` before writing if a folder holds files that no demo has made."""
    strange = next(_of_others(out), None) if out.is_dir() else None
    if strange is not None:
        raise InputError(
            f"{out} holds {strange.relative_to(out)}, which no demo has made; name a new folder "
            "with --out, or that of an earlier demo"
        )


def _of_others(out: Path) -> Iterator[Path]:
    """The files in a folder that no demo has made; hidden files do not count."""
    made_by = {"results.jsonl": _command_of_results, "profile.json": _command_of_profile}
    for path in _shown(out):
        if path.name == "data" and path.is_dir():
            yield from (one for one in _shown(path) if one.name != "flights")
            yield from (one for one in _shown(path / "flights") if not _FLIGHTS.match(one.name))
        elif path.name in made_by:
            if not made_by[path.name](path).startswith("feedrate demo"):
                yield path
        elif path.name not in _REPORTS:
            yield path


def _shown(folder: Path) -> list[Path]:
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in paths if not path.name.startswith(".")]


def _command_of_results(path: Path) -> str:
    try:
        return read_results(path).header.command
    except FeedrateError:
        return ""


def _command_of_profile(path: Path) -> str:
    try:
        return Profile.load(path).command
    except FeedrateError:
        return ""


def _production(storage: ParquetStorage, profile: Path, console: Console) -> None:
    """Load by the original, then twice by the profile: a cache helps from the second load on."""
    loader = OptimizedHistoricalDataLoader(storage, profile=profile)
    console.print(Text(f"OptimizedHistoricalDataLoader(storage, profile={str(profile)!r})"))
    console.print(Text(loader.explain()))
    # The first large load of a process imports a lot.
    with without_chatter():
        OptimizedHistoricalDataLoader(storage, profile=profile).load_files(storage.files("flights"))
    days = ("20130101", "20131231", ["flights"])
    for name, load in (
        ("HistoricalDataLoader", HistoricalDataLoader(storage).load_historical_data),
        ("Optimized, first load", loader.load_historical_data),
        ("Optimized, again", loader.load_historical_data),
    ):
        start = perf_counter()
        rows = len(load(*days)["flights"])
        console.print(f"{name:22} {rows:,} rows in {format_seconds(perf_counter() - start)}")


def _step(console: Console, text: str) -> None:
    console.print(Text(f"\n{text}", style="bold"))
    sys.stdout.flush()
