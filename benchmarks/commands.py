"""Time whole commands, as a user waits for them: `python -m benchmarks.commands --data DIR`.

A command is a process with all that it starts, from its start to its end. The revisions of a gate
are built before. The report goes to `benchmarks/COMMANDS.md`; it takes ten minutes or more.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import log
from pathlib import Path

from feedrate.harness.choose.recommendation import recommend_all
from feedrate.harness.gate.revisions import build
from feedrate.harness.record.results import read_sweep
from feedrate.harness.show.markdown import as_markdown_table
from feedrate.loaders.base.machine import fingerprint

REPORT = Path(__file__).parent / "COMMANDS.md"
PROJECT = Path(__file__).parent.parent
# Width, as a log ratio, of the interval of the same command's speedup before launches were forked:
# the mean of two runs, 0.39 and 0.71 (75%, n = 3).
WIDTH = 0.55
STRONG = ({"strong"}, {"tie"}, {"strong", "tie"})  # the answers of a command that needs no more
HEADINGS = ("command", "must be", "measured", "verdict")
SPEC = Path(__file__).parent / "gate.toml"
# Appended to a module: the loading that it defines takes a fifth longer.
SLOWER = """

def _slower(load):
    import time

    def slow(*arguments, **options):
        start = time.perf_counter()
        frame = load(*arguments, **options)
        time.sleep((time.perf_counter() - start) / 5)
        return frame

    return slow

"""
LOADER = """
import pandas as pd


def load(settings, files, columns, target, job):
    return pd.concat([pd.read_parquet(file, columns=columns) for file in files], ignore_index=True)


load.uses = set()
"""
PROJECT_FILE = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"
[project]
name = "plainload"
version = "1.0"
[tool.setuptools]
py-modules = ["plainload"]
"""


@dataclass(frozen=True)
class Timed:
    """A command that has ended."""

    seconds: float
    code: int
    out: str


def run(arguments: Sequence[str], folder: Path) -> Timed:
    """Run a command of feedrate in a folder."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "feedrate.harness", *arguments],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return Timed(time.perf_counter() - start, done.returncode, done.stdout)


def answers(timed: Timed, most_s: float, what: str) -> list[str]:
    """The row of a command that recommends: within its time, each answer strong or a tie."""
    strengths = re.findall(r"Evidence:\s(strong|tie|weak)\.", timed.out)
    met = timed.code == 0 and timed.seconds <= most_s and {*strengths} in STRONG
    measured = f"{timed.seconds:.0f} s, {' and '.join(strengths) or f'exit {timed.code}'}"
    return [what, f"≤ {most_s:.0f} s, strong or a tie", measured, "met" if met else "**missed**"]


def judged(timed: Timed, most_s: float, code: int, what: str) -> list[str]:
    """The row of a gate: within its time, and with the right exit status."""
    met = timed.code == code and timed.seconds <= most_s
    measured = f"{timed.seconds:.0f} s, exit {timed.code}"
    return [what, f"≤ {most_s:.0f} s, exit {code}", measured, "met" if met else "**missed**"]


def recommending(data: Path, folder: Path) -> Iterator[list[str]]:
    """Rows of the demo and of `tune`."""
    yield answers(run(["demo", "--out", "demo"], folder), 150, "`feedrate demo`")
    # The budget is in the command; a fifth more is allowed.
    journal = folder / "tune.jsonl"
    command = ["tune", str(data), "--budget", "60s", "--no-profile", "--results", str(journal)]
    yield answers(run(command, folder), 72, "`tune`, frames of flights, `--budget 60s`")
    (found,) = recommend_all(read_sweep(journal)).found
    if found.speedup is not None:
        width = log(found.speedup.high / found.speedup.low)
        n = f"{found.speedup.confidence:.0%}, n = {found.speedup.n}"
        verdict = "met" if width <= WIDTH / 2 else "**missed**"
        what = "… width of the interval of the speedup over all passes, log"
        yield [what, f"≤ {WIDTH / 2:.2f}", f"{width:.2f} ({n})", verdict]


def gates(data: Path, folder: Path) -> Iterator[list[str]]:
    """Rows of gates of this project's frames, with equal and with slower revisions."""
    repository = folder / "feedrate"
    git(folder, "clone", "-q", str(PROJECT), str(repository))
    reader = repository / "loaders" / "frames" / "reader.py"
    slower = f"{SLOWER}FrameReader.load = _slower(FrameReader.load)\n"
    commits = [*pair(repository, reader, slower)]
    common = ["gate", str(data), "--spec", str(SPEC), "--base", commits[0]]
    for head, most_s, code, what in ((1, 40, 0, "equal"), (2, 60, 1, "a fifth slower")):
        timed = run([*common, "--head", commits[head]], repository)
        yield judged(timed, most_s, code, f"`gate`, frames of flights and a control, {what}")


def gates_of_a_loader(data: Path, folder: Path) -> Iterator[list[str]]:
    """Rows of gates of plain pandas in another repository."""
    repository = folder / "plain"
    repository.mkdir()
    git(repository, "init", "-q", "-b", "main")
    module = repository / "plainload.py"
    module.write_text(LOADER)
    (repository / "pyproject.toml").write_text(PROJECT_FILE)
    commits = [*pair(repository, module, f"{SLOWER}load = _slower(load)\nload.uses = set()\n")]
    common = ["gate", str(data), "--loader", "plainload:load", "--base", commits[0]]
    for head, most_s, code, what in ((1, 75, 0, "equal"), (2, 150, 1, "a fifth slower")):
        timed = run([*common, "--head", commits[head]], repository)
        yield judged(timed, most_s, code, f"`gate --loader`, plain pandas on flights, {what}")


def pair(repository: Path, module: Path, addition: str) -> Iterator[str]:
    """Commit what is there, the same again, and a slower module; build all three."""
    for text in ("", "", addition):
        module.write_text(module.read_text() + text)
        git(repository, "add", "-A")
        git(repository, "commit", "-q", "--allow-empty", "-m", "revision")
        commit = git(repository, "rev-parse", "HEAD")
        build(commit, repository)
        yield commit


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder."""
    who = ["-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost"]
    done = subprocess.run(
        ["git", "-C", str(folder), *who, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def report(rows: Sequence[Sequence[str]]) -> str:
    """The page."""
    machine = fingerprint()
    about = (
        f"Written by `python -m benchmarks.commands` on {datetime.now(UTC):%Y-%m-%d}: "
        f"{machine.cpu_model}, {machine.effective_cpus} CPUs. Each command ran once; on a shared\n"
        "machine its time varies by half and more from day to day. Revisions were built before."
    )
    table = as_markdown_table(HEADINGS, rows, escaped=True)
    return f"# Whole commands\n\n{about}\n\n{table}\n"


def main() -> None:
    """Time the commands and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a storage with flights/")
    parser.add_argument("--report", type=Path, default=REPORT)
    options = parser.parse_args()
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["FEEDRATE_HOME"] = str(folder / "home")
        for part in (recommending, gates, gates_of_a_loader):
            for row in part(options.data.absolute(), folder):
                rows.append(row)
                sys.stdout.write(f"{json.dumps(row, ensure_ascii=False)}\n")
                sys.stdout.flush()
    options.report.write_text(report(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
