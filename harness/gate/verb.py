"""The verb `gate`: compare two revisions, or the installed code with earlier results."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...loaders.base.atomic import replacing
from ...loaders.base.errors import InputError, StorageError
from ...loaders.choosing.profile import Job
from ..plan.spec import Trial
from ..record.journal import encode_line
from ..record.results import Phase, Results, read_results
from ..run.child_executor import ChildExecutor, imports_of
from ..run.executor import Executor, TrialRun
from ..run.process_start import CHILD_MODULE, HERE, Python
from ..show.progress import Progress, Silent
from ..system.memory import memory_allowance
from ..system.units import counted
from ..trial.work import Data
from .gate import Gate
from .outcome import Finding, GateOutcome, Judgement
from .plan import GatePlan
from .revisions import (
    Revision,
    build,
    check_is_run,
    commit_of,
    is_dirty,
    ready_made,
    submodules,
)
from .rule import TESTED_ALPHA
from .sides import ARMS, Arm, Measured, Side, Stored
from .spec import TIME, Cell, GateSpec

MakeExecutor = Callable[[Data, GateSpec, Python], Executor]


def child_processes(data: Data, spec: GateSpec, python: Python) -> Executor:
    """Run trials in child processes of a revision."""
    return ChildExecutor(data, spec.timeout_s, max_memory=memory_allowance(), python=python)


def gate(
    data: str | os.PathLike[str] | None = None,
    *,
    base: str | None = None,
    head: str | None = None,
    base_python: str | None = None,
    head_python: str | None = None,
    spec: str | os.PathLike[str] | None = None,
    loader: str | None = None,
    results: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    make_executor: MakeExecutor = child_processes,
    **settings: Any,
) -> GateOutcome:
    """Compare two revisions in pairs of launches.

    Args:
        data: the same as for `tune`; by default the spec's.
        base: the revision to compare with: a branch, tag or commit of the current repository.
        head: the revision to judge; by default HEAD.
        base_python: an interpreter in whose environment base is installed, instead of `base`.
        head_python: the same for head.
        spec: a TOML file with the fields of `GateSpec`.
        loader: a user-defined loader, `package.module:function`, that both revisions have.
        results: the journal to write; by default a new file in the temporary folder.
        progress: receives progress updates.
        make_executor: creates the executor that runs a revision's trials.
        **settings: fields of `GateSpec`; they override the file's.

    Raises:
        FeedrateError: bad input, or a revision that does not build. Measured samples are kept.
    """
    for side, ref, python in (("base", base, base_python), ("head", head, head_python)):
        if ref is not None and python is not None:
            raise InputError(f"give --{side} or --{side}-python, not both")
    if base is None and base_python is None:
        raise InputError(
            "nothing to compare with: name a revision with --base, an interpreter with "
            "--base-python, or results with --baseline"
        )
    plan = GatePlan.open(data, spec, loader, settings)
    if results is not None:
        check_new(Path(results))
    revisions = {
        arm: replace(built, python=plan.spec.with_module_path(built.python))
        for arm, built in _revisions(base, head, base_python, head_python).items()
    }
    for revision in revisions.values():
        check_is_run(revision, plan.modules, CHILD_MODULE)
    notes = _notes(revisions)
    names = (str(revisions["base"]), str(revisions["head"]))
    with plan.journal(results, *names) as journal, ExitStack() as stack:
        executors: dict[Arm, Executor] = {}
        for arm in ARMS:
            executors[arm] = make_executor(plan.data, plan.spec, revisions[arm].python)
            stack.callback(executors[arm].close)
        notes += _fork_alike(executors, plan.subjects)
        base_executor = executors["base"]
        plan = plan.with_small_controls(base_executor)
        head_executor = WithReference(executors["head"], base_executor)
        # Controls run base's code on both sides, and are verified against base's rows.
        measured: dict[Arm, Measured] = {
            "base": plan.measured("base", base_executor, journal, progress),
            "head": plan.measured("head", head_executor, journal, progress, control=base_executor),
        }
        measurement = Gate(plan.cells, measured, progress or Silent())
        judgement = measurement.run()
    if (why := measurement.nothing_ran()) is not None:
        raise InputError(f"the cells run on neither side: {why}")
    notes += [note for arm in ARMS for note in measured[arm].notes]
    unique = list(dict.fromkeys(notes))
    return GateOutcome(judgement, *names, journal.path, unique, plan.emulation)


def _revisions(
    base: str | None, head: str | None, base_python: str | None, head_python: str | None
) -> dict[Arm, Revision]:
    refs = [(base, base_python), ("HEAD" if head is None else head, head_python)]
    for ref, python in refs:
        if python is None and ref is not None:
            commit_of(ref)  # report a missing revision before anything is built
    base_revision, head_revision = (
        build(ref or "") if python is None else ready_made(python) for ref, python in refs
    )
    return {"base": base_revision, "head": head_revision}


def _notes(revisions: Mapping[Arm, Revision]) -> list[str]:
    """The notes on the revisions, before anything is measured."""
    base, head = revisions["base"], revisions["head"]
    notes = []
    if head.commit and is_dirty():
        notes.append(f"{head.name} does not contain your uncommitted changes")
    notes += [
        f"{revision.name} was built without its submodules: {', '.join(missing)}"
        for revision in (base, head)
        if revision.commit and (missing := submodules(revision.commit))
    ]
    if head.commit and head.commit == base.commit:
        notes.append("base and head are the same commit: only noise is measured")
    return notes


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
    """Measure the installed code, and compare it with earlier results.

    Args:
        data: the same as for `tune`; by default the spec's.
        baseline: a journal that an earlier gate wrote.
        update: write the new samples to the baseline if the gate passes and a cell is
            significantly faster, or new.
        spec: a TOML file with the fields of `GateSpec`.
        loader: a user-defined loader.
        results: the journal to write; by default a new file in the temporary folder.
        progress: receives progress updates.
        make_executor: creates the executor that runs the trials.
        **settings: fields of `GateSpec`; they override the file's.

    Raises:
        FeedrateError: bad input, or a baseline that cannot be read. Measured samples are kept.
    """
    plan = GatePlan.open(data, spec, loader, settings)
    path = Path(baseline)
    known = None if update and not path.exists() else read_results(path)
    if known is not None and known.truncated:
        raise InputError(f"{path}: its last line is cut off, so samples are missing; measure again")
    if known is not None:
        plan = plan.with_controls_of(known.samples)
    names = (str(path), "the installed code")
    if known is not None and (differences := plan.differences(known)):
        doubts = [f"the baseline does not match: {difference}" for difference in differences]
        advice = "measure a new baseline: --update-baseline with the name of a new file"
        judgement = Judgement("inconclusive", [], doubts)
        return GateOutcome(judgement, *names, notes=[advice], emulation=plan.emulation)
    with plan.journal(results, *names) as journal, ExitStack() as stack:
        executor = make_executor(plan.data, plan.spec, plan.spec.with_module_path(HERE))
        stack.callback(executor.close)
        if known is None:
            plan = plan.with_small_controls(executor)
        head = plan.measured("head", executor, journal, progress)
        stored = Stored(known.samples if known else [])
        sides: dict[Arm, Side] = {"base": stored, "head": head}
        judgement = Gate(plan.cells, sides, progress or Silent()).run_against_before()
    failed = judgement.verdict in ("failed", "regression")
    if (
        not failed
        and known is not None
        and not update
        and not any(map(stored.samples, plan.subjects))
    ):
        doubt = f"{path} has none of these cells; measure them with --update-baseline"
        judgement = Judgement("inconclusive", judgement.findings, [doubt])
    notes = head.notes
    if update and judgement.verdict == "pass":
        latest = read_results(journal.path)
        notes.append(_update_baseline(path, known, latest, judgement, plan.cells))
    elif update:
        notes.append(f"{path} is unchanged: only a gate that passes updates it")
    if judgement.doubts and not failed:
        notes.append(
            "measure again when the machine is as before, or measure a new baseline: "
            "--update-baseline with the name of a new file"
        )
    return GateOutcome(judgement, *names, journal.path, notes, plan.emulation)


def check_new(path: Path) -> None:
    """Raise `InputError` if a journal already has content."""
    if path.exists() and path.stat().st_size:
        raise InputError(f"{path} holds results already; name another file with --results")


def _fork_alike(executors: Mapping[Arm, Executor], trials: Iterable[Trial]) -> list[str]:
    """Fork launches of a trial on both sides or on neither; return notes on those not forked."""
    sides = {arm: one for arm, one in executors.items() if isinstance(one, ChildExecutor)}
    notes = []
    for trial in {imports_of(one): one for one in trials}.values():
        reasons = {arm: why for arm, one in sides.items() if (why := one.why_not_forked(trial))}
        if reasons:
            why = "; ".join(f"{arm}: {reason}" for arm, reason in reasons.items())
            notes.append(f"launches with {trial.backend} are new processes, not forked: {why}")
            for executor in sides.values():
                executor.never_fork(trial, why)
    return notes


@dataclass(frozen=True)
class WithReference:
    """Runs trials of a revision, with another revision as fallback for the original's rows.

    Attributes:
        executor: runs the trials.
        fallback: provides the original's rows if the original fails in `executor`, so that a
            revision that broke the original is judged by its other loaders.
    """

    executor: Executor
    fallback: Executor

    def run(
        self,
        trial: Trial,
        phase: Phase,
        *,
        passes: int,
        verify: bool,
        every: int = 1,
        within_s: float | None = None,
    ) -> TrialRun:
        """Run a trial once."""
        return self.executor.run(
            trial, phase, passes=passes, verify=verify, every=every, within_s=within_s
        )

    def reference(
        self,
        job: Job,
        files: int,
        *,
        ordered: bool,
        every: int = 1,
        within_s: float | None = None,
    ) -> TrialRun:
        """The fingerprint of the original's rows."""
        run = self.executor.reference(job, files, ordered=ordered, every=every, within_s=within_s)
        if run.fingerprint is None:
            return self.fallback.reference(
                job, files, ordered=ordered, every=every, within_s=within_s
            )
        return run

    def close(self) -> None:
        """End the processes of `executor`."""
        self.executor.close()


def _is_significantly_faster(finding: Finding) -> bool:
    """Whether head is significantly faster, by more than the rule's threshold."""
    compared, rule, p = finding.compared, finding.rule, finding.p
    if compared is None or rule is None or p is None:
        return False
    return compared.ratio.estimate < 1 / rule.threshold and p < TESTED_ALPHA


def _update_baseline(
    path: Path, known: Results | None, new: Results, judgement: Judgement, cells: Sequence[Cell]
) -> str:
    """Write a baseline, an existing one only if a cell is faster or new; return a note on it.

    All cells of the run are replaced together, including the control: cells of different days
    would compare machines.
    """
    known_samples = known.samples if known is not None else []
    trials = {cell.trial.id for cell in cells}
    stored = Stored(known_samples)
    stored_trials = {cell.trial.id for cell in cells if stored.samples(cell.trial)}
    is_faster = any(
        finding.metric == TIME and _is_significantly_faster(finding)
        for finding in judgement.findings
    )
    if not is_faster and trials <= stored_trials:
        return f"{path} is unchanged: nothing became significantly faster"
    header = new.header if known is None else known.header
    samples = [
        *(sample for sample in known_samples if sample.trial not in trials),
        *(sample for sample in new.samples if sample.trial in trials),
    ]
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(encode_line(header) + b"".join(map(encode_line, samples)))
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    return f"{path} now holds {counted(len(trials), 'cell')} of this run"
