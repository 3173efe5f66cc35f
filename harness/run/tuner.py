"""The verbs: sweep, tune, recommend. The CLI calls them, and so may a notebook."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from ...loaders.base.atomic import locked
from ...loaders.base.errors import DocumentError, FeedrateError, InputError
from ...loaders.base.homes import profile_home
from ...loaders.base.machine import fingerprint
from ...loaders.base.warn import warn
from ...loaders.choosing.backends import is_own
from ...loaders.choosing.profile import Job, Profile, cannot_write_profile, store_path
from ...loaders.choosing.trust import mismatches
from ..choose.profile_entries import as_profile
from ..choose.recommendation import Recommendation, recommend_all
from ..plan.source import Source, open_source
from ..plan.spec import Spec, Trial, asked_of, load_spec, plan
from ..plan.spec_file import SpecFile
from ..record.objectives import THROUGHPUT
from ..record.results import (
    Header,
    Journal,
    Results,
    Sample,
    new_results_file,
    read_results,
    read_sweep,
)
from ..record.speedup import short_settings
from ..system.memory import may_be_taken
from ..system.pagecache import PageCache
from ..system.stopping import finishing
from ..system.units import counted
from ..trial.work import Data
from .budget import BudgetError
from .executor import ChildExecutor, Executor
from .prediction import check_memory, rows_of
from .scheduler import Progress, Scheduler, Silent, check_resumable
from .search import Search
from .tried import Tried, short_of_time

Found = TypeVar("Found")

MakeExecutor = Callable[[Data, Spec, int], Executor]
"""From the data, how to measure, and the number of the latest launch."""


def child_processes(data: Data, spec: Spec, launched: int) -> Executor:
    """Trials in child processes, as a spec asks for."""
    page_cache = msgspec.convert(spec.page_cache, PageCache)
    return ChildExecutor(
        data,
        spec.timeout_s,
        launched,
        page_cache=page_cache,
        consumer=spec.consumer,
        max_memory=may_be_taken(),
    )


@dataclass(frozen=True, repr=False)
class Outcome:
    """What a sweep gave. It shows itself as a table in a notebook, and as text when printed."""

    results: Results
    results_path: Path
    recommendations: list[Recommendation] = field(default_factory=list)
    profile: Profile | None = None
    profile_path: Path | None = None
    notes: list[str] = field(default_factory=list)
    """What else the user should know."""

    def __str__(self) -> str:
        from ..cli.show import as_text, sweep_view

        notes = "".join(f"note: {note}\n" for note in self.notes)
        return as_text(sweep_view(self.results, self.recommendations)) + notes

    def __repr__(self) -> str:
        return str(self)

    def _repr_markdown_(self) -> str:
        from ..cli.show import as_markdown

        return as_markdown(self.results, self.recommendations, self.notes)


def sweep(
    data: str | os.PathLike[str],
    *,
    spec: str | os.PathLike[str] | None = None,
    results: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    make_executor: MakeExecutor = child_processes,
    command: str = "feedrate.harness.sweep",
    **settings: Any,
) -> Outcome:
    """Measure every trial of a grid, without search and without a profile.

    Args:
        data: a storage's folder, a data type's folder, any folder of Parquet files, or a glob.
        spec: a TOML file with the fields of `Spec`.
        results: the journal to write; by default a new file in the temporary folder.
        resume: add what is missing to an existing journal.
        progress: gets told what happens.
        make_executor: makes what runs the trials: `child_processes`, or `in_process` of the module
            of that name, for a debugger.
        command: noted in the journal.
        **settings: fields of `Spec`; they win over the file's.

    Raises:
        FeedrateError: bad input; the message says what to do. What was measured stays.
    """
    wanted = load_spec(spec, settings)
    run = _Run.open(data, wanted, SpecFile(spec, settings), results, command, resume=resume)
    with run.journal:
        driven, _ = _drive(run, progress, make_executor, Scheduler.screen)
    return Outcome(read_results(run.path), run.path, notes=[*run.notes(), *driven.notes])


def tune(
    data: str | os.PathLike[str],
    *,
    spec: str | os.PathLike[str] | None = None,
    results: str | os.PathLike[str] | None = None,
    resume: bool = False,
    profile: str | os.PathLike[str] | Literal[False] | None = None,
    progress: Progress | None = None,
    make_executor: MakeExecutor = child_processes,
    command: str = "feedrate.harness.tune",
    **settings: Any,
) -> Outcome:
    """Find the best settings for each job, confirm them in fresh processes, write a profile.

    Args:
        data: a storage's folder, a data type's folder, any folder of Parquet files, or a glob.
        spec: a TOML file with the fields of `Spec`.
        results: the journal to write; by default a new file in the temporary folder.
        resume: add what is missing to an existing journal.
        profile: the file to write; by default the user's store, where
            `OptimizedHistoricalDataLoader` finds it. False writes none.
        progress: gets told what happens.
        make_executor: makes what runs the trials: `child_processes`, or `in_process` of the module
            of that name, for a debugger.
        command: noted in the journal and in the profile.
        **settings: fields of `Spec`; they win over the file's.

    Raises:
        BudgetError: the budget is below the minimum useful one here.
        FeedrateError: bad input; the message says what to do. What was measured stays.
    """
    began = time.monotonic()  # whatever follows counts for the budget
    wanted = load_spec(spec, settings)
    if profile is not None and profile is not False:
        _check_profile_file(Path(profile))
    run = _Run.open(data, wanted, SpecFile(spec, settings), results, command, resume=resume)

    def search(scheduler: Scheduler) -> Mapping[Job, Tried]:
        searching = Search(scheduler, began)
        searching.run()
        return searching.tried

    try:
        with run.journal:
            if profile is None:
                _check_store()
            driven, tried = _drive(run, progress, make_executor, search)
    except BudgetError:
        if run.is_new:  # it holds nothing but its header
            run.path.unlink(missing_ok=True)
        raise
    found = read_results(run.path)
    short = short_of_time(wanted, tried)
    try:
        advice = recommend_all(found)
    except InputError as error:
        raise InputError(". ".join([str(error), *short])) from error
    new = as_profile(found, advice.found, command)
    notes = [*run.notes(), *driven.notes, *advice.problems, *short, *_named_only(advice.found)]
    path: Path | None = None
    if profile is None:
        path = _store(new, run, notes)
    elif profile is not False:
        path = _save(new, Path(profile), notes)
    return Outcome(found, run.path, advice.found, new, path, notes)


def _named_only(found: Iterable[Recommendation]) -> list[str]:
    """How loaders come to obey a choice of the user's own loader: no document imports one."""
    own = {one.chosen.backend for one in found if is_own(one.chosen.backend)}
    return [
        f"a profile imports nothing: loaders use {name} where it is named, as "
        f"OptimizedHistoricalDataLoader(storage, {name!r})"
        for name in sorted(own)
        if ":" in name
    ]


def recommend(
    results: str | os.PathLike[str],
    *,
    max_memory: int | str | None = None,
    objective: str | None = None,
    tie: float | None = None,
    profile: str | os.PathLike[str] | None = None,
    command: str = "feedrate.harness.recommend",
) -> Outcome:
    """Recommend settings from a journal that was measured before.

    Args:
        results: the journal.
        max_memory: bytes of peak PSS that may be needed, or text like `2GiB`; by default, as for
            the next two, what the sweep was told.
        objective: what to choose by: `throughput`, `latency`, `memory` or `epoch-time`.
        tie: settings whose estimated ratio to the best is at most this are as good as it.
        profile: where to write a profile; by default none is written.
        command: noted in the profile.

    Raises:
        FeedrateError: damaged results, a value that is not allowed, or nothing to recommend.
    """
    if profile is not None:
        _check_profile_file(Path(profile))
    found = read_sweep(Path(results))
    given = {"max_memory": max_memory, "objective": objective, "tie": tie}
    limit = load_spec(None, given).max_memory_bytes
    advice = recommend_all(found, limit, objective=objective, tie=tie)
    new = as_profile(found, advice.found, command)
    notes = [*advice.problems, *([_CUT.format(path=results)] if found.truncated else [])]
    then = found.header.spec.get("objective", THROUGHPUT.name)
    repeats = found.header.spec.get("repeats", Spec().repeats)
    searched = any(one.phase == "confirming" and one.round >= repeats for one in found.samples)
    if searched and objective not in (None, then):
        notes.append(
            f"the search was by {then}: settings that lost by it had few launches, or none; to "
            f"look for the best by {objective}: feedrate tune DATA --objective {objective}"
        )
    path = None if profile is None else _save(new, Path(profile), notes)
    return Outcome(found, Path(results), advice.found, new, path, notes)


_CUT = "the last line of {path} was cut off and is left out"


@dataclass(frozen=True)
class _Run:
    """A sweep about to be measured."""

    spec: Spec
    source: Source
    data: Data
    trials: list[Trial]
    journal: Journal
    path: Path
    known: list[Sample]
    is_new: bool

    @classmethod
    def open(
        cls,
        data: str | os.PathLike[str],
        spec: Spec,
        file: SpecFile,
        results: str | os.PathLike[str] | None,
        command: str,
        *,
        resume: bool,
    ) -> _Run:
        if resume and results is None:
            raise InputError("--resume needs --results FILE: which sweep shall go on?")
        with file.at("data_type"):
            source = open_source(os.fspath(data), spec.data_type)
        source.check_rows()
        described = source.described(spec.jobs, spec.columns, spec.target, file)
        with file.at("files"):
            trials = plan(spec, len(source.files))
        path = new_results_file() if results is None else Path(results)
        known: list[Sample] = []
        is_new = not (resume and path.exists())
        if not is_new:
            journal, found = Journal.resume(path)
            known = found.samples
            against = check_resumable(found, spec, source.dataset)
            if against:
                journal.close()
                raise InputError(f"cannot resume {path}: {'; '.join(against)}; name another file")
        else:
            header = Header(
                spec=msgspec.to_builtins(spec),
                environment=fingerprint(),
                dataset=source.dataset,
                command=command,
                planned=len(trials),
                asked=asked_of(trials),
            )
            journal = Journal.create(path, header, overwrite=results is None)
        return cls(spec, source, described, trials, journal, path, known, is_new)

    def notes(self) -> list[str]:
        """What was taken for granted."""
        told = []
        if self.spec.consumer is not None and "frame" in self.spec.jobs:
            told.append("the frame job has no batches, and no consumer")
        if self.spec.data_type is None and self.source.others:
            names = ", ".join([self.source.data_type, *self.source.others])
            chosen = f"measured on {self.source.data_type}, which has the most bytes of {names}"
            told.append(f"{chosen}; --data-type chooses another")
        return told


def _drive(
    run: _Run,
    progress: Progress | None,
    make_executor: MakeExecutor,
    measure: Callable[[Scheduler], Found],
) -> tuple[Scheduler, Found]:
    """Run the scheduler, and what `measure` gave; whatever happens, no process stays behind."""
    launched = max((sample.launch for sample in run.known), default=0)
    executor = make_executor(run.data, run.spec, launched)
    progress = progress or Silent()
    exceeds = check_memory(run.data, wanted=run.spec.max_memory_bytes, free=may_be_taken())
    scheduler = Scheduler(
        spec=run.spec,
        trials=run.trials,
        executor=executor,
        journal=run.journal,
        known=run.known,
        progress=progress,
        exceeds=exceeds,
        rows=lambda files: rows_of(run.data.paths[:files]),
    )
    try:
        found = measure(scheduler)
    finally:
        with finishing():
            try:
                progress.close()
            finally:
                executor.close()
    return scheduler, found


def _check_profile_file(path: Path) -> None:
    """Find out before anything is measured whether a profile can go there.

    A file that is damaged or not ours is not overwritten.
    """
    if path.is_dir():
        raise InputError(f"--profile {path} is a folder; name a file")
    if path.exists():
        try:
            Profile.load(path)
        except DocumentError as error:
            raise DocumentError(f"{error}. It is left as it is: name another file") from error
    try:
        _try_to_write_in(path.parent)
    except OSError as error:
        raise cannot_write_profile(path, error) from error


def _check_store() -> None:
    """Warn before anything is measured where the user's store cannot be written."""
    store = profile_home()
    try:
        _try_to_write_in(store)
    except OSError as error:
        warn(
            f"the profile cannot be stored in {store}: {error.strerror or error}; stop and name a "
            "file with --profile FILE, or another folder with FEEDRATE_HOME"
        )


def _try_to_write_in(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder):
        pass


def _store(new: Profile, run: _Run, notes: list[str]) -> Path | None:
    """Save to the user's store; one that is closed is a note."""
    try:
        return _save(new, store_path(run.source.base_dir, new.machine), notes)
    except FeedrateError as error:
        notes.append(
            f"the profile was not stored: {error}. What was measured is not lost: feedrate "
            f"recommend {run.path} --profile FILE"
        )
        return None


def _save(new: Profile, path: Path, notes: list[str]) -> Path:
    """Add to the profile that is there, telling what is replaced.

    Two tunes that end at once both get their entries in.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write_profile(path, error) from error
    with locked(path.parent):
        return _with_earlier(new, path, notes).save(path)


def _with_earlier(new: Profile, path: Path, notes: list[str]) -> Profile:
    try:
        earlier = Profile.load(path) if path.exists() else None
    except DocumentError as error:
        notes.append(f"what was there is replaced: {error}")
        return new
    if earlier is None:
        return new
    if not _mergeable(earlier, new):
        notes.append(f"{path} held a profile of other data or another machine; it is replaced")
        return new
    for entry in (one for one in new.entries if one.max_files is None):
        same = (entry.job, entry.data_type, entry.max_files)
        old = next((e for e in earlier.entries if (e.job, e.data_type, e.max_files) == same), None)
        if old is not None and (old.settings != entry.settings or old.files > entry.files):
            before = f"{old.settings.backend} ({short_settings(old.job, old.settings)})"
            notes.append(
                f"the profile's {entry.job} job was {before}, measured on "
                f"{counted(old.files, 'file')}; it is replaced by what "
                f"{counted(entry.files, 'file')} gave"
            )
    return earlier.merged(new)


def _mergeable(earlier: Profile, new: Profile) -> bool:
    """Whether entries of an earlier profile still hold beside the new ones."""
    folders = {Path(dataset.folder).parent for dataset in earlier.datasets}
    mine = {Path(dataset.folder).parent for dataset in new.datasets}
    return folders == mine and not mismatches(earlier, new.machine, ())
