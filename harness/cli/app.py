"""The command line's entry: process set-up, errors, and the commands that measure."""

from __future__ import annotations

import codecs
import contextlib
import io
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from typer.core import TyperGroup

from ...loaders import __version__
from ...loaders.base.errors import FeedrateError, FeedrateWarning, InputError, unknown
from ..choose.recommendation import Advice, recommend_all
from ..datasets import data as datasets
from ..record.results import Results, read_sweep
from ..show.machines import machines_view
from ..show.progress import make_progress
from ..show.terminal import sweep_view
from ..show.text import Text, say
from ..system.formats import format_bytes
from ..system.stopping import Terminated, exit_status, handling, interrupt
from ..system.units import counted
from .console import (
    Verbose,
    echo,
    in_github_actions,
    option,
    out_console,
    replace_unencodable,
    workflow_command,
)
from .doctor_command import doctor_command
from .gate_commands import gate_command
from .measure_commands import recommend_command, sweep_command, tune_command
from .options import INTERRUPTED, USAGE_ERROR, write
from .report_commands import check_outputs, write_reports
from .store_commands import cache_app, profile_app
from .verify_command import verify_command


class _Commands(TyperGroup):
    """The commands; each prints a message when a signal stops it."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            how = " by SIGTERM" if isinstance(stop, Terminated) else ""
            say(f"feedrate: {ctx.invoked_subcommand} was interrupted{how}")
            raise typer.Exit(exit_status(stop)) from None


app = typer.Typer(
    name="feedrate",
    cls=_Commands,
    help="Measure, tune and prove how fast Parquet feeds TensorFlow and PyTorch.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(profile_app, name="profile")
app.add_typer(cache_app, name="cache")
app.command("tune")(tune_command)
app.command("sweep")(sweep_command)
app.command("recommend")(recommend_command)
app.command("gate")(gate_command)
app.command("verify")(verify_command)


def run() -> None:
    """Run the command line and exit."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's own chatter on import
    codecs.register_error("feedrate", replace_unencodable)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="feedrate")
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    if debug:
        logging.basicConfig(level=logging.DEBUG, format="%(name)s: %(message)s")
    try:
        with handling(interrupt), _warnings_as_lines():
            code = app([item for item in arguments if item != "--debug"], standalone_mode=False)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except (KeyboardInterrupt, typer.Abort) as stop:
        say("feedrate: interrupted")
        cause = stop.__context__ if isinstance(stop, typer.Abort) else stop
        sys.exit(exit_status(cause) if isinstance(cause, KeyboardInterrupt) else INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - whatever it is, the exit code is 2
        sentence = _sentence(error)
        if debug or sentence is None:
            traceback.print_exc()
        else:
            say(f"feedrate: {sentence}")
            if in_github_actions():
                say(workflow_command("error", sentence))
        sys.exit(USAGE_ERROR)  # never Python's own 1, which is a verdict of the gate
    sys.exit(code if isinstance(code, int) else 0)


@contextlib.contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Show our own warnings without a source line, which is not the user's code here."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", FeedrateWarning)  # no error even if PYTHONWARNINGS=error
        shown = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, FeedrateWarning):
                say(f"warning: {message}")
            else:
                shown(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield


def _sentence(error: Exception) -> str | None:
    """The message for the user; None for an unexpected error, which shows its traceback."""
    if isinstance(error, FeedrateError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename or 'output'}: {error.strerror or error}"
    from_parser = getattr(error, "format_message", None)
    if from_parser is None:
        return None
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        return f"a command is missing\n\n{from_parser()}"
    command = "feedrate" if context is None else context.command_path
    return f"{from_parser()} Try: {command} --help"


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        echo(__version__)
        raise typer.Exit


@app.command("report")
def report_command(
    results: Annotated[
        list[Path], typer.Argument(metavar="RESULTS...", help="Journals of tune or sweep.")
    ],
    html: Annotated[Path | None, option("Write a page that works offline.", "FILE")] = None,
    markdown: Annotated[
        Path | None, option("Write Markdown, and its charts into a folder next to it.", "FILE")
    ] = None,
    charts: Annotated[Path | None, option("Write the charts as SVG and PNG.", "DIR")] = None,
    csv: Annotated[Path | None, option("Write all samples as CSV.", "FILE")] = None,
    verbose: Verbose = False,
) -> None:
    """Show results as tables, a page, Markdown, charts or CSV; several side by side."""
    check_outputs(results, [html, markdown, csv])
    found = {path: read_sweep(path) for path in dict.fromkeys(results)}
    chosen = {path: _recommended(path, measured) for path, measured in found.items()}
    if html is not None or markdown is not None or charts is not None:
        write_reports(found, chosen, html=html, markdown=markdown, charts=charts)
    if csv is not None:
        from ...reports.samples import samples_csv

        write(csv, samples_csv({str(path): results for path, results in found.items()}))
    if verbose or (html is None and markdown is None and charts is None and csv is None):
        for path, measured in found.items():
            if len(found) > 1:
                out_console().print(Text(f"{path}\n", style="bold"))
            out_console().print(sweep_view(measured, chosen[path].found, verbose=verbose))
        machines = [
            (path.stem, measured.header.environment, chosen[path].found)
            for path, measured in found.items()
        ]
        if any(machine != machines[0][1] for _, machine, _ in machines):
            out_console().print(machines_view(machines))


def _recommended(path: Path, results: Results) -> Advice:
    """The recommendations; none if all trials failed, which a report can also show."""
    try:
        advice = recommend_all(results)
    except InputError as error:
        advice = Advice(problems=[str(error)])
    for problem in advice.problems:
        say(f"nothing to recommend from {path}: {problem}")
    return advice


@app.command("data")
def data_command(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="flights, box-scores or lineitem.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The storage to write into.")],
    days: Annotated[int | None, option("Only the first N days.", "N")] = None,
    seasons: Annotated[
        int | None, option("Seasons of box-scores; default: 2, or more for --days.", "N")
    ] = None,
    scale: Annotated[float | None, option("Scale of lineitem; default: 0.1.", "S")] = None,
    seed: Annotated[int | None, option("Seed of box-scores; default: 0.", "N")] = None,
) -> None:
    """Make data: real flights, box scores, line items."""
    given = {"days": days, "seasons": seasons, "scale": scale, "seed": seed}
    makers: dict[str, tuple[Callable[..., datasets.Dataset], tuple[str, ...]]] = {
        "flights": (datasets.write_flights, ("days",)),
        "box-scores": (datasets.write_box_scores, ("days", "seasons", "seed")),
        "lineitem": (datasets.write_lineitem, ("scale",)),
    }
    if kind not in makers:
        raise InputError(unknown("kind of data", kind, makers))
    make, takes = makers[kind]
    for name, value in given.items():
        if value is not None and name not in takes:
            raise InputError(
                f"--{name} does not go with {kind}; it takes "
                f"{', '.join(f'--{option}' for option in takes)}"
            )
    wanted = {name: value for name, value in given.items() if value is not None}
    made = make(out, **wanted)
    echo(
        f"{counted(made.files, 'file')}, {counted(made.rows, 'row')}, "
        f"{format_bytes(made.bytes)} of {', '.join(made.data_types)} in {made.root}"
    )
    say(f"next: feedrate tune {out}")


app.command("doctor")(doctor_command)


@app.command("demo")
def demo_command(
    out: Annotated[
        Path, option("A new or empty folder, or that of an earlier demo.", "DIR")
    ] = Path("feedrate-demo"),
) -> None:
    """Run the whole workflow on real data, in minutes."""
    from .demo import run_demo

    run_demo(out, make_progress(), out_console())
