"""The spec of a gate: its cells, from a TOML file or by default, and their rules."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from ...loaders.base.errors import InputError, unknown
from ...loaders.base.settings import LoaderSettings, check_count
from ...loaders.choosing.profile import JOBS
from ...loaders.choosing.registry import get_backend
from ..plan.spec import GRID_FIELDS, TRAINING_BATCH_SIZE, Trial, make_trial
from ..plan.spec_file import read_spec
from ..record.metrics import METRICS
from ..run.process_start import Python
from ..system.units import as_seconds, counted
from .rule import Rule

TIME = "wall_s"
# Metrics that hardly vary, compared in addition to the time. Over launches of the same frame job
# (flights, 10 launches of 8 arms), peak memory had a standard deviation of 0.4 to 1.2%, and bytes
# read were identical.
STEADY = {"peak_pss_bytes": Rule(1.10, 1.25), "syscall_read_bytes": Rule(1.01, 1.05)}
# `tolerate` of other metrics is this many times as far above 1 as the threshold, as for memory.
ROOM = 2.5


class CellSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One comparison: a job with its settings."""

    name: str | None = None
    """Its name; by default the job and the backend."""
    job: str = "frame"
    backend: str | None = None
    """A backend, or a user-defined loader, `package.module:function`."""
    files: int | None = None
    """How many files; None means all."""
    num_workers: int | None = None
    prefetch: int | None = None
    requests: int | None = None
    """Requests in flight to an object store."""
    cache: str | None = None
    batch_size: int | None = None
    threshold: float | None = None
    """The ratio of head to base beyond which a slowdown fails."""
    tolerate: float | None = None
    """The ratio that the interval must stay below to pass."""
    metrics: dict[str, float] = {}
    """Thresholds of other metrics, by name; 0 leaves out a metric compared by default."""
    control: bool = False
    """Whether the change cannot affect it: the machine then causes any difference."""


class GateSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A gate as its TOML file defines it."""

    data: str | None = None
    """The data; an argument overrides it."""
    data_type: str | None = None
    columns: list[str] | None = None
    target: str | None = None
    path: str | None = None
    """A folder in which both sides find modules that their packages lack, such as benchmarks."""
    cells: list[CellSpec] = []
    threshold: float | None = None
    """The ratio of head to base beyond which a slowdown fails; None means the rule's."""
    tolerate: float | None = None
    """The ratio that the interval must stay below to pass; None means the rule's."""
    passes: int = 2
    """Passes over the data per launch; the original as a control has one."""
    timeout: float | str = 60.0
    """Seconds for one pass."""
    emulate_storage: str | None = None
    """Read local files as slowly as a store, as in the spec of `tune`; both revisions need it."""

    def __post_init__(self) -> None:
        check_count("passes", self.passes, 1)
        Rule.of(self.threshold, self.tolerate)
        _ = self.timeout_s
        names = [named(cell) for cell in self.cells]
        for cell, name in zip(self.cells, names, strict=True):
            if names.count(name) > 1:
                raise InputError(f"two cells are called {name!r}; rename one of them")
            try:
                _check(cell)
                _rules(cell, self)
            except InputError as error:
                raise InputError(f"cell {name!r}: {error}") from error

    def with_module_path(self, python: Python) -> Python:
        """Add the folder `path` to a revision's interpreter, after its own packages.

        Raises:
            InputError: there is no such folder.
        """
        if self.path is None:
            return python
        if not Path(self.path).is_dir():
            raise InputError(
                f"path: there is no folder {self.path!r}; the current folder is {Path.cwd()}"
            )
        return replace(python, path=(*python.path, os.path.realpath(self.path)))

    @property
    def timeout_s(self) -> float:
        """The limit of one pass in seconds."""
        return as_seconds(self.timeout, "timeout")


@dataclass(frozen=True)
class Cell:
    """A cell, ready to be measured.

    Attributes:
        name: its name.
        trial: the trial to run.
        rules: the rules of the compared metrics, by metric name.
        control: whether the change cannot affect it.
        asked: the metrics that the spec names.
    """

    name: str
    trial: Trial
    rules: Mapping[str, Rule]
    control: bool = False
    asked: frozenset[str] = frozenset()


def named(cell: CellSpec) -> str:
    """The name of a cell."""
    return cell.name or f"{cell.job} {cell.backend or 'auto'}"


def load_gate_spec(
    path: str | os.PathLike[str] | None,
    flags: Mapping[str, Any],
    loader: str | None = None,
) -> GateSpec:
    """Read the spec of a file; flags override its fields.

    Without a file there are two cells: the frame job, and the original as the control.

    Raises:
        DocumentError: the file is missing, is not TOML, or has an unknown key or a wrong type.
        InputError: a value that is not allowed, or a file without cells.
    """
    spec = read_spec(path, GateSpec, flags)
    if not spec.cells:
        if path is not None:
            raise InputError(
                f"spec {path} has no cell; add at least one as [[cells]] with a job and a backend"
            )
        cells = [CellSpec(backend=loader), CellSpec(backend="original", control=True)]
        return msgspec.structs.replace(spec, cells=cells)
    if loader is None:
        return spec
    if not any(cell.backend is None and not cell.control for cell in spec.cells):
        raise InputError(
            f"--loader {loader}: every cell of spec {path} names a backend; remove it from the "
            "cells that are to measure the loader"
        )
    cells = [
        cell if cell.control or cell.backend else msgspec.structs.replace(cell, backend=loader)
        for cell in spec.cells
    ]
    return msgspec.structs.replace(spec, cells=cells)


def cells_of(spec: GateSpec, files: int) -> list[Cell]:
    """The cells of a spec, for data with this number of files.

    Raises:
        InputError: more files than the data have, an unknown backend, or two equal cells.
    """
    cells = [
        Cell(
            name=named(cell),
            trial=_trial(cell, files),
            rules=_rules(cell, spec),
            control=cell.control,
            asked=frozenset(name for name, limit in cell.metrics.items() if limit),
        )
        for cell in spec.cells
    ]
    seen: dict[str, str] = {}
    for cell in cells:
        if (other := seen.setdefault(cell.trial.id, cell.name)) != cell.name:
            raise InputError(
                f"cells {other!r} and {cell.name!r} measure the same, the {cell.trial.job} job by "
                f"{cell.trial.backend}; leave one out, or name another loader with --loader"
            )
    return cells


def _trial(cell: CellSpec, available: int) -> Trial:
    if cell.files is not None and cell.files > available:
        raise InputError(
            f"cell {named(cell)!r}: files is {cell.files}, but the data have only "
            f"{counted(available, 'file')}"
        )
    try:
        return make_trial(cell.job, _settings(cell), cell.files or available)
    except InputError as error:
        raise type(error)(f"cell {named(cell)!r}: {error}") from error


def _settings(cell: CellSpec) -> LoaderSettings:
    fields: dict[str, Any] = {"batch_size": TRAINING_BATCH_SIZE, "seed": 0}
    fields |= {name: value for name in GRID_FIELDS if (value := getattr(cell, name)) is not None}
    backend = cell.backend or "auto"
    if ":" in backend:  # this environment may lack it
        return LoaderSettings(**fields, backend=backend)
    known = get_backend(backend)
    return known.normalized_for(cell.job, LoaderSettings(**fields, backend=known.name))


def _check(cell: CellSpec) -> None:
    if cell.job not in JOBS:
        raise InputError(unknown("job", cell.job, JOBS))
    if cell.files is not None:
        check_count("files", cell.files, 1)
    if cell.control and cell.metrics:
        raise InputError("a control is compared by its time alone; leave out its metrics")
    comparable = [metric.name for metric in METRICS.values() if metric.better == "lower"]
    for metric in cell.metrics:
        if metric not in METRICS:
            raise InputError(unknown("metric", metric, comparable))
        if metric not in comparable:
            raise InputError(
                f"{metric} cannot be compared, since higher values are better; compare {TIME} "
                "instead"
            )
    if TIME in cell.metrics:
        raise InputError(f"{TIME} is always compared, by the cell's threshold and tolerate")


def _rules(cell: CellSpec, spec: GateSpec) -> dict[str, Rule]:
    """The rule of each metric, the time's first; a control is compared by its time alone."""
    threshold = spec.threshold if cell.threshold is None else cell.threshold
    time = Rule.of(threshold, spec.tolerate if cell.tolerate is None else cell.tolerate)
    if cell.control:
        return {TIME: time}
    rules = {TIME: time, **STEADY}
    for metric, limit in cell.metrics.items():
        if not limit:
            rules.pop(metric, None)
        elif limit < 1:
            raise InputError(
                f"the threshold of {metric} is {limit:g}; it is a ratio of head to base such as "
                "1.05, or 0 to leave the metric out"
            )
        else:
            rules[metric] = Rule(limit, 1 + ROOM * (limit - 1))
    return rules
