"""The commands that measure and choose: tune, sweep and recommend."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from ...loaders.base.errors import InputError
from ..run.tuner import Outcome, outcome_json, recommend, sweep, tune
from ..show.progress import WithResultsPath, make_progress
from ..show.terminal import answers_view, emulation_view, sweep_view
from ..show.text import say
from .console import AsJson, DataArgument, Verbose, echo, option, out_console
from .options import (
    CHOOSING,
    MEASURING,
    USAGE_ERROR,
    MaxMemory,
    NoProfile,
    Objective,
    ProfileFile,
    ResultsArgument,
    ResultsFile,
    Resume,
    Tie,
    check_ray,
    journal_file,
    resumable,
    spec_fields,
    with_flags,
)

if TYPE_CHECKING:
    from ..cluster.outcome import ClusterOutcome


@with_flags(MEASURING | CHOOSING)
def tune_command(
    data: DataArgument,
    *,
    results: ResultsFile = None,
    resume: Resume = False,
    profile: ProfileFile = None,
    no_profile: NoProfile = False,
    json: AsJson = False,
    verbose: Verbose = False,
    **flags: Any,
) -> None:
    """Find the best settings here, and write a profile."""
    if profile is not None and no_profile:
        raise InputError(f"--profile {profile} and --no-profile contradict each other; give one")
    options = {"profile": False if no_profile else profile}
    _measure(tune, data, results, flags, options, resume=resume, json=json, verbose=verbose)


@with_flags(MEASURING)
def sweep_command(
    data: DataArgument,
    *,
    results: ResultsFile = None,
    resume: Resume = False,
    json: AsJson = False,
    verbose: Verbose = False,
    **flags: Any,
) -> None:
    """Measure a whole grid: no search, no profile."""
    _measure(sweep, data, results, flags, {}, resume=resume, json=json, verbose=verbose)


def _measure(
    verb: Callable[..., Outcome],
    data: str,
    results: Path | None,
    flags: dict[str, Any],
    options: dict[str, Any],
    *,
    resume: bool,
    json: bool,
    verbose: bool,
) -> None:
    """Run `tune` or `sweep` here, or what stands for it on a Ray cluster, and show the outcome."""
    address = check_ray(flags)
    options |= {"spec": flags["spec"], "resume": resume, "command": _command()}
    options |= spec_fields(flags)
    journal = journal_file(results, resume=resume)
    outcome: Outcome | ClusterOutcome
    with resumable(journal, named=results is not None, resume=resume):
        if address is None:
            shown = WithResultsPath(make_progress(), journal)
            outcome = verb(data, results=journal, progress=shown, **options)
        else:
            from ..cluster.verb import sweep_on_ray, tune_on_ray

            say("starting Ray here" if address == "local" else f"joining the Ray cluster {address}")
            on_ray = sweep_on_ray if verb is sweep else tune_on_ray
            labels = flags["ray_labels"]
            outcome = on_ray(data, results=journal, address=address, labels=labels, **options)
    if isinstance(outcome, Outcome):
        _show(outcome, json=json, verbose=verbose)
    else:
        _show_cluster(outcome, json=json, verbose=verbose)


def recommend_command(
    results: ResultsArgument,
    objective: Objective = None,
    tie: Tie = None,
    max_memory: MaxMemory = None,
    profile: Annotated[Path | None, option("The profile to write; default: none.", "FILE")] = None,
    json: AsJson = False,
) -> None:
    """Choose again from results measured before."""
    outcome = recommend(
        results,
        max_memory=max_memory,
        objective=objective,
        tie=tie,
        profile=profile,
        command=_command(),
    )
    _show(outcome, json=json, brief=True)


def _show(outcome: Outcome, *, json: bool, brief: bool = False, verbose: bool = False) -> None:
    """Print the outcome on stdout, notes and paths on stderr; `brief` prints the answers alone."""
    found = outcome.recommendations
    if json:
        echo(msgspec.json.encode(outcome_json(outcome)).decode())
    elif brief:
        for line in emulation_view(outcome.results):
            out_console().print(line)
        out_console().print(answers_view(found, memory=True))
    else:
        out_console().print(sweep_view(outcome.results, found, verbose=verbose))
    _say_notes(outcome)


def _say_notes(outcome: Outcome, who: str = "") -> None:
    """Print the notes and the profile's path on stderr, after whose they are."""
    for note in outcome.notes:
        say(f"note: {who}{note}")
    if outcome.profile_path is not None:
        say(f"profile: {who}{outcome.profile_path}")


def _show_cluster(outcome: ClusterOutcome, *, json: bool, verbose: bool) -> None:
    """Print the outcome of a cluster on stdout, notes and paths on stderr."""
    from ..cluster.outcome import cluster_json, cluster_view

    if json:
        echo(msgspec.json.encode(cluster_json(outcome)).decode())
    else:
        out_console().print(cluster_view(outcome, verbose=verbose))
    several = len(outcome.found) > 1
    for one, found in outcome.found:
        _say_notes(found, f"{one.host.name}: " if several else "")
    for note in outcome.notes:
        say(f"note: {note}")
    failed = [one for one in outcome.machines if one.error is not None]
    for one in failed:
        say(f"feedrate: {one.host.name}: {one.error}")
    if failed:
        raise typer.Exit(USAGE_ERROR)


def _command() -> str:
    return shlex.join(["feedrate", *sys.argv[1:]])
