"""The gate over pytest-benchmark files: base and head, or several of each alternately.

A file is from one process. Repetitions in a process do not show how the next process would differ:
identical code differs by 12% from launch to launch on a shared host. So a file counts as one
launch, by the median of each benchmark, and the usual spread of launches is a prior for the spread
of the files. One pair of files can fail a benchmark that takes 1.8 times as long; a pass needs
about fifteen pairs, or a benchmark that varies less than usual.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from math import log, sqrt
from pathlib import Path

import msgspec

from ...loaders.base.errors import DocumentError, InputError
from ..system.units import counted, printable
from .outcome import Finding, GateOutcome, combine_findings
from .rule import ALPHA, Compared, Rule, compare_with_prior, judge
from .spec import TIME

# Standard deviation of the log of a time, from launch to launch of the same code on a shared
# two-core host.
LAUNCH_SD = 0.12
_NO_TIME = "its median is not a time above 0"


class _Stats(msgspec.Struct):
    median: float | None = None


class _Benchmark(msgspec.Struct):
    fullname: str
    stats: _Stats


class _Cpu(msgspec.Struct):
    brand_raw: str | None = None
    count: int | None = None


class _Machine(msgspec.Struct):
    python_version: str = ""
    cpu: _Cpu = msgspec.field(default_factory=_Cpu)

    def __str__(self) -> str:
        version = ".".join(self.python_version.split(".")[:2])
        python = f", Python {version}" if version else ""
        return f"{self.cpu.brand_raw or 'an unknown CPU'}, {self.cpu.count or '?'} CPUs{python}"


class _File(msgspec.Struct):
    """The parts of a file that the gate reads."""

    benchmarks: list[_Benchmark]
    machine_info: _Machine = msgspec.field(default_factory=_Machine)


def gate_pytest(
    paths: Sequence[str], *, threshold: float | None = None, tolerate: float | None = None
) -> GateOutcome:
    """Compare files that pytest-benchmark wrote with `--benchmark-json`.

    Args:
        paths: base and head alternately, the same number of each.
        threshold: the ratio beyond which a slowdown fails; by default the rule's.
        tolerate: the ratio that the interval must stay below to pass; by default the rule's.

    Raises:
        InputError: an odd number of files, or none.
        DocumentError: a file that cannot be read, or is not from pytest-benchmark.
    """
    if not paths or len(paths) % 2:
        raise InputError(
            f"{counted(len(paths), 'file')} to compare; name base and head, or several of "
            "each alternately: base1.json head1.json base2.json head2.json"
        )
    if duplicates := sorted({path for path in paths if paths.count(path) > 1}):
        raise InputError(f"{', '.join(duplicates)}: named twice; name the file of each run once")
    files = [_read(path) for path in paths]
    bases, heads = files[::2], files[1::2]
    rule = Rule.of(threshold, tolerate)
    names = _benchmark_names(files)
    if not names:
        raise InputError(f"{', '.join(paths)}: no benchmark is in these files")
    compared = {
        name: comparison
        for name in names
        if (comparison := _compare(_medians(bases, name), _medians(heads, name))) is not None
    }
    judged = judge(compared, dict.fromkeys(compared, rule), ALPHA)
    findings = [
        Finding(name, TIME, judged[name].verdict, compared[name], rule, p=judged[name].p)
        if name in compared
        else _not_compared(name, bases, heads)
        for name in names
    ]
    machines = sorted({str(file.machine_info) for file in files})
    doubts = []
    if len(machines) > 1:
        doubts.append(f"the files are from different machines: {'; '.join(machines)}")
    if not compared:
        doubts.append("no benchmark has a time on both sides, so nothing was compared")
    base, head = _side_name(paths[::2]), _side_name(paths[1::2])
    notes = [note for name in compared if (note := _note_on_unused_pairs(name, bases, heads))]
    return GateOutcome(combine_findings(findings, doubts), base, head, notes=notes)


def _note_on_unused_pairs(name: str, bases: Sequence[_File], heads: Sequence[_File]) -> str | None:
    """State how many pairs of files count for a benchmark; None if all do."""
    pairs = zip(_medians(bases, name), _medians(heads, name), strict=True)
    usable = sum(None not in pair for pair in pairs)
    if usable == len(bases):
        return None
    total = counted(len(bases), "pair")
    return f"{name} has a time on both sides in only {usable} of {total} of files"


def _side_name(paths: Sequence[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"


def _read(path: str) -> _File:
    try:
        # Python's json reads NaN and Infinity, which pytest-benchmark writes for invalid times.
        file = msgspec.convert(json.loads(Path(path).read_bytes()), _File)
    except OSError as error:
        raise DocumentError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors, too
        raise DocumentError(
            f"{path} is not a file of pytest-benchmark: {error}; write one with "
            "pytest --benchmark-json=FILE"
        ) from error
    for benchmark in file.benchmarks:
        benchmark.fullname = printable(benchmark.fullname)
    names = [benchmark.fullname for benchmark in file.benchmarks]
    if duplicate := next((name for name in names if names.count(name) > 1), None):
        raise DocumentError(f"{path} has the benchmark {duplicate} twice; write the file again")
    return file


def _benchmark_names(files: Sequence[_File]) -> list[str]:
    return list(dict.fromkeys(one.fullname for file in files for one in file.benchmarks))


def _medians(files: Sequence[_File], name: str) -> list[float | None]:
    """The median of a benchmark in each file; None if it is missing or not a time above 0."""
    medians = [
        next((one.stats.median for one in file.benchmarks if one.fullname == name), None)
        for file in files
    ]
    return [
        value if value is not None and value > 0 and math.isfinite(value) else None
        for value in medians
    ]


def _compare(base: Sequence[float | None], head: Sequence[float | None]) -> Compared | None:
    """Compare launches in pairs, with the usual spread as a prior; None without a pair."""
    pairs = [
        (base_s, head_s)
        for base_s, head_s in zip(base, head, strict=True)
        if base_s is not None and head_s is not None
    ]
    if not pairs:
        return None
    logs = [log(head_s / base_s) for base_s, head_s in pairs]
    sides = [[pair[side] for pair in pairs] for side in (0, 1)]
    # Launches that are not interleaved share no variation: both sides have the full spread.
    return compare_with_prior(sides, logs, sqrt(2) * LAUNCH_SD)


def _not_compared(name: str, bases: Sequence[_File], heads: Sequence[_File]) -> Finding:
    """The finding on a benchmark without a pair of times."""
    in_base, in_head = (name in _benchmark_names(files) for files in (bases, heads))
    if not in_base:
        return Finding(name, TIME, "pass", why="new in head: nothing to compare with")
    if not in_head:
        return Finding(name, TIME, "inconclusive", why="head does not have it")
    timed = [any(one is not None for one in _medians(files, name)) for files in (bases, heads)]
    why = "no pair of files has it on both sides" if all(timed) else _NO_TIME
    return Finding(name, TIME, "inconclusive", why=why)
