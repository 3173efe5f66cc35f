"""A gate before it is measured: the data, the cells, and the sides to measure them on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from math import ceil
from pathlib import Path
from typing import Any

import msgspec

from ...loaders.base.errors import InputError
from ...loaders.base.machine import fingerprint
from ...loaders.choosing.custom import GROUP
from ...loaders.choosing.trust import major
from ..plan.source import Source, open_source
from ..plan.spec import Spec, Trial, make_trial
from ..plan.spec_file import SpecFile
from ..record.results import Header, Journal, Results, Sample, new_results_file
from ..run.executor import Executor
from ..run.scheduler import Scheduler
from ..show.progress import Progress, Silent
from ..trial.work import Data
from .sides import Arm, ArmJournal, Measured
from .spec import Cell, GateSpec, cells_of, load_gate_spec, named

CONTROL_S = 0.15  # of a pass of a control: shorter ones are mostly noise
CONTROL_FILES = 8  # the number that a control is timed on, and its minimum


@dataclass(frozen=True)
class GatePlan:
    """A gate before it is measured.

    Attributes:
        spec: the user's spec.
        source: the data.
        data: their files and columns.
        cells: the cells to compare.
    """

    spec: GateSpec
    source: Source
    data: Data
    cells: list[Cell]

    @classmethod
    def open(
        cls,
        data: str | os.PathLike[str] | None,
        path: str | os.PathLike[str] | None,
        loader: str | None,
        settings: Mapping[str, Any],
    ) -> GatePlan:
        """Find data and cells.

        Args:
            data: the same as for `tune`; by default the spec's.
            path: a TOML file with the fields of `GateSpec`.
            loader: a user-defined loader.
            settings: fields of `GateSpec`; they override the file's.

        Raises:
            FeedrateError: bad input.
        """
        spec = load_gate_spec(path, settings, loader)
        where = data if data is not None else spec.data
        if where is None:
            raise InputError('no data: name it as feedrate gate DATA, or in the spec as data = "…"')
        file = SpecFile(path, settings)
        with file.at("data_type"):
            source = open_source(os.fspath(where), spec.data_type)
        source.check_rows()
        cells = cells_of(spec, len(source.files))
        jobs = {cell.trial.job for cell in cells}
        described = source.described(jobs, spec.columns, spec.target, file)
        return cls(spec, source, described, cells)

    def with_small_controls(self, executor: Executor) -> GatePlan:
        """Shrink controls to about `CONTROL_S` per pass, unless their number of files was given.

        A control shows whether the machine treats both sides alike. The original is often ten
        times as slow as the cells, and would take most of the time.

        Args:
            executor: times two passes of each control; the first does not count, because it may
                find the files on disk.
        """
        sizes = {}
        for cell in self._unsized:
            if cell.trial.files <= CONTROL_FILES:
                continue
            few = make_trial(cell.trial.job, cell.trial.settings, CONTROL_FILES)
            run = executor.run(few, "confirming", passes=2, verify=False)
            walls = [wall for one in run.passes if (wall := one.metrics.get("wall_s"))]
            if walls:
                enough = ceil(CONTROL_S * CONTROL_FILES / walls[-1])
                sizes[cell.name] = max(CONTROL_FILES, enough)
        return self._sized(sizes)

    def with_controls_of(self, known: Sequence[Sample]) -> GatePlan:
        """Give controls as many files as in earlier results."""
        same = {
            cell.name: [
                one
                for one in known
                if (one.job, one.backend, one.settings)
                == (cell.trial.job, cell.trial.backend, cell.trial.settings)
            ]
            for cell in self._unsized
        }
        return self._sized({name: some[0].files for name, some in same.items() if some})

    @property
    def _unsized(self) -> list[Cell]:
        """The controls for which no number of files was given."""
        given = {named(cell) for cell in self.spec.cells if cell.files is not None}
        return [cell for cell in self.cells if cell.control and cell.name not in given]

    def _sized(self, sizes: Mapping[str, int]) -> GatePlan:
        """Change numbers of files by cell, unless two cells would then measure the same."""
        others = {cell.trial.id for cell in self.cells if cell.name not in sizes}
        cells = []
        for cell in self.cells:
            trial = cell.trial
            files = min(trial.files, sizes.get(cell.name, trial.files))
            other = make_trial(trial.job, trial.settings, files)
            taken = cell.name in sizes and other.id in others
            cells.append(cell if taken else replace(cell, trial=other))
        return replace(self, cells=cells)

    def journal(self, results: str | os.PathLike[str] | None, base: str, head: str) -> Journal:
        """Create the journal for the samples."""
        header = Header(
            spec={**msgspec.to_builtins(self.spec), "gate": {"base": base, "head": head}},
            environment=fingerprint(),
            dataset=self.source.dataset,
        )
        path = new_results_file() if results is None else Path(results)
        return Journal.create(path, header, overwrite=results is None)

    @property
    def subjects(self) -> list[Trial]:
        """The trials of cells that a change may have made slower."""
        return [cell.trial for cell in self.cells if not cell.control]

    @property
    def modules(self) -> list[str]:
        """The modules of the user-defined loaders that `subjects` use."""
        points = {point.name: point.module for point in entry_points(group=GROUP)}
        backends = dict.fromkeys(trial.backend for trial in self.subjects)
        own = [points.get(name, name.partition(":")[0] if ":" in name else "") for name in backends]
        return list(filter(None, own))

    def measured(
        self,
        arm: Arm,
        executor: Executor,
        journal: Journal,
        progress: Progress | None,
        control: Executor | None = None,
    ) -> Measured:
        """A side that is measured now; `control` runs what the change cannot touch."""
        passes = {cell.trial.id: self.passes(cell) for cell in self.cells}

        def scheduler(by: Executor) -> Scheduler:
            return Scheduler(
                Spec(passes=self.spec.passes, budget=None, timeout=self.spec.timeout),
                [cell.trial for cell in self.cells],
                by,
                ArmJournal(journal, arm),
                progress=progress or Silent(),
                verify_launches=False,
                sample_rows=False,  # an earlier revision's process knows no sample
                passes_by_trial=dict(passes),
            )

        controls = {
            cell.trial.id: scheduler(control or executor) for cell in self.cells if cell.control
        }
        return Measured(scheduler(executor), controls)

    def passes(self, cell: Cell) -> int:
        """The passes per launch; the original as a control has one, since all are alike.

        The gate itself finds out which other cells need only one.
        """
        alike = cell.control and cell.trial.backend == "original"
        return 1 if alike else self.spec.passes

    def differences(self, known: Results) -> list[str]:
        """The differences that show that a baseline is of another machine, data or spec."""
        then, here = known.header.environment, fingerprint()
        data, now, spec = known.header.dataset, self.source.dataset, known.header.spec
        pairs: list[tuple[str, Any, Any]] = [
            ("the CPU", then.cpu_model, here.cpu_model),
            ("the number of CPUs", then.effective_cpus, here.effective_cpus),
            ("the system", then.system, here.system),
            ("the GPU", then.gpu, here.gpu),
            ("Python", major(then.python), major(here.python)),
            ("the data's schema", data.schema, now.schema),
            ("the number of files", data.files, now.files),
            ("the data's bytes", data.bytes, now.bytes),
        ]
        pairs += [
            (name, spec.get(name), getattr(self.spec, name))
            for name in ("passes", "columns", "target")
        ]
        pairs += [
            (name, major(version), major(here.versions.get(name, "missing")))
            for name, version in then.versions.items()
            if name != "feedrate"
        ]
        return [
            f"{what} was {before!r}, is {after!r}"
            for what, before, after in pairs
            if before != after
        ]
