"""What launches by fork are worth, beside processes of their own: `python -m benchmarks.launches`.

The same trial is launched many times in both ways, in turns, and nothing differs but luck. The
report says what varies (from process to process, and for forks also from parent to parent), what a
launch costs, and how often an interval for the ratio of two such trials holds the truth, which
is 1. It goes to `benchmarks/LAUNCHES.md`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp, isnan, log, nan, sqrt
from pathlib import Path
from statistics import median

import numpy as np
from feedrate.harness.child_process import ChildProcess
from feedrate.harness.forks import ForkServer
from feedrate.harness.protocol import Done, Go, Imports, OpenData, PassDone, Ready, RunTrial
from feedrate.harness.starting import START_TIMEOUT_S, Fresh, Starter
from feedrate.harness.work import Data
from feedrate.loaders.profile import Job
from feedrate.loaders.settings import LoaderSettings
from scipy.stats import t

REPORT = Path(__file__).parent / "LAUNCHES.md"
WAYS = ("fresh", "forked")
ROUNDS, PARENTS = (6, 12, 24), (1, 2, 3, 6, 12, 24)
RESAMPLED = 4000
PASSES = 1
PER_PARENT = 10  # forks of a trial
FEATURES, TARGET = ["dep_time", "distance", "hour"], "day"
TRIALS: Mapping[str, tuple[Job, LoaderSettings]] = {
    "frame, pytorch": ("frame", LoaderSettings(backend="pytorch", num_workers=2, cache="none")),
    "frame, original": ("frame", LoaderSettings(backend="original")),
}
FIRST = next(iter(TRIALS))
IMPORTS = Imports(modules=("torch", "tensorflow"))


@dataclass(frozen=True)
class Sample:
    """One launch."""

    way: str
    trial: str
    parent: int
    """Its number among the parents; of fresh processes that of the launch."""
    seconds: tuple[float, ...]
    """Each pass."""
    cost: float
    """Seconds from the start to the end of the process."""


def launch(starter: Starter, data: Data, name: str) -> tuple[tuple[float, ...], float]:
    """Run a trial once: the seconds of its passes, and of all together."""
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


def samples(data: Data, launches: int, names: Sequence[str]) -> Iterator[Sample]:
    """Launches in turns: fresh and forked, each trial, with a new parent after `PER_PARENT`."""
    server: ForkServer | None = None
    for turn in range(launches):
        if turn % PER_PARENT == 0:
            if server is not None:
                server.close()
            server = ForkServer(IMPORTS)
        assert server is not None
        ways = {"fresh": (Fresh(), turn), "forked": (server, turn // PER_PARENT)}
        order = [(way, name) for name in names for way in ways]
        for way, name in order if turn % 2 else order[::-1]:
            starter, number = ways[way]
            seconds, cost = launch(starter, data, name)
            yield Sample(way, name, number, seconds, cost)
    if server is not None:
        server.close()


def components(some: Sequence[Sample], number: int) -> dict[str, float]:
    """Standard deviations of the log time of a pass: in all, between parents, within one.

    The between-groups variance of a one-way random effects model, by mean squares (Searle, Casella
    and McCulloch 1992, section 3.6), which is negative where chance alone differs: then 0.
    """
    groups: dict[int, list[float]] = defaultdict(list)
    for one in some:
        groups[one.parent].append(log(one.seconds[number]))
    every = [value for group in groups.values() for value in group]
    found = {"sd": float(np.std(every, ddof=1)), "between": nan, "within": nan}
    sizes = [len(group) for group in groups.values()]
    if min(sizes) > 1:
        within = sum(float(np.var(group)) * len(group) for group in groups.values())
        within /= len(every) - len(groups)
        means = np.array([np.mean(group) for group in groups.values()])
        between = float(np.var(means, ddof=1)) - within / float(np.mean(sizes))
        found |= {"between": sqrt(max(0.0, between)), "within": sqrt(within)}
    return found


@dataclass(frozen=True)
class Coverage:
    """How often intervals of 95% held the truth, and how wide they were."""

    held: float
    width: float
    """Median factor from the lower to the upper end, less 1."""


def coverage(
    pairs: Mapping[int, Sequence[float]],
    truth: float,
    rounds: int,
    parents: int,
    *,
    by_parent: bool,
) -> Coverage:
    """Intervals for a log ratio over resampled runs.

    Args:
        pairs: log ratios of the rounds of each parent.
        truth: what they should hold.
        rounds: of a run.
        parents: that it has.
        by_parent: whether the parents are what is counted, by the means of their rounds.
    """
    draw = np.random.default_rng(0)
    names, held, widths = list(pairs), 0, []
    for _ in range(RESAMPLED):
        chosen = draw.choice(len(names), parents, replace=parents > len(names))
        groups = [draw.choice(pairs[names[at]], rounds // parents) for at in chosen]
        values = [float(np.mean(one)) for one in groups] if by_parent else np.concatenate(groups)
        half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / sqrt(len(values))
        held += abs(float(np.mean(values)) - truth) <= half
        widths.append(exp(2 * half) - 1)
    return Coverage(held / RESAMPLED, float(np.median(widths)))


def in_pairs(some: Sequence[Sample], number: int) -> dict[int, list[float]]:
    """Log ratios of launches of one trial that followed each other, by parent."""
    found: dict[int, list[float]] = defaultdict(list)
    for one, other in zip(some[::2], some[1::2], strict=False):  # as many of each parent are even
        found[one.parent].append(log(one.seconds[number] / other.seconds[number]))
    return dict(found)


def of_two(some: Sequence[Sample], others: Sequence[Sample], number: int) -> dict[int, list[float]]:
    """Log ratios of the launches of two trials in the same rounds, by parent."""
    found: dict[int, list[float]] = defaultdict(list)
    for one, other in zip(some, others, strict=True):
        found[one.parent].append(log(one.seconds[number] / other.seconds[number]))
    return dict(found)


def report(every: Sequence[Sample]) -> Iterator[str]:
    """What was found, in Markdown."""
    by = {
        (way, name): [one for one in every if (one.way, one.trial) == (way, name)]
        for way in WAYS
        for name in TRIALS
    }
    yield "# Launches by fork\n"
    yield (
        f"`python -m benchmarks.launches`: each trial {len(by['fresh', FIRST])} times in processes "
        f"of their own and as often as forks, in turns, with a new parent after {PER_PARENT} "
        "rounds; flights, a pass without a cache. Standard deviations are of log times.\n"
    )
    yield "| trial | way | launches | cost | pass | median | sd | between parents | within |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for name in TRIALS:
        for way in WAYS:
            some = by[way, name]
            for number in range(PASSES):
                sds = components(some, number)
                middle = median(one.seconds[number] for one in some)
                cost = median(one.cost for one in some)
                shown = " | ".join("" if isnan(sd) else f"{sd:.3f}" for sd in sds.values())
                yield (
                    f"| {name} | {way} | {len(some)} | {cost:.2f} s | {number + 1} | "
                    f"{middle * 1e3:.0f} ms | {shown} |"
                )
    yield "\nIntervals of 95% over so many rounds: how often they held the truth, and widths.\n"
    yield "| compared | way | rounds | parents | counted | held | width |"
    yield "| --- | --- | ---: | ---: | --- | ---: | ---: |"
    yield from _coverages(by)


def _coverages(by: Mapping[tuple[str, str], Sequence[Sample]]) -> Iterator[str]:
    first, second = TRIALS
    for way in WAYS:
        with_itself = in_pairs(by[way, first], 0)
        with_other = of_two(by[way, first], by[way, second], 0)
        truth = float(np.mean([value for some in with_other.values() for value in some]))
        for rounds in ROUNDS:
            for parents in PARENTS if way == "forked" else (rounds,):
                if rounds % parents == 0:
                    start = f"{way} | {rounds} | {parents if way == 'forked' else ''} | "
                    yield from _lines(
                        f"| {first}, with itself | {start}", with_itself, 0.0, rounds, parents
                    )
                    yield from _lines(
                        f"| {first}, {second} | {start}", with_other, truth, rounds, parents
                    )


def _lines(
    start: str, pairs: Mapping[int, Sequence[float]], truth: float, rounds: int, parents: int
) -> Iterator[str]:
    if rounds // parents > min(map(len, pairs.values())):
        return
    for by_parent in (False, True) if 1 < parents < rounds else (False,):
        one = coverage(pairs, truth, rounds, parents, by_parent=by_parent)
        counted = "parents" if by_parent else "rounds"
        yield f"{start}{counted} | {one.held:.1%} | {one.width:.1%} |"


def main() -> None:
    """Launch, or report what was launched before."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a folder with flights/; without it, only report")
    parser.add_argument("--launches", type=int, default=200, help="of each trial each way")
    parser.add_argument(
        "--samples", type=Path, required=True, help="JSON lines, which are added to"
    )
    parser.add_argument("--report", type=Path, default=REPORT)
    options = parser.parse_args()
    if options.data is not None:
        paths = sorted(map(str, (options.data / "flights").glob("*.parquet")))
        data = Data(paths=paths, columns=None, features=FEATURES, target=TARGET)
        with options.samples.open("a") as out:
            for one in samples(data, options.launches, list(TRIALS)):
                out.write(json.dumps(vars(one)) + "\n")
                out.flush()
    lines = options.samples.read_text().splitlines()
    every = [Sample(**json.loads(line)) for line in lines]
    options.report.write_text("\n".join(report(every)) + "\n")
    sys.stdout.write(options.report.read_text())


if __name__ == "__main__":
    main()
