"""`sweep`, `tune` and `recommend`, for the CLI and for notebooks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...loaders.base.errors import InputError
from ...loaders.choosing.profile import Profile
from ...loaders.choosing.registry import is_custom
from ..choose.profile_entries import as_profile
from ..choose.recommendation import Recommendation, recommend_all
from ..plan.host import Host
from ..plan.spec import Spec, load_spec
from ..plan.spec_file import SpecFile
from ..record.objectives import THROUGHPUT
from ..record.results import Results, read_results, read_sweep
from ..record.speedup import loader_text
from ..show.progress import Progress
from ..system.ranks import local_ranks
from .budget import BudgetError
from .coverage import budget_notes
from .opening import MakeExecutor, Run, child_processes
from .profile_writing import check_profile_file, check_store, save, store
from .scheduler import Scheduler
from .search import Search

NO_EMULATED_PROFILE = (
    "no profile was written, since the storage was emulated; --profile FILE writes one, which "
    "loaders do not use by themselves"
)


@dataclass(frozen=True, repr=False)
class Outcome:
    """The result of a sweep: a table in a notebook, text when printed."""

    results: Results
    results_path: Path
    recommendations: list[Recommendation] = field(default_factory=list)
    profile: Profile | None = None
    profile_path: Path | None = None
    notes: list[str] = field(default_factory=list)
    """Further notes for the user."""

    def __str__(self) -> str:
        from ..show.terminal import as_text, sweep_view

        notes = "".join(f"note: {note}\n" for note in self.notes)
        return as_text(sweep_view(self.results, self.recommendations)) + notes

    def __repr__(self) -> str:
        return str(self)

    def _repr_markdown_(self) -> str:
        from ..show.markdown import as_markdown

        return as_markdown(self.results, self.recommendations, self.notes)


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """An outcome as JSON values, without its notes."""
    from ..show.as_json import recommendations_json

    return {
        "results": str(outcome.results_path),
        "profile": outcome.profile_path and str(outcome.profile_path),
        "emulated": outcome.results.header.emulated,
        "recommendations": recommendations_json(outcome.results, outcome.recommendations),
    }


def sweep(
    data: str | os.PathLike[str],
    *,
    spec: str | os.PathLike[str] | None = None,
    results: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress | Literal[False] | None = None,
    make_executor: MakeExecutor = child_processes,
    screen: Callable[[Scheduler], None] = Scheduler.screen,
    host: Host | None = None,
    command: str = "feedrate.harness.sweep",
    **settings: Any,
) -> Outcome:
    """Measure every trial of a grid, without search and without a profile.

    Args:
        data: a storage's folder, a data type's folder, any folder of Parquet files, or a glob.
        spec: a TOML file with the fields of `Spec`.
        results: the journal to write; by default a new file in the temporary folder.
        resume: add the missing samples to an existing journal.
        progress: shows the progress; by default on stderr, and False shows nothing.
        make_executor: makes the executor that runs the trials: `child_processes`, or `in_process`
            of the module of that name, for a debugger.
        screen: runs the trials of all rounds.
        host: the machine on which the executor runs them; by default this one.
        command: noted in the journal.
        **settings: fields of `Spec`; they override the file's.

    Raises:
        FeedrateError: bad input; the message says what to do. Samples so far are kept.
    """
    loaded = load_spec(spec, settings)
    with local_ranks(loaded.local_ranks if host is None else 1):
        run = Run.open(
            data, loaded, SpecFile(spec, settings), results, command, resume=resume, host=host
        )
        with run.journal, run.scheduler(make_executor, progress) as scheduler:
            screen(scheduler)
    return Outcome(read_results(run.path), run.path, notes=[*run.notes(), *scheduler.notes])


def tune(
    data: str | os.PathLike[str],
    *,
    spec: str | os.PathLike[str] | None = None,
    results: str | os.PathLike[str] | None = None,
    resume: bool = False,
    profile: str | os.PathLike[str] | Literal[False] | None = None,
    progress: Progress | Literal[False] | None = None,
    make_executor: MakeExecutor = child_processes,
    host: Host | None = None,
    command: str = "feedrate.harness.tune",
    **settings: Any,
) -> Outcome:
    """Find the best settings for each job, confirm them in separate launches, write a profile.

    Args:
        data: a storage's folder, a data type's folder, any folder of Parquet files, or a glob.
        spec: a TOML file with the fields of `Spec`.
        results: the journal to write; by default a new file in the temporary folder.
        resume: add the missing samples to an existing journal.
        profile: the file to write; by default the user's store, where
            `OptimizedHistoricalDataLoader` finds it. False writes none, nor does the default if
            storage is emulated.
        progress: shows the progress; by default on stderr, and False shows nothing.
        make_executor: makes the executor that runs the trials: `child_processes`, or `in_process`
            of the module of that name, for a debugger.
        host: the machine on which the executor runs them; by default this one.
        command: noted in the journal and in the profile.
        **settings: fields of `Spec`; they override the file's.

    Raises:
        BudgetError: the budget is below the minimum budget.
        FeedrateError: bad input; the message says what to do. Samples so far are kept.
    """
    began = time.monotonic()  # the budget includes everything from here on
    loaded = load_spec(spec, settings)
    emulates = loaded.emulate_storage is not None
    if profile is not None and profile is not False:
        check_profile_file(Path(profile), emulated=emulates)
    with local_ranks(loaded.local_ranks if host is None else 1):
        run = Run.open(
            data, loaded, SpecFile(spec, settings), results, command, resume=resume, host=host
        )
        try:
            with run.journal:
                if profile is None and not emulates:
                    check_store()
                with run.scheduler(make_executor, progress) as scheduler:
                    search = Search(scheduler, began)
                    search.run()
        except BudgetError:
            if run.is_new:  # it holds only its header
                run.path.unlink(missing_ok=True)
            raise
        measured = read_results(run.path)
        budget = budget_notes(loaded, search.tried)
        try:
            advice = recommend_all(measured)
        except InputError as error:
            raise InputError(". ".join([str(error), *budget])) from error
        made = as_profile(measured, advice.found, command)
        notes = [*run.notes(), *scheduler.notes, *advice.problems, *budget]
        notes += _how_to_name(advice.found)
        path: Path | None = None
        if profile is None and emulates:
            notes.append(NO_EMULATED_PROFILE)
        elif profile is None:
            path = store(made, run, notes)
        elif profile is not False:
            path = save(made, Path(profile), notes)
        return Outcome(measured, run.path, advice.found, made, path, notes)


def _how_to_name(recommendations: Iterable[Recommendation]) -> list[str]:
    """Notes on how to use a chosen custom loader: no profile imports one."""
    names = {one.chosen.backend for one in recommendations if is_custom(one.chosen.backend)}
    return [
        f"a profile imports nothing: loaders use {name} only if named, as in "
        f"OptimizedHistoricalDataLoader(storage, {name!r})"
        for name in sorted(names)
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
        max_memory: limit of peak PSS in bytes, or text like `2GiB`; by default the sweep's.
        objective: `throughput`, `latency`, `memory` or `epoch-time`; by default the sweep's.
        tie: settings whose estimated ratio to the best is at most this are equally good; by
            default the sweep's.
        profile: where to write a profile; by default none is written.
        command: noted in the profile.

    Raises:
        FeedrateError: damaged results, a value that is not allowed, or nothing to recommend.
    """
    measured = read_sweep(Path(results))
    if profile is not None:
        check_profile_file(Path(profile), emulated=measured.header.emulated is not None)
    given = {"max_memory": max_memory, "objective": objective, "tie": tie}
    limit = load_spec(None, given).max_memory_bytes
    advice = recommend_all(measured, limit, objective=objective, tie=tie)
    made = as_profile(measured, advice.found, command)
    notes = list(advice.problems)
    if measured.truncated:
        notes.append(f"the last line of {results} was cut off and is left out")
    original = measured.header.spec.get("objective", THROUGHPUT.name)
    repeats = measured.header.spec.get("repeats", Spec().repeats)
    searched = any(one.phase == "confirming" and one.round >= repeats for one in measured.samples)
    if searched and objective not in (None, original):
        notes.append(
            f"the search was by {original}: settings that lost by it had few launches, or none; to "
            f"look for the best by {objective}: feedrate tune DATA --objective {objective}"
        )
    if any(value is not None for value in given.values()):
        notes += _changes(measured, advice.found)
    path = None if profile is None else save(made, Path(profile), notes)
    return Outcome(measured, Path(results), advice.found, made, path, notes)


def _changes(results: Results, recommendations: Iterable[Recommendation]) -> Iterator[str]:
    """A sentence per job: whether the results' own objective and limit give another choice."""
    try:
        by_job = {one.job: one.chosen for one in recommend_all(results).found}
    except InputError:  # no settings meet the limit that the results were measured with
        return
    for one in recommendations:
        if one.job not in by_job:
            continue
        if by_job[one.job].trial == one.chosen.trial:
            yield f"{one.job}: the choice is the same as without these options"
        else:
            other = loader_text(one.job, by_job[one.job].settings)
            yield f"{one.job}: without these options the choice is {other}"
