"""Compare our loaders with their peers: `python -m benchmarks.peers --data DIR`.

The harness launches all loaders alternately in fresh processes, on flights, box scores and
lineitem, and compares the rows of each with the original's. The results go to `benchmarks/PEERS.md`
with two charts in `benchmarks/peers/`, without manual edits.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from feedrate.harness.datasets.data import write_box_scores, write_flights, write_lineitem
from feedrate.harness.plan.source import open_source
from feedrate.harness.plan.spec import TRAINING_BATCH_SIZE, Spec, Trial, make_trial
from feedrate.harness.plan.spec_file import SpecFile
from feedrate.harness.record.journal import Journal
from feedrate.harness.record.results import Header, Results, read_results
from feedrate.harness.record.speedup import format_times
from feedrate.harness.record.summary import RANKABLE_VERDICTS, Summary, compare_first, summarise
from feedrate.harness.run.child_executor import ChildExecutor
from feedrate.harness.run.launches import MEMORY_LAUNCHES
from feedrate.harness.run.scheduler import Scheduler
from feedrate.harness.system.formats import MISSING, format_bytes, format_seconds
from feedrate.harness.system.units import counted
from feedrate.loaders.base.machine import fingerprint, installed_version
from feedrate.loaders.base.settings import LoaderSettings
from feedrate.loaders.choosing.profile import Job
from feedrate.loaders.choosing.registry import get_backend
from feedrate.reports.charts import speedup_chart
from feedrate.reports.content import Chart
from feedrate.reports.images import write_charts

from .interleave import order_of
from .peer_loaders import FRAMES, STREAMS
from .search import say
from .table import markdown_table

ROUNDS, PASSES, TIMEOUT_S = 7, 2, 300.0
HERE = Path(__file__).parent
REPORT, PICTURES = HERE / "PEERS.md", HERE / "peers"
HEADINGS = ("Data", "Loader", "First pass", "Later", "Peak memory", "Times as fast", "Rows")
INTEGERS = ["l_orderkey", "l_partkey", "l_suppkey", "l_linenumber"]
OURS, NO_CACHE = "feedrate, ", ", no cache"
PEERS = ("duckdb", "datasets")  # the machine's fingerprint lacks their versions


@dataclass(frozen=True)
class Contest:
    """One job on one dataset, by all loaders."""

    data: str
    data_type: str
    job: Job
    columns: list[str] | None = None

    @property
    def loaders(self) -> dict[str, str]:
        """Backends by the names shown for them."""
        peers = FRAMES if self.job == "frame" else STREAMS
        own = {f"{OURS}{name}": name for name in ("pytorch", "tensorflow")}
        if self.job == "frame":
            own[f"{OURS}pytorch{NO_CACHE}"] = "pytorch"
        module = "benchmarks.peer_loaders"
        typed = {name: f"{module}:{loader.__name__}" for name, loader in peers.items()}
        return {"original": "original", **own, **typed}


CONTESTS = (
    Contest("flights, 365 files", "flights", "frame"),
    Contest("box scores", "box_scores", "frame"),
    Contest("lineitem, four integer columns", "lineitem", "frame", INTEGERS),
    Contest("lineitem, four integer columns", "lineitem", "stream", INTEGERS),
)


@dataclass(frozen=True)
class Found:
    """The result of a contest: the summary of each loader by its shown name."""

    contest: Contest
    results: Results
    found: dict[str, Summary]

    @property
    def original(self) -> Summary:
        """The summary of the original, with which all are compared."""
        return self.found["original"]


def measure(contest: Contest, storage: Path, folder: Path, rounds: int) -> Found:
    """Launch all loaders of a contest alternately in fresh processes."""
    source = open_source(os.fspath(storage), contest.data_type)
    data = source.trial_data({contest.job}, contest.columns, None, SpecFile(None, {}))
    trials = {
        name: _trial(contest, backend, len(source.files), name.endswith(NO_CACHE))
        for name, backend in contest.loaders.items()
    }
    header = Header(
        spec={"passes": PASSES, "rounds": rounds}, environment=fingerprint(),
        dataset=source.dataset, command="python -m benchmarks.peers",
    )  # fmt: skip
    path = folder / f"{contest.data_type}-{contest.job}.jsonl"
    with Journal.create(path, header) as journal, ExitStack() as stack:
        executor = ChildExecutor(data, TIMEOUT_S, page_cache="warm")
        stack.callback(executor.close)
        spec = Spec(passes=PASSES, budget=None, page_cache="warm")
        scheduler = Scheduler(spec, list(trials.values()), executor, journal)
        for turn in range(rounds):
            for name in order_of(list(trials), turn):
                say(f"{contest.data}, {contest.job}, round {turn + 1}: {name}", sys.stderr)
                scheduler.measure_new(trials[name], "confirming", turn)
        for turn in range(MEMORY_LAUNCHES):
            for trial in trials.values():
                scheduler.measure_new(trial, "memory", turn)
    results = read_results(path)
    by_trial = {one.trial: one for one in summarise(results.samples, results.passes)}
    return Found(contest, results, {name: by_trial[one.id] for name, one in trials.items()})


def _trial(contest: Contest, backend: str, files: int, plain: bool) -> Trial:
    cache = "none" if plain else "memory"
    settings = LoaderSettings(backend=backend, batch_size=TRAINING_BATCH_SIZE, cache=cache, seed=0)
    known = get_backend(backend)
    return make_trial(contest.job, known.normalized_for(contest.job, settings), files)


def rows(measured: Found) -> Iterator[tuple[str, ...]]:
    """The table's rows: the original first, then the fastest."""
    ordered = sorted(
        measured.found.items(),
        key=lambda item: (item[0] != "original", not item[1].totals, _first_s(item[1])),
    )
    for name, one in ordered:
        ratio = compare_first(measured.original, one) if one.verdict in RANKABLE_VERDICTS else None
        yield (
            f"{measured.contest.data}, {measured.contest.job}",
            f"**{name}**" if name.startswith(OURS) else name,
            format_seconds(one.first_s) if one.totals else MISSING,
            format_seconds(one.later_s),
            format_bytes(one.peak_pss_bytes),
            format_times(ratio),
            "the original's" if one.verdict in RANKABLE_VERDICTS else one.verdict,
        )


def _first_s(one: Summary) -> float:
    return one.first_s if one.totals else 0.0


def chart(measured: Found, name: str) -> Chart:
    """A chart of first-pass speedups over the original, of loaders with correct rows."""
    told = [
        {
            "loader": _whose(called), "name": called, "pass": "first pass",
            "speedup": ratio.estimate,
            "low": ratio.low, "high": ratio.high, "n": ratio.n,
            "confidence": f"{ratio.confidence:.0%}",
        }
        for called, one in measured.found.items()
        if one.verdict in RANKABLE_VERDICTS
        and (ratio := compare_first(measured.original, one)) is not None
    ]  # fmt: skip
    told.sort(key=lambda row: -float(str(row["speedup"])))
    contest = measured.contest
    return speedup_chart(
        name, f"{contest.job}, {contest.data}: first pass, times as fast as pandas", told
    )


def _whose(name: str) -> str:
    """The group that gives a loader its colour: there are more loaders than colours."""
    return "feedrate" if name.startswith(OURS) else name if name == "original" else "a peer"


def page(measured: Sequence[Found], command: str) -> str:
    """The table, two charts, the machine and the versions as Markdown."""
    header = measured[0].results.header
    machine = header.environment
    known = machine.versions | {name: found for name in PEERS if (found := installed_version(name))}
    versions = ", ".join(f"{name} {version}" for name, version in known.items())
    told = [row for one in measured for row in rows(one)]
    how = (
        f"Medians of alternating launches in fresh processes ({len(measured[0].original.totals)} "
        "rounds); each pass starts with the files in the page cache. Times as fast: the first "
        "pass, when no loader has anything cached, against the original's (Hodges-Lehmann ratio, "
        "paired by round, with its interval and confidence); ours fill "
        "their cache in it, unless they have none, and a later pass is from it. Rows: whether what "
        "was delivered is the original's, by a digest of names, types and values. Streams deliver "
        "float32 matrices; ours are shuffled, the peers' are not."
    )
    where = (
        f"{machine.cpu_model}, {counted(machine.effective_cpus, 'CPU')}, "
        f"{format_bytes(machine.memory_bytes)}; {machine.system}, Python {machine.python}, "
        f"{versions}; {header.created[:10]}; `{command}`"
    )
    shown = [f"![{name.title()}](peers/{name}.svg)" for name in ("frames", "streams")]
    return "\n\n".join(["\n".join(markdown_table(HEADINGS, told)), how, *shown, where])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write; 1 if a peer with correct rows is significantly faster than our best."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--data", type=Path, help="a storage; missing data are written there")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", help="run contests whose data or job contain this text")
    parser.add_argument("--results", type=Path, help="a folder for the journals")
    given = parser.parse_args(arguments)
    chosen = [one for one in CONTESTS if not given.only or given.only in f"{one.data} {one.job}"]
    with tempfile.TemporaryDirectory(prefix="feedrate-") as temporary:
        storage = given.data or Path(temporary, "data")
        _write_missing(storage, {one.data_type for one in chosen})
        folder = given.results or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        measured = [measure(one, storage, folder, given.rounds) for one in chosen]
    rounds = "" if given.rounds == ROUNDS else f" --rounds {given.rounds}"
    command = f"python -m benchmarks.peers{rounds}"
    for one in measured:
        say("\n".join(markdown_table(HEADINGS, list(rows(one)))))
    if len(measured) == len(CONTESTS):
        charts = [chart(measured[0], "frames"), chart(measured[-1], "streams")]
        write_charts(charts, PICTURES, ("svg",))
        title = "# Our loaders beside their peers\n\nWritten by the run itself.\n\n"
        REPORT.write_text(f"{title}{page(measured, command)}\n", encoding="utf-8")
    slower = [text for one in measured for text in _faster_peers(one)]
    for text in slower:
        say(f"MISSED: {text}")
    return 1 if slower else 0


def _write_missing(storage: Path, kinds: set[str]) -> None:
    makers = {"flights": write_flights, "box_scores": write_box_scores}
    for kind in sorted(kinds):
        if not (storage / kind).is_dir():
            if kind == "lineitem":
                write_lineitem(storage, scale=1)
            else:
                makers[kind](storage)


def _faster_peers(measured: Found) -> Iterator[str]:
    """Peers with correct rows that are significantly faster than our best on the first pass."""
    right = {name: one for name, one in measured.found.items() if one.verdict in RANKABLE_VERDICTS}
    where = f"{measured.contest.data}, {measured.contest.job}"
    ours = [one for name, one in right.items() if name.startswith(OURS)]
    if not ours:
        yield f"{where}: no loader of ours delivered the original's rows"
        return
    mine = min(ours, key=_first_s)
    for name, one in right.items():
        ratio = compare_first(mine, one)
        if not name.startswith(OURS) and ratio is not None and ratio.low > 1:
            yield f"{where}: {name} is {format_times(ratio)} as fast as our best"


if __name__ == "__main__":
    sys.exit(main())
