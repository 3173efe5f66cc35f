"""The gate over files of pytest-benchmark: base and head, or several of each by turns.

A file is of one process, and what one process repeats says nothing of what the next one would do:
identical code differs by 11% from launch to launch on a shared host. So a file counts as one
launch, by the median of each benchmark, and the usual spread of launches counts beside the few
that were measured. One pair of files can fail a benchmark that became twice as slow; to pass one,
three pairs are needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import exp, log, sqrt
from pathlib import Path
from statistics import NormalDist

import msgspec

from ..loaders.errors import DocumentError, InputError
from .gate import Finding, GateOutcome, taken_together
from .gate_rule import ALPHA, Compared, Rule, judge
from .gate_spec import TIME
from .race import USUAL_PAIR_SD, USUAL_WEIGHT
from .statistics import CONFIDENCE, Ratio, hodges_lehmann, median

_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


class _Stats(msgspec.Struct):
    median: float | None = None


class _Benchmark(msgspec.Struct):
    fullname: str
    stats: _Stats


class _Cpu(msgspec.Struct):
    brand_raw: str | None = None
    count: int | None = None


class _Machine(msgspec.Struct):
    node: str = ""
    python_version: str = ""
    cpu: _Cpu = msgspec.field(default_factory=_Cpu)

    def __str__(self) -> str:
        return f"{self.cpu.brand_raw or 'an unknown CPU'}, {self.cpu.count or '?'} CPUs"


class _File(msgspec.Struct):
    """What is read of a file; what else it holds is of no interest here."""

    benchmarks: list[_Benchmark]
    machine_info: _Machine = msgspec.field(default_factory=_Machine)


def gate_pytest(
    paths: Sequence[str], *, threshold: float | None = None, tolerate: float | None = None
) -> GateOutcome:
    """Compare files that pytest-benchmark wrote with `--benchmark-json`.

    Args:
        paths: base and head by turns, as many of the one as of the other.
        threshold: the ratio beyond which a slowdown fails; by default the rule's.
        tolerate: the ratio that the interval must stay below to pass; by default the rule's.

    Raises:
        InputError: an odd number of files, or none.
        DocumentError: one that cannot be read, or is of something else.
    """
    if not paths or len(paths) % 2:
        raise InputError(
            f"{len(paths)} files to compare; name base and head, or several of each by turns: "
            "base1.json head1.json base2.json head2.json"
        )
    files = [_read(path) for path in paths]
    bases, heads = files[::2], files[1::2]
    usual = Rule()
    rule = Rule(
        usual.threshold if threshold is None else threshold,
        max(threshold or 0.0, usual.tolerate) if tolerate is None else tolerate,
    )
    compared = {
        name: one
        for name in _names(files)
        if (one := _compared(_medians(bases, name), _medians(heads, name))) is not None
    }
    verdicts = judge(compared, dict.fromkeys(compared, rule), ALPHA)
    findings = [
        Finding(name, TIME, verdicts[name], compared[name], rule)
        if name in compared
        else _missing(name, bases, heads)
        for name in _names(files)
    ]
    machines = sorted({str(file.machine_info) for file in files})
    doubts = [f"the files are of different machines: {'; '.join(machines)}"] if machines[1:] else []
    judgement = taken_together(findings, doubts)
    return GateOutcome(judgement, ", ".join(paths[::2]), ", ".join(paths[1::2]))


def _read(path: str) -> _File:
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=_File)
    except OSError as error:
        raise DocumentError(f"cannot read {path}: {error.strerror or error}") from error
    except msgspec.MsgspecError as error:
        raise DocumentError(
            f"{path} is no file of pytest-benchmark: {error}; write one with "
            "pytest --benchmark-json=FILE"
        ) from error


def _names(files: Sequence[_File]) -> list[str]:
    return list(dict.fromkeys(one.fullname for file in files for one in file.benchmarks))


def _medians(files: Sequence[_File], name: str) -> list[float]:
    """The medians of a benchmark that are times, by file."""
    found = [one.stats.median for file in files for one in file.benchmarks if one.fullname == name]
    return [value for value in found if value is not None and value > 0 and math.isfinite(value)]


def _compared(base: Sequence[float], head: Sequence[float]) -> Compared | None:
    """The launches in pairs, with the usual spread as a prior; None where one side has none."""
    pairs = list(zip(base, head, strict=False))
    if not pairs:
        return None
    logs = [log(mine / theirs) for theirs, mine in pairs]
    middle, n = hodges_lehmann(logs), len(logs)
    squares = sum((one - middle) ** 2 for one in logs) + USUAL_WEIGHT * USUAL_PAIR_SD**2
    sd = sqrt(squares / (USUAL_WEIGHT + n - 1))
    error = sd / sqrt(n)
    ratio = Ratio(exp(middle), exp(middle - _Z * error), exp(middle + _Z * error), CONFIDENCE, n)
    p = 2 * NormalDist().cdf(-abs(middle) / error) if error else 0.0 if middle else 1.0
    return Compared(median(base), median(head), ratio, p, sd)


def _missing(name: str, bases: Sequence[_File], heads: Sequence[_File]) -> Finding:
    """A benchmark that one side lacks, or that has no time."""
    there = [
        any(one.fullname == name for file in files for one in file.benchmarks)
        for files in (bases, heads)
    ]
    if there == [False, True]:
        return Finding(name, TIME, "pass", why="new in head: nothing to compare with")
    if there == [True, False]:
        return Finding(name, TIME, "inconclusive", why="head does not have it")
    return Finding(name, TIME, "inconclusive", why="its median is no time above 0")
