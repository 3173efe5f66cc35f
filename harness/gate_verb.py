"""The verb `gate`: two revisions, or what is here against results of before."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ..loaders.atomic import replacing
from ..loaders.errors import InputError, StorageError
from ..loaders.machine import fingerprint
from ..loaders.profile import Job
from .child_process import HERE, Python
from .executor import ChildExecutor, Executor, TrialRun
from .gate import ARMS, Arm, ArmJournal, Gate, GateOutcome, Judgement, Measured, Side, Stored
from .gate_rule import compare_pairs, compare_unpaired
from .gate_spec import TIME, Cell, GateSpec, cells_of, load_gate_spec
from .memory import may_be_taken
from .results import (
    Header,
    Journal,
    Phase,
    Results,
    Sample,
    encode_line,
    new_results_file,
    read_results,
)
from .revisions import Revision, build, is_dirty, ready_made
from .scheduler import Progress, Scheduler, Silent
from .source import Source, open_source
from .spec import Spec, Trial
from .spec_file import SpecFile
from .work import Data

MakeExecutor = Callable[[Data, GateSpec, Python], Executor]


def child_processes(data: Data, spec: GateSpec, python: Python) -> Executor:
    """Trials in child processes of a revision."""
    return ChildExecutor(data, spec.timeout_s, max_memory=may_be_taken(), python=python)


def gate(
    data: str | os.PathLike[str] | None = None,
    *,
    base: str | None = None,
    head: str = "HEAD",
    base_python: str | None = None,
    head_python: str | None = None,
    spec: str | os.PathLike[str] | None = None,
    loader: str | None = None,
    results: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    make_executor: MakeExecutor = child_processes,
    **settings: Any,
) -> GateOutcome:
    """Compare two revisions in pairs of launches, and say whether head is slower.

    Args:
        data: as `tune` takes it; by default what the spec names.
        base: the revision to compare with: a branch, tag or commit of the current repository.
        head: the revision that is judged.
        base_python: an interpreter in whose environment base is installed, instead of `base`.
        head_python: the same for head.
        spec: a TOML file with the fields of `GateSpec`.
        loader: a loader of one's own, `package.module:function`, that both revisions have.
        results: the journal to write; by default a new file in the temporary folder.
        progress: gets told what happens.
        make_executor: makes what runs the trials of a revision.
        **settings: fields of `GateSpec`; they win over the file's.

    Raises:
        FeedrateError: bad input, or a revision that does not build. What was measured stays.
    """
    if base is None and base_python is None:
        raise InputError(
            "nothing to compare with: name a revision with --base, an interpreter with "
            "--base-python, or results with --baseline"
        )
    plan = _Plan.open(data, spec, loader, settings)
    notes = []
    if head_python is None and base is not None and is_dirty():
        notes.append(f"changes that are not committed are not in {head}")
    revisions: dict[Arm, Revision] = {
        "base": build(base or "") if base_python is None else ready_made(base_python),
        "head": build(head) if head_python is None else ready_made(head_python),
    }
    names = (str(revisions["base"]), str(revisions["head"]))
    with plan.journal(results, *names) as journal, ExitStack() as stack:
        sides: dict[Arm, Side] = {
            arm: plan.measured(arm, revisions[arm].python, journal, make_executor, progress, stack)
            for arm in ARMS
        }
        judgement = Gate(plan.cells, sides, compare_pairs, progress or Silent()).run()
    return GateOutcome(judgement, *names, journal.path, notes)


def gate_against(
    data: str | os.PathLike[str] | None = None,
    *,
    baseline: str | os.PathLike[str],
    update: bool = False,
    spec: str | os.PathLike[str] | None = None,
    loader: str | None = None,
    results: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    make_executor: MakeExecutor = child_processes,
    **settings: Any,
) -> GateOutcome:
    """Measure what is installed here, and compare it with results of before.

    Args:
        data: as `tune` takes it; by default what the spec names.
        baseline: a journal that an earlier gate wrote.
        update: write what was measured into the baseline where it is significantly faster and
            nothing failed, or all of it where there is no baseline yet.
        spec: a TOML file with the fields of `GateSpec`.
        loader: a loader of one's own.
        results: the journal to write; by default a new file in the temporary folder.
        progress: gets told what happens.
        make_executor: makes what runs the trials.
        **settings: fields of `GateSpec`; they win over the file's.

    Raises:
        FeedrateError: bad input, or a baseline that cannot be read. What was measured stays.
    """
    plan = _Plan.open(data, spec, loader, settings)
    path = Path(baseline)
    known = None if update and not path.exists() else read_results(path)
    names = (str(path), "what is installed here")
    if known is not None and (against := plan.differences(known)):
        doubts = [f"the baseline was measured elsewhere: {one}" for one in against]
        other = "measure a baseline here: --update-baseline with the name of a new file"
        return GateOutcome(Judgement("inconclusive", [], doubts), *names, notes=[other])
    with plan.journal(results, *names) as journal, ExitStack() as stack:
        head = plan.measured("head", HERE, journal, make_executor, progress, stack)
        sides: dict[Arm, Side] = {"base": Stored(known.samples if known else []), "head": head}
        one = Gate(plan.cells, sides, compare_unpaired, progress or Silent())
        if known is None:
            one.record()
            judgement = Judgement("pass", [])
        else:
            judgement = one.run()
    notes = []
    if update and judgement.verdict == "pass":
        notes.append(_ratchet(path, known, read_results(journal.path), judgement, plan.cells))
    return GateOutcome(judgement, *names, journal.path, notes)


@dataclass(frozen=True)
class _Plan:
    """A gate about to be measured."""

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
    ) -> _Plan:
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

    def journal(self, results: str | os.PathLike[str] | None, base: str, head: str) -> Journal:
        """The journal that the samples go to."""
        header = Header(
            spec={**msgspec.to_builtins(self.spec), "gate": {"base": base, "head": head}},
            environment=fingerprint(),
            dataset=self.source.dataset,
        )
        path = new_results_file() if results is None else Path(results)
        return Journal.create(path, header, overwrite=results is None)

    def measured(
        self,
        arm: Arm,
        python: Python,
        journal: Journal,
        make_executor: MakeExecutor,
        progress: Progress | None,
        stack: ExitStack,
    ) -> Measured:
        """A side that is measured in an interpreter; the stack ends its processes."""
        executor = make_executor(self.data, self.spec, python)
        stack.callback(executor.close)
        scheduler = Scheduler(
            Spec(passes=self.spec.passes, budget=None),
            [cell.trial for cell in self.cells],
            Fresh(executor),
            ArmJournal(journal, arm),
            progress=progress or Silent(),
            verify_launches=False,
        )
        return Measured(scheduler)

    def differences(self, known: Results) -> list[str]:
        """What tells that a baseline was measured elsewhere, or on other data."""
        then, here = known.header.environment, fingerprint()
        data, now = known.header.dataset, self.source.dataset
        told = [
            f"{name} was {before!r}, is {after!r}"
            for name, before, after in (
                ("the CPU", then.cpu_model, here.cpu_model),
                ("the number of CPUs", then.effective_cpus, here.effective_cpus),
                ("the memory limit", then.memory_bytes, here.memory_bytes),
                ("the data's schema", data.schema, now.schema),
                ("the number of files", data.files, now.files),
                ("the data's bytes", data.bytes, now.bytes),
            )
            if before != after
        ]
        mine = {cell.trial.id for cell in self.cells}
        missing = mine - {sample.trial for sample in known.samples}
        told += [
            f"it has nothing of cell {cell.name!r}"
            for cell in self.cells
            if cell.trial.id in missing
        ]
        return told


@dataclass(frozen=True)
class Fresh:
    """Runs every trial in a process of its own, whatever the phase."""

    executor: Executor

    def run(
        self, trial: Trial, _: Phase, *, passes: int, verify: bool, explain: bool = False
    ) -> TrialRun:
        """Run a trial once in a fresh process."""
        return self.executor.run(trial, "confirming", passes=passes, verify=verify, explain=explain)

    def reference(self, job: Job, files: int, *, ordered: bool) -> TrialRun:
        """The fingerprint of the original's rows."""
        return self.executor.reference(job, files, ordered=ordered)

    def close(self) -> None:
        """End all processes."""
        self.executor.close()


def _ratchet(
    path: Path, known: Results | None, new: Results, judgement: Judgement, cells: Sequence[Cell]
) -> str:
    """Write a new baseline, or into a known one what has become faster."""
    kept: list[Sample] = []
    if known is None:
        taken = {sample.trial for sample in new.samples}
        header = new.header
    else:
        faster = {
            one.cell
            for one in judgement.findings
            if one.metric == TIME and one.compared is not None and one.compared.is_faster
        }
        taken = {cell.trial.id for cell in cells if cell.name in faster}
        kept = [sample for sample in known.samples if sample.trial not in taken]
        header = known.header
    if not taken:
        return f"{path} stays as it is: nothing became significantly faster"
    samples = [*kept, *(sample for sample in new.samples if sample.trial in taken)]
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(encode_line(header) + b"".join(map(encode_line, samples)))
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    return f"{path} now holds {len(taken)} cells of this run"
