"""Measure how planning, streaming and tuning grow with the data: `python -m benchmarks.scale`.

Each point is a process of its own, with its time and its peak memory; points alternate in rounds.
A line with the least relative errors is fitted to the points, and is judged by how well it
predicts the largest point from the smaller ones. The figures go into docs/scale.md, between its
markers. It takes about half an hour; `--only NAME` measures one part again.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feedrate.harness.show.markdown import as_markdown_table
from feedrate.harness.system.formats import format_ratio
from feedrate.loaders.base.machine import fingerprint

PAGE = Path(__file__).parent.parent / "docs" / "scale.md"
BEGIN, END = "<!-- {}: measured -->", "<!-- {}: end -->"
FILES = (3_000, 10_000, 30_000, 100_000)
ROWS = (2_000_000, 20_000_000, 60_000_000, 200_000_000)
ROWS_A_FILE = 1_000_000
LINKS = 30_000  # of one file, of which ext4 allows 65,000
ROUNDS = 3
TO_PREDICT = {"files": 1_000_000, "rows": 1_000_000_000}
PLAN_LIMIT_S, PLAN_LIMIT_BYTES, TUNE_LIMIT_S = 10.0, 500 << 20, 72.0
RANKS_LEAST, RANKS_PAIRS, RANKS_ROWS = 0.85, 12, 1_000_000


@dataclass(frozen=True)
class Point:
    """One measurement: of how many files or rows, its seconds and its peak memory in bytes."""

    size: int
    seconds: float
    peak_bytes: float


def make_files(folder: Path, count: int, rows: int, columns: int = 2) -> Path:
    """A data type of `count` daily files of `rows` rows; they are links to a few real files."""
    target = folder / "days"
    target.mkdir(parents=True)
    random = np.random.default_rng(0)
    first = np.datetime64("1800-01-01")
    real: list[Path] = []
    for number in range(count):
        path = target / f"{str(first + number).replace('-', '')}.parquet"
        if number % LINKS == 0 or (rows >= ROWS_A_FILE and number < 4):
            values = {f"x{at}": random.random(rows, np.float32) for at in range(columns)}
            pq.write_table(pa.table(values), path, compression="none", use_dictionary=False)
            real.append(path)
        else:
            path.hardlink_to(real[number % len(real)] if rows >= ROWS_A_FILE else real[-1])
    return folder


def measure_plan(folder: str) -> None:
    """List, date and sample files, and plan a sweep of them."""
    from feedrate.harness.plan.spec import Spec
    from feedrate.harness.plan.spec_file import SpecFile
    from feedrate.harness.run.opening import Run

    with tempfile.TemporaryDirectory() as scratch:
        results = Path(scratch, "results.jsonl")
        run = Run.open(folder, Spec(), SpecFile(None, {}), results, "scale", resume=False)
        run.journal.close()


def measure_footers(folder: str) -> None:
    """Open a stream of all files, which reads their footers, and take its first batch."""
    next(iter(_stream(folder)))


def measure_stream(folder: str) -> None:
    """Stream an epoch of all rows in shuffled batches."""
    for _ in _stream(folder):
        pass


def _stream(folder: str) -> Any:
    from feedrate.loaders import ParquetStorage, PyTorchDataLoader, StreamingParquetDataset

    files = ParquetStorage(folder).files("days")
    dataset = StreamingParquetDataset(files, ["x0", "x1"])
    return PyTorchDataLoader(2).create_dataloader(dataset, batch_size=4096, seed=0)


IMPORTS = {
    "plan": "feedrate.harness.run.opening",
    "footers": "feedrate.loaders.pytorch.feed",
    "stream": "feedrate.loaders.pytorch.feed",
}
MEASURES: dict[str, Callable[[str], None]] = {
    "plan": measure_plan,
    "footers": measure_footers,
    "stream": measure_stream,
}


def point(name: str, folder: Path, size: int) -> Point:
    """Measure in a new process, which imports what it needs before."""
    command = [sys.executable, "-m", "benchmarks.scale", "--point", name, "--folder", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    answer = json.loads(done.stdout)
    return Point(size, answer["seconds"], answer["peak_bytes"])


def print_point(name: str, folder: str) -> None:
    """Measure here and print the figures; the peak includes what was imported."""
    importlib.import_module(IMPORTS[name])  # before the clock starts

    began = time.perf_counter()
    MEASURES[name](folder)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    sys.stdout.write(json.dumps({"seconds": seconds, "peak_bytes": peak}))


def fit(points: Sequence[Point], of: Callable[[Point], float]) -> tuple[float, float]:
    """The line a + b·size with the least relative errors, by the medians of each size."""
    sizes = sorted({one.size for one in points})
    values = [median(of(one) for one in points if one.size == size) for size in sizes]
    weights = 1 / np.array(values)
    matrix = np.stack([np.ones(len(sizes)), np.array(sizes, float)], axis=1)
    solved, *_ = np.linalg.lstsq(matrix * weights[:, None], np.array(values) * weights, rcond=None)
    return float(solved[0]), float(solved[1])


def growth(points: Sequence[Point], unit: str) -> list[list[str]]:
    """The rows of a table: each size, and the predictions of the largest and of more."""
    sizes = sorted({one.size for one in points})
    rows = [[f"{size:,} {unit}", *_measured(points, size), ""] for size in sizes]
    smaller = [one for one in points if one.size != sizes[-1]]
    predicted = [
        line[0] + line[1] * sizes[-1] for line in (fit(smaller, _seconds), fit(smaller, _peak))
    ]
    actual = [
        median(of(one) for one in points if one.size == sizes[-1]) for of in (_seconds, _peak)
    ]
    rows[-1][3] = ", ".join(
        f"{name} {(guess - true) / true:+.0%}"
        for name, guess, true in zip(("time", "memory"), predicted, actual, strict=True)
    )
    size = TO_PREDICT[unit]
    seconds, peak = (
        line[0] + line[1] * size for line in (fit(points, _seconds), fit(points, _peak))
    )
    rows.append([f"{size:,} {unit}, predicted", f"{seconds:.3g} s", f"{peak / 2**20:,.0f} MiB", ""])
    return rows


def _seconds(one: Point) -> float:
    return one.seconds


def _peak(one: Point) -> float:
    return one.peak_bytes


def _measured(points: Sequence[Point], size: int) -> list[str]:
    same = [one for one in points if one.size == size]
    seconds = [one.seconds for one in same]
    peak = median(one.peak_bytes for one in same)
    spread = f" ({min(seconds):.3g} to {max(seconds):.3g})" if len(seconds) > 1 else ""
    return [f"{median(seconds):.3g} s{spread}", f"{peak / 2**20:,.0f} MiB"]


HEADINGS = ("", "time", "peak memory", "predicted from the smaller ones")


def measure_growth(name: str, folders: dict[int, Path], rounds: int) -> list[Point]:
    """The points of all sizes, in rounds."""
    return [point(name, folder, size) for _ in range(rounds) for size, folder in folders.items()]


def measure_files(scratch: Path) -> dict[str, str]:
    """Planning, and the footers of a stream, by the number of files."""
    folders = {count: make_files(scratch / f"f{count}", count, 50) for count in FILES}
    planned = measure_growth("plan", folders, ROUNDS)
    footers = measure_growth("footers", folders, ROUNDS)
    most = [one for one in planned if one.size == FILES[-1]]
    seconds, peak = median(map(_seconds, most)), median(map(_peak, most))
    holds = seconds <= PLAN_LIMIT_S and peak <= PLAN_LIMIT_BYTES
    required = (
        f"Required: {FILES[-1]:,} files planned within {PLAN_LIMIT_S:.0f} s and "
        f"{PLAN_LIMIT_BYTES >> 20} MiB: {_verdict(holds)}."
    )
    return {
        "planning": f"{as_markdown_table(HEADINGS, growth(planned, 'files'))}\n\n{required}",
        "footers": as_markdown_table(HEADINGS, growth(footers, "files")),
    }


def measure_tuning(scratch: Path) -> dict[str, str]:
    """A tune with a budget of 60 s: of very many tiny files, and of very many rows."""
    rows = []
    for count in (20_000, FILES[-1]):
        folder = make_files(scratch / f"t{count}", count, 50)
        rows.append([f"frame, {count:,} files of 50 rows", *_tuned(folder)])
    folder = make_files(scratch / "rows", ROWS[-1] // ROWS_A_FILE, ROWS_A_FILE)
    rows.append([f"stream, {ROWS[-1]:,} rows", *_tuned(folder, "--job", "stream")])
    return {"tuning": as_markdown_table(("tune with a budget of 60 s", "time", "answer"), rows)}


def measure_rows(scratch: Path) -> dict[str, str]:
    """Streaming by the number of rows."""
    folders = {
        rows: make_files(scratch / f"r{rows}", rows // ROWS_A_FILE, ROWS_A_FILE) for rows in ROWS
    }
    streamed = measure_growth("stream", folders, ROUNDS)
    return {"streaming": as_markdown_table(HEADINGS, growth(streamed, "rows"))}


def _tuned(folder: Path, *flags: str) -> list[str]:
    """The time of a tune with a budget of 60 s, and its answer."""
    with tempfile.TemporaryDirectory() as home:
        profile = Path(home, "profile.json")
        command = [sys.executable, "-m", "feedrate.harness", "tune", str(folder), "--budget", "60s"]
        began = time.perf_counter()
        done = subprocess.run(
            [*command, "--json", "--profile", str(profile), *flags],
            check=True, stdout=subprocess.PIPE, env={**os.environ, "FEEDRATE_HOME": home},
        )  # fmt: skip
        took = time.perf_counter() - began
        (found,) = json.loads(done.stdout)["recommendations"]
        verdict = _verdict(took <= TUNE_LIMIT_S and profile.exists())
        answer = f"{format_ratio(found['speedup'])} plain pandas, {found['evidence']}"
        return [f"{took:.1f} s (≤ {TUNE_LIMIT_S:.0f} s: {verdict})", answer]


def measure_ranks(scratch: Path) -> dict[str, str]:
    """Two ranks at once, beside twice one rank that has half of the CPUs to itself."""
    rows = []
    for title, folder in (
        ("float64, as pandas writes it", write_frames(scratch / "pandas")),
        ("float32, uncompressed", make_files(scratch / "plain", 40, RANKS_ROWS // 40, columns=9)),
    ):
        for job in ("frame", "stream"):
            ratios = _of_two_ranks(folder, job)
            holds = median(ratios) >= RANKS_LEAST
            figure = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            rows.append([f"{job}, {title}", figure, f"≥ {RANKS_LEAST}: {_verdict(holds)}"])
    headings = ("job and data", "two ranks / twice one rank", "required")
    return {"ranks": as_markdown_table(headings, rows)}


def write_frames(folder: Path) -> Path:
    """The same number of rows and columns in as many files, written by pandas' defaults."""
    (folder / "days").mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(40):
        values = {f"x{at}": random.random(RANKS_ROWS // 40) for at in range(9)}
        day = str(np.datetime64("2020-01-01") + number).replace("-", "")
        pd.DataFrame(values).to_parquet(folder / "days" / f"{day}.parquet")
    return folder


def _of_two_ranks(folder: Path, job: str) -> list[float]:
    """The rows/s of two ranks over twice those of one with half of the CPUs, pair by pair."""
    from feedrate.harness.plan.spec import make_trial
    from feedrate.harness.run.child_executor import ChildExecutor
    from feedrate.harness.system.ranks import local_ranks
    from feedrate.harness.trial.work import Data
    from feedrate.loaders.base.settings import LoaderSettings

    paths = sorted(map(str, (folder / "days").iterdir()))
    names = [f"x{at}" for at in range(9)]
    data = Data(paths=paths, columns=None, features=names[:-1], target=names[-1])
    settings = LoaderSettings(backend="pytorch", num_workers=1, cache="none", batch_size=1024)
    trial = make_trial(job, settings, len(paths))
    allowed = sorted(os.sched_getaffinity(0))
    half = allowed[: len(allowed) // 2]

    def rate(ranks: int, cpus: Sequence[int]) -> float:
        os.sched_setaffinity(0, cpus)
        try:
            with local_ranks(ranks), ChildExecutor(data, 60.0, ranks=ranks) as executor:
                run = executor.run(trial, "confirming", passes=3, verify=False)
        finally:
            os.sched_setaffinity(0, allowed)
        if run.verdict is not None:
            raise RuntimeError(f"{run.verdict}: {run.message}")
        seconds = median(one.metrics["wall_s"] or 0.0 for one in run.passes)
        return ranks * run.passes[0].rows / seconds

    ratios = []
    for pair in range(RANKS_PAIRS):
        sides = [(2, allowed), (1, half)]
        rates = {ranks: rate(ranks, cpus) for ranks, cpus in (sides if pair % 2 else sides[::-1])}
        ratios.append(rates[2] / (2 * rates[1]))
    return ratios


def measure_ray(scratch: Path) -> dict[str, str]:
    """A tune of flights here, and on a Ray cluster of this machine alone."""
    from feedrate.harness import tune, tune_on_ray
    from feedrate.harness.datasets.data import write_flights

    made = write_flights(scratch / "flights")
    options: dict[str, Any] = {
        "backends": ["pytorch"], "budget": "60s", "progress": False, "profile": False,
    }  # fmt: skip
    here = tune(made.root, **options)
    (there,) = tune_on_ray(made.root, address="local", **options).machines
    if there.outcome is None:
        raise RuntimeError(f"the tune on Ray failed: {there.error}")
    rows = []
    chosen = [one.recommendations[0] for one in (here, there.outcome)]
    for name, found in zip(("here", "--ray local"), chosen, strict=True):
        speedup = format_ratio(found.speedup.estimate if found.speedup else None)
        rows.append([name, found.chosen.trial, speedup, f"{found.strength}: {found.why}"])
    costs = {one.trial: one.total_s for one in chosen[0].candidates}
    other = costs.get(chosen[1].chosen.trial)
    ratio = float("nan") if other is None else other / costs[chosen[0].chosen.trial]
    tie = here.results.header.spec["tie"]
    text = f"Here, the choice of `--ray local` takes {ratio:.2f} times as long as the choice here"
    table = as_markdown_table(("tune of flights", "choice", "speedup", "evidence"), rows)
    return {"ray": f"{table}\n\n{text} (≤ {tie}: {_verdict(ratio <= tie)})."}


def measure_cluster(_: Path) -> dict[str, str]:
    """The schedule of a sweep on simulated nodes."""
    from .cluster import simulate, sweep_of

    _spec, scheduler = sweep_of(jobs=3, files=1200, repeats=10)
    rows = []
    for nodes, dying in (
        (1, {}), (8, {}), (16, {}), (32, {}), (64, {}), (64, {3: 100.0, 17: 500.0, 40: 700.0}),
    ):  # fmt: skip
        went = simulate(scheduler, nodes, dying=dying)
        deaths = f", {len(dying)} of which die" if dying else ""
        rows.append(
            [
                f"{nodes}{deaths}",
                f"{went.launches:,}",
                f"{went.seconds / 60:,.0f} min",
                f"{went.efficiency:.0%}",
                f"{went.share_on_original_node:.0%}",
                str(went.repeated),
            ]
        )
    headings = ("nodes", "launches", "time", "of it at work", "beside their original", "repeated")
    return {"cluster": as_markdown_table(headings, rows)}


def _verdict(holds: bool) -> str:
    return "met" if holds else "MISSED"


PARTS: dict[str, Callable[[Path], dict[str, str]]] = {
    "files": measure_files,
    "rows": measure_rows,
    "tuning": measure_tuning,
    "ranks": measure_ranks,
    "ray": measure_ray,
    "cluster": measure_cluster,
}


def with_tables(text: str, tables: dict[str, str]) -> str:
    """A page with new tables between their markers."""
    for name, table in tables.items():
        before, begin, rest = text.partition(BEGIN.format(name))
        _, end, after = rest.partition(END.format(name))
        if not begin or not end:
            raise ValueError(f"{PAGE.name} has no place for {name}")
        text = f"{before}{begin}\n\n{table}\n\n{end}{after}"
    return text


def main() -> None:
    """Measure the parts, and write their tables into the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="measure only this part")
    parser.add_argument("--point", choices=MEASURES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.point:
        print_point(given.point, given.folder)
        return
    machine = fingerprint()
    for name in given.only or PARTS:
        with tempfile.TemporaryDirectory() as scratch:
            tables = PARTS[name](Path(scratch))
        when = f"{machine.cpu_model}, {machine.effective_cpus} CPUs, {datetime.now(UTC):%Y-%m-%d}"
        tables = {title: f"{table}\n\n({when})" for title, table in tables.items()}
        PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), tables), encoding="utf-8")


if __name__ == "__main__":
    main()
