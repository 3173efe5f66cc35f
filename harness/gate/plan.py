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
from ...loaders.remote.emulation import Emulation
from ..plan.emulated_storage import as_emulation, emulated
from ..plan.source import Source, open_source
from ..plan.spec import Spec, Trial, make_trial
from ..plan.spec_file import SpecFile
from ..record.emulated import described
from ..record.journal import Journal, new_results_file
from ..record.results import Header, Results, Sample
from ..run.executor import Executor
from ..run.scheduler import Scheduler
from ..show.progress import Progress, Silent
from ..trial.work import Data
from .sides import Arm, ArmJournal, Measured
from .spec import Cell, GateSpec, cells_of, load_gate_spec, named

CONTROL_S = 0.15  # per pass of a control; shorter passes are mostly noise
CONTROL_FILES = 8  # a control is timed on this many files, and has at least as many


@dataclass(frozen=True)
class GatePlan:
    """A gate before it is measured.

    Attributes:
        spec: the user's spec.
        source: the data.
        data: their files and columns.
        cells: the cells to compare.
        emulation: the storage that is emulated, if any.
    """

    spec: GateSpec
    source: Source
    data: Data
    cells: list[Cell]
    emulation: Emulation | None = None

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
        location = data if data is not None else spec.data
        if location is None:
            raise InputError('no data: name it as feedrate gate DATA, or in the spec as data = "…"')
        file = SpecFile(path, settings)
        with file.at("data_type"):
            source = open_source(os.fspath(location), spec.data_type)
        emulation = None
        if spec.emulate_storage is not None:
            with file.at("emulate_storage"):
                emulation = as_emulation(spec.emulate_storage)
                source = emulated(source, emulation)
        source.check_rows()
        cells = cells_of(spec, len(source.files))
        jobs = {cell.trial.job for cell in cells}
        trial_data = source.trial_data(jobs, spec.columns, spec.target, file)
        return cls(spec, source, trial_data, cells, emulation)

    def with_small_controls(self, executor: Executor) -> GatePlan:
        """Shrink controls to about `CONTROL_S` per pass, unless their number of files was given.

        The original, the usual control, is often ten times as slow as the cells, and would take
        most of the time.

        Args:
            executor: times two passes of each control; the first, which may read from disk, does
                not count.
        """
        sizes = {}
        for cell in self._unsized:
            if cell.trial.files <= CONTROL_FILES:
                continue
            small = make_trial(cell.trial.job, cell.trial.settings, CONTROL_FILES)
            run = executor.run(small, "confirming", passes=2, verify=False)
            walls = [wall for one in run.passes if (wall := one.metrics.get("wall_s"))]
            if walls:
                files = ceil(CONTROL_S * CONTROL_FILES / walls[-1])
                sizes[cell.name] = max(CONTROL_FILES, files)
        return self._resized(sizes)

    def with_controls_of(self, known: Sequence[Sample]) -> GatePlan:
        """Give controls as many files as in earlier results."""
        sizes: dict[str, int] = {}
        for cell in self._unsized:
            trial = cell.trial.job, cell.trial.backend, cell.trial.settings
            for sample in known:
                if (sample.job, sample.backend, sample.settings) == trial:
                    sizes.setdefault(cell.name, sample.files)
        return self._resized(sizes)

    @property
    def _unsized(self) -> list[Cell]:
        """The controls without a given number of files."""
        sized = {named(cell) for cell in self.spec.cells if cell.files is not None}
        return [cell for cell in self.cells if cell.control and cell.name not in sized]

    def _resized(self, sizes: Mapping[str, int]) -> GatePlan:
        """Reduce numbers of files by cell, unless two cells would then measure the same."""
        other_ids = {cell.trial.id for cell in self.cells if cell.name not in sizes}
        cells = []
        for cell in self.cells:
            trial = cell.trial
            files = min(trial.files, sizes.get(cell.name, trial.files))
            resized = make_trial(trial.job, trial.settings, files)
            taken = cell.name in sizes and resized.id in other_ids
            cells.append(cell if taken else replace(cell, trial=resized))
        return replace(self, cells=cells)

    def journal(self, results: str | os.PathLike[str] | None, base: str, head: str) -> Journal:
        """Create the journal for the samples."""
        header = Header(
            spec={**msgspec.to_builtins(self.spec), "gate": {"base": base, "head": head}},
            environment=fingerprint(),
            dataset=self.source.dataset,
            emulated=self.emulation,
        )
        path = new_results_file() if results is None else Path(results)
        return Journal.create(path, header, overwrite=results is None)

    @property
    def subjects(self) -> list[Trial]:
        """The trials of all cells except controls."""
        return [cell.trial for cell in self.cells if not cell.control]

    @property
    def modules(self) -> list[str]:
        """The modules of the user-defined loaders that `subjects` use."""
        points = {point.name: point.module for point in entry_points(group=GROUP)}
        backends = dict.fromkeys(trial.backend for trial in self.subjects)
        modules = [
            points.get(name, name.partition(":")[0] if ":" in name else "") for name in backends
        ]
        return list(filter(None, modules))

    def measured(
        self,
        arm: Arm,
        executor: Executor,
        journal: Journal,
        progress: Progress | None,
        control: Executor | None = None,
    ) -> Measured:
        """Create a side to measure; `control` runs the controls (default: `executor`)."""
        passes = {cell.trial.id: self.passes(cell) for cell in self.cells}

        def scheduler(trial_executor: Executor) -> Scheduler:
            return Scheduler(
                Spec(passes=self.spec.passes, budget=None, timeout=self.spec.timeout),
                [cell.trial for cell in self.cells],
                trial_executor,
                ArmJournal(journal, arm),
                progress=progress or Silent(),
                verify_launches=False,
                sample_rows=False,  # an older revision's process cannot sample
                passes_by_trial=dict(passes),
            )

        controls = {
            cell.trial.id: scheduler(control or executor) for cell in self.cells if cell.control
        }
        return Measured(scheduler(executor), controls)

    def passes(self, cell: Cell) -> int:
        """The passes per launch; the original as a control has one, since its passes are alike.

        The gate itself finds which other cells need only one.
        """
        single = cell.control and cell.trial.backend == "original"
        return 1 if single else self.spec.passes

    def differences(self, known: Results) -> list[str]:
        """The differences of a baseline's machine, data and spec from the current ones."""
        old, new = known.header.environment, fingerprint()
        old_data, new_data, spec = known.header.dataset, self.source.dataset, known.header.spec
        pairs: list[tuple[str, Any, Any]] = [
            ("the CPU", old.cpu_model, new.cpu_model),
            ("the number of CPUs", old.effective_cpus, new.effective_cpus),
            ("the system", old.system, new.system),
            ("the GPU", old.gpu, new.gpu),
            ("Python", major(old.python), major(new.python)),
            ("the data's schema", old_data.schema, new_data.schema),
            ("the number of files", old_data.files, new_data.files),
            ("the data's bytes", old_data.bytes, new_data.bytes),
            ("emulated storage", _in_words(known.header.emulated), _in_words(self.emulation)),
        ]
        pairs += [
            (name, spec.get(name), getattr(self.spec, name))
            for name in ("passes", "columns", "target")
        ]
        pairs += [
            (name, major(version), major(new.versions.get(name, "missing")))
            for name, version in old.versions.items()
            if name != "feedrate"
        ]
        return [
            f"{name} was {before!r}, is {after!r}"
            for name, before, after in pairs
            if before != after
        ]


def _in_words(emulation: Emulation | None) -> str:
    return "none" if emulation is None else described(emulation)
