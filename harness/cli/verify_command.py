"""`feedrate verify`: exit 0 if every row came once, 1 for faults, 2 for bad input."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from ...loaders.base.settings import DEFAULT_BATCH_SIZE
from ..show.text import say
from ..system.units import parse_counts, parse_duration, parse_list
from .console import AsJson, DataArgument, echo, option, out_console
from .options import DataType, Target, check_targets, write

if TYPE_CHECKING:
    from ..verify.outcome import Verified

FAULTS = 1


def verify_command(
    data: DataArgument,
    loader: Annotated[
        str, option("pytorch, tensorflow, or package.module:function.", "NAME")
    ] = "pytorch",
    job: Annotated[str, option("What is loaded.", "batches|stream")] = "batches",
    data_type: DataType = None,
    columns: Annotated[str | None, option("Features; default: all numbers.", "NAME,NAME,…")] = None,
    target: Target = None,
    files: Annotated[int | None, option("Load only the first N files.", "N")] = None,
    ranks: Annotated[str, option("Numbers of ranks to run.", "N,N,…")] = "1,2",
    epochs: Annotated[int, option("Epochs with each number of ranks.", "N")] = 2,
    resume: Annotated[
        bool, typer.Option("--resume", help="Also stop, and continue from the state.")
    ] = False,
    wrapper: Annotated[
        str, option("What divides the rows among ranks.", "accelerate|lightning|none")
    ] = "none",
    workers: Annotated[int, option("num_workers of the settings.", "N")] = 2,
    batch_size: Annotated[int, option("Rows of a step of a rank.", "N")] = DEFAULT_BATCH_SIZE,
    no_shuffle: Annotated[bool, typer.Option("--no-shuffle", help="Do not shuffle.")] = False,
    drop_last: Annotated[
        bool, typer.Option("--drop-last", help="Allow that last steps are left out if not full.")
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Also fail for rows left out or repeated so that steps are equal."
        ),
    ] = False,
    seed: Annotated[int, option("Seed of the order.", "N")] = 0,
    timeout: Annotated[str, option("Time in which a rank must deliver rows.", "TIME")] = "60s",
    markdown: Annotated[Path | None, option("Write a Markdown report.", "FILE")] = None,
    junit: Annotated[Path | None, option("Write JUnit XML.", "FILE")] = None,
    json: AsJson = False,
) -> None:
    """Check that a loader delivers every row once: under ranks, resumed, in wrappers.

    Exit 1 if a row is lost, repeated or changed, or if the order or the steps are wrong.
    """
    from ..verify.verb import verify_loader
    from ..verify.view import verify_view

    check_targets(markdown, junit)
    found = verify_loader(
        data, loader=loader, job=job, data_type=data_type,  # type: ignore[arg-type]  # it checks them
        columns=None if columns is None else parse_list(columns), target=target, files=files,
        ranks=parse_counts(ranks, "--ranks"), epochs=epochs, resume=resume, wrapper=wrapper,  # type: ignore[arg-type]  # the same
        workers=workers, batch_size=batch_size, shuffle=not no_shuffle, drop_last=drop_last,
        strict=strict, seed=seed, timeout=parse_duration(timeout, "--timeout"), tell=say,
    )  # fmt: skip
    _write_reports(found, markdown, junit)
    if json:
        echo(msgspec.json.encode(_document(found)).decode(), exact=True)
    else:
        out_console().print(verify_view(found))
    if not found.passed:
        raise typer.Exit(FAULTS)


def _write_reports(found: Verified, markdown: Path | None, junit: Path | None) -> None:
    from ..verify.view import as_markdown

    if markdown is not None:
        write(markdown, as_markdown(found))
    if junit is not None:
        from ...reports.junit import verify_junit

        write(junit, verify_junit(found))


def _document(found: Verified) -> dict[str, Any]:
    return {"passed": found.passed, **msgspec.to_builtins(found)}
