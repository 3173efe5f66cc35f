"""Whether the tests still run in time: `python -m tests.suite_time RESULTS.xml...`, as tox does.

Reads what `pytest --junitxml` wrote, prints the slowest tests, and says if all together took
longer than they should. On a slower machine than the usual one they may take longer: its pace was
noted while they ran (tests/pace.py). Runs of the same tests on one machine differ by a fifth, so it
exits with 1 only if they took a quarter more.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from junitparser import JUnitXml

from .pace import pace_file

LIMIT_S = 600.0  # of all tests; installs, types and style take two minutes more
FAILS_AT = 1.25  # times as long; four runs of nearly the same tests took 425 to 605 s here
SLOWEST = 10
USUAL_S = 0.0650  # of `pace.yardstick` on two vCPUs of an AMD EPYC, CPython 3.11


def slowness_of(files: Sequence[Path]) -> float:
    """Times as long as usual that the machine took for the same work while the tests ran.

    Args:
        files: what `pytest --junitxml` wrote; the pace lies beside each.
    """
    noted = [pace_file(file).read_text(encoding="utf-8").split() for file in files]
    return mean(float(seconds) for part in noted for seconds in part) / USUAL_S


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
        f"all tests took {took:.0f} s; they may take {limit:.0f} s on this machine, which needed "
        f"{slowness:.2f} times as long as usual for the same work"
    )
    if took > limit:
        lines.append("too long: make the slowest tests quicker")
    return "\n".join(lines), took <= FAILS_AT * limit


def main() -> None:
    """Print the judgement; exit with 1 if the tests took too long."""
    files = [Path(name) for name in sys.argv[1:]]
    text, within = judged(files, slowness_of(files))
    print(text)  # noqa: T201 - it is what the script is for
    sys.exit(not within)


if __name__ == "__main__":
    main()
