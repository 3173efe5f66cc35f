"""Whether the tests still run in time: `python tests/suite_time.py RESULTS.xml...`, as tox does.

Reads what `pytest --junitxml` wrote, prints the slowest tests, and says if all together took
longer than they should. On a slower machine than the usual one they may take longer. Runs of the
same tests on one machine differ by a fifth, so it exits with 1 only if they took a quarter more.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from junitparser import JUnitXml

LIMIT_S = 600.0  # of all tests; installs, types and style take two minutes more
FAILS_AT = 1.25  # times as long; four runs of nearly the same tests took 425 to 605 s here
SLOWEST = 10
USUAL_S = 0.0650  # of `yardstick` on two vCPUs of an AMD EPYC, CPython 3.11
ROUNDS = 15


def yardstick() -> float:
    """Seconds of a fixed piece of work: what a machine's speed is judged by."""
    start = time.perf_counter()
    counts: dict[int, int] = {}
    for number in range(500_000):
        counts[number & 1023] = counts.get(number & 1023, 0) + number
    return time.perf_counter() - start


def judged(files: Sequence[Path], slowness: float) -> tuple[str, bool]:
    """What to print about the results in some files, and whether they were in time.

    Args:
        files: what `pytest --junitxml` wrote.
        slowness: times as long as usual that this machine takes for the same work.
    """
    suites = [suite for file in files for suite in JUnitXml.fromfile(str(file))]
    took = sum(suite.time for suite in suites)
    cases = [case for suite in suites for case in suite]
    cases.sort(key=lambda case: case.time, reverse=True)
    limit = LIMIT_S * max(1.0, slowness)
    lines = [f"the {min(SLOWEST, len(cases))} slowest of {len(cases)} tests:"]
    for case in cases[:SLOWEST]:
        name = f"{case.classname}::{case.name}".replace("\n", " ")
        lines.append(f"{case.time:7.1f} s  {name[:110]}")
    lines.append(
        f"all tests took {took:.0f} s; they may take {limit:.0f} s on this machine, which needs "
        f"{slowness:.2f} times as long as usual for the same work"
    )
    if took > limit:
        lines.append("too long: make the slowest tests quicker")
    return "\n".join(lines), took <= FAILS_AT * limit


def main() -> None:
    """Print the judgement; exit with 1 if the tests took too long."""
    slowness = median(yardstick() for _ in range(ROUNDS)) / USUAL_S
    text, within = judged([Path(name) for name in sys.argv[1:]], slowness)
    print(text)  # noqa: T201 - it is what the script is for
    sys.exit(not within)


if __name__ == "__main__":
    main()
