"""Compare forked launches with launches in new processes: `python -m benchmarks.launches`.

The same trial is launched many times in a new process, as a fork of one server and as a fork of
another, alternately, so that differences are only noise. The report has the variation, the cost of
a launch, and how often an interval for the ratio of two launches contains the true value. Both
servers are replaced after some rounds (a block). Launches of a block share the state of the machine
and the noise of their servers; in the ratio of two launches of a round the machine cancels out, so
the variation between blocks is that of the servers. The report goes to `benchmarks/LAUNCHES.md`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from pathlib import Path
from statistics import median

import numpy as np
from feedrate.harness.run.child_process import ChildProcess
from feedrate.harness.run.forks import ForkServer
from feedrate.harness.run.process_start import START_TIMEOUT_S, Fresh, Starter
from feedrate.harness.trial.protocol import Done, Go, Imports, OpenData, PassDone, Ready, RunTrial
from feedrate.harness.trial.work import Data
from feedrate.loaders.base.settings import LoaderSettings
from feedrate.loaders.choosing.profile import Job
from scipy.stats import f, t

REPORT = Path(__file__).parent / "LAUNCHES.md"
WAYS = ("new", "fork", "other fork")
RATIOS = (("fork", "other fork"), ("fork", "new"), ("other fork", "new"))
ROUNDS, ROUNDS_A_SERVER = (6, 12, 24), (1, 2, 4, 6)
RESAMPLED = 4000
PASSES = 1
BLOCK = 6  # rounds after which both servers are replaced
FEATURES, TARGET = ["dep_time", "distance", "hour"], "day"
TRIALS: Mapping[str, tuple[Job, LoaderSettings]] = {
    "frame, pytorch": ("frame", LoaderSettings(backend="pytorch", num_workers=2, cache="none")),
    "batches, pytorch": (
        "batches",
        LoaderSettings(backend="pytorch", num_workers=2, cache="none", batch_size=1024),
    ),
}
IMPORTS: Mapping[Job, Imports] = {"frame": Imports(), "batches": Imports(modules=("torch",))}


@dataclass(frozen=True)
class Sample:
    """One launch."""

    way: str
    trial: str
    block: int
    """The number of its block."""
    seconds: tuple[float, ...]
    """Of each pass."""
    cost: float
    """Seconds from the start to the end of the process."""


def launch(starter: Starter, data: Data, name: str) -> tuple[tuple[float, ...], float]:
    """Launch a trial once; return the seconds of its passes, and of the whole launch."""
    job, settings = TRIALS[name]
    began = time.perf_counter()
    child = ChildProcess(1, starter)
    try:
        child.say(OpenData(data))
        child.say(
            RunTrial(
                job=job, settings=settings, files=len(data.paths), passes=PASSES, verify=False,
                transfer=False,
            )
        )  # fmt: skip
        child.hear(Ready, START_TIMEOUT_S)
        seconds = []
        for _ in range(PASSES):
            child.say(Go())
            seconds.append(float(child.hear(PassDone, START_TIMEOUT_S).metrics["wall_s"] or 0))
        child.say(Go())
        child.hear(Done, START_TIMEOUT_S)
    finally:
        child.close()
    return tuple(seconds), time.perf_counter() - began


def samples(data: Data, launches: int, name: str, first: int) -> Iterator[Sample]:
    """Launch a trial in all ways, in random order each round; number blocks from `first`."""
    draw = random.Random(first)  # noqa: S311 - no secret
    for block in range(first, first + launches // BLOCK):
        servers = [ForkServer(IMPORTS[TRIALS[name][0]]) for _ in range(2)]
        try:
            for _ in range(BLOCK):
                order = list(zip(WAYS, (Fresh(), *servers), strict=True))
                draw.shuffle(order)
                for way, starter in order:
                    seconds, cost = launch(starter, data, name)
                    yield Sample(way, name, block, seconds, cost)
        finally:
            for server in servers:
                server.close()


Blocks = list[np.ndarray]
"""Values of the rounds of each block."""


@dataclass(frozen=True)
class Components:
    """Standard deviations by a one-way random effects model, from mean squares.

    Source: Searle, Casella and McCulloch (1992), Variance Components, section 3.6; the limit by the
    exact interval for the ratio of variances, section 3.6d.
    """

    total: float
    within: float
    between: float
    """Between blocks; 0 if they differ less than chance explains."""
    at_most: float
    """The upper limit of `between`, with 95% confidence."""

    @classmethod
    def of(cls, blocks: Blocks) -> Components:
        """Estimate them from blocks of equal size."""
        size, count = len(blocks[0]), len(blocks)
        inside = float(np.mean([np.var(one, ddof=1) for one in blocks]))
        ratio = size * float(np.var([np.mean(one) for one in blocks], ddof=1)) / inside
        highest = ratio / float(f.ppf(0.05, count - 1, count * (size - 1)))
        total = float(np.std(np.concatenate(blocks), ddof=1))
        between, at_most = (sqrt(max(0.0, (one - 1) * inside / size)) for one in (ratio, highest))
        return cls(total, sqrt(inside), between, at_most)


def logs(some: Sequence[Sample]) -> Blocks:
    """The log times of first passes, by block, without incomplete blocks."""
    blocks: dict[int, list[float]] = defaultdict(list)
    for one in some:
        blocks[one.block].append(log(one.seconds[0]))
    return [np.array(one) for one in blocks.values() if len(one) == BLOCK]


def coverage(blocks: Blocks, rounds: int, per_server: int) -> tuple[float, float]:
    """How often 95% intervals for a log ratio contain the mean of all, and their median width.

    Args:
        blocks: log ratios.
        rounds: rounds of a resampled run.
        per_server: consecutive rounds taken from a block.

    Returns:
        The share of resampled runs, and the ratio of the upper to the lower end, minus 1.
    """
    draw = np.random.default_rng(0)
    truth = float(np.mean(np.concatenate(blocks)))
    held, widths = 0, []
    for _ in range(RESAMPLED):
        values = []
        for at in draw.integers(len(blocks), size=rounds // per_server):
            first = draw.integers(BLOCK - per_server + 1)
            values.append(blocks[at][first : first + per_server])
        every = np.concatenate(values)
        half = t.ppf(0.975, len(every) - 1) * np.std(every, ddof=1) / sqrt(len(every))
        held += abs(float(np.mean(every)) - truth) <= half
        widths.append(exp(2 * half) - 1)
    return held / RESAMPLED, float(np.median(widths))


def report(every: Sequence[Sample]) -> Iterator[str]:
    """The results in Markdown."""
    names = list(dict.fromkeys(one.trial for one in every))
    by = {
        (name, way): [one for one in every if (one.trial, one.way) == (name, way)]
        for name in names
        for way in WAYS
    }
    counts = " and ".join(f"{len(by[name, WAYS[0]])}" for name in names)
    yield "# Launches by fork\n"
    yield (
        f"`python -m benchmarks.launches`: {counts} times each of {' and '.join(names)} in new "
        "processes, and as often as forks of one server and of another, alternately; both servers "
        f"are replaced after {BLOCK} rounds (a block). Flights, a pass without a cache. Standard "
        "deviations are of logs.\n"
    )
    spread = "sd | within blocks | between blocks | at most"
    yield f"| trial | launches | number | cost | median | {spread} |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for (name, way), some in by.items():
        middle = median(one.seconds[0] for one in some)
        cost = median(one.cost for one in some)
        found = _shown(Components.of(logs(some)))
        yield (f"| {name} | {way} | {len(some)} | {cost:.2f} s | {middle * 1e3:.0f} ms | {found} |")
    yield (
        "\nRatios of two launches of the same round. Between blocks, they differ by the noise of "
        "servers: of two for a ratio of forks, of one for a fork and a new process.\n"
    )
    yield f"| trial | ratio | pairs | {spread} |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: |"
    for name in names:
        for one, other in RATIOS:
            blocks = _ratios(by[name, one], by[name, other])
            count = sum(map(len, blocks))
            yield f"| {name} | {one} / {other} | {count} | {_shown(Components.of(blocks))} |"
    yield "\n95% intervals for such ratios over resampled runs.\n"
    yield "| trial | ratio | rounds | rounds a server | held | width |"
    yield "| --- | --- | ---: | ---: | ---: | ---: |"
    for name in names:
        for one, other in RATIOS[:2]:
            blocks = _ratios(by[name, one], by[name, other])
            for rounds in ROUNDS:
                for size in ROUNDS_A_SERVER:
                    if rounds % size == 0:
                        held, width = coverage(blocks, rounds, size)
                        start = f"| {name} | {one} / {other} | {rounds} | {size}"
                        yield f"{start} | {held:.1%} | {width:.1%} |"


def _ratios(some: Sequence[Sample], others: Sequence[Sample]) -> Blocks:
    return [one - other for one, other in zip(logs(some), logs(others), strict=True)]


def _shown(found: Components) -> str:
    return " | ".join(
        f"{sd:.3f}" for sd in (found.total, found.within, found.between, found.at_most)
    )


def read(path: Path) -> list[Sample]:
    """Read the samples of earlier launches."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [Sample(**json.loads(line)) for line in lines]


def main() -> None:
    """Launch if there are data, and report all samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a folder with flights/; without it, only report")
    parser.add_argument(
        "--launches", type=int, default=204, help=f"of each trial each way, in blocks of {BLOCK}"
    )
    parser.add_argument("--trial", action="append", choices=list(TRIALS), help="default: all")
    parser.add_argument(
        "--samples", type=Path, required=True, help="JSON lines, which are added to"
    )
    parser.add_argument("--report", type=Path, default=REPORT)
    options = parser.parse_args()
    if options.data is not None:
        if options.launches < 2 * BLOCK:
            parser.error(f"--launches: at least {2 * BLOCK}, two blocks")
        paths = sorted(map(str, (options.data / "flights").glob("*.parquet")))
        data = Data(paths=paths, columns=None, features=FEATURES, target=TARGET)
        known = read(options.samples)
        with options.samples.open("a") as out:
            for name in options.trial or TRIALS:
                first = 1 + max((one.block for one in known if one.trial == name), default=-1)
                for one in samples(data, options.launches, name, first):
                    out.write(json.dumps(vars(one)) + "\n")
                    out.flush()
    every = read(options.samples)
    options.report.write_text("\n".join(report(every)) + "\n")
    sys.stdout.write(options.report.read_text())


if __name__ == "__main__":
    main()
