"""`feedrate gate`: exit 0 for a pass, 1 for a regression, 2 for bad input, 3 if inconclusive."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from ...loaders.base.errors import InputError, StorageError
from ..gate.rule import GateVerdict
from ..record.journal import new_results_file
from ..show.progress import make_progress
from ..show.text import Text, say
from ..system.stopping import SIGNALS, handling
from .console import AsJson, echo, in_github_actions, option, out_console, workflow_command
from .options import (
    USAGE_ERROR,
    DataType,
    EmulateStorage,
    Target,
    check_targets,
    remove_empty,
    write,
)

if TYPE_CHECKING:
    from ..gate.outcome import GateOutcome

EXIT: dict[GateVerdict, int] = {"pass": 0, "regression": 1, "failed": 1, "inconclusive": 3}

Spec = Annotated[Path | None, option("The TOML file with the cells.", "FILE")]
Base = Annotated[str | None, option("The revision to compare with.", "REF")]
Head = Annotated[str | None, option("The revision that is judged; default: HEAD.", "REF")]
BasePython = Annotated[str | None, option("An interpreter that has base installed.", "PYTHON")]
HeadPython = Annotated[str | None, option("An interpreter that has head installed.", "PYTHON")]
Loader = Annotated[
    str | None, option("The loader that both have: package.module:function.", "NAME")
]
Baseline = Annotated[
    Path | None, option("Compare the installed version with these results.", "FILE")
]
Threshold = Annotated[
    float | None, option("The ratio beyond which a slowdown fails; default: 1.05.", "RATIO")
]
Tolerate = Annotated[
    float | None, option("The ratio that the interval must stay below; default: 1.15.", "RATIO")
]

_KINDS = {"failed": "error", "regression": "error", "inconclusive": "warning"}


def gate_command(
    data: Annotated[
        list[str] | None,
        typer.Argument(metavar="[DATA]", help="The data; or files of pytest-benchmark."),
    ] = None,
    spec: Spec = None,
    base: Base = None,
    head: Head = None,
    base_python: BasePython = None,
    head_python: HeadPython = None,
    baseline: Baseline = None,
    update_baseline: Annotated[
        bool,
        typer.Option(
            "--update-baseline",
            help="If the gate passes, store new and faster cells in the baseline.",
        ),
    ] = False,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Measure how noisy this host is for the gate.")
    ] = False,
    pytest_benchmark: Annotated[
        bool,
        typer.Option(
            "--pytest-benchmark", help="Compare files of pytest-benchmark: base head base head …"
        ),
    ] = False,
    loader: Loader = None,
    data_type: DataType = None,
    target: Target = None,
    threshold: Threshold = None,
    tolerate: Tolerate = None,
    emulate_storage: EmulateStorage = None,
    inconclusive: Annotated[
        str | None, option("Treat inconclusive as pass (0) or fail (1).", "pass|fail")
    ] = None,
    results: Annotated[Path | None, option("The journal to write.", "FILE")] = None,
    markdown: Annotated[Path | None, option("Write a Markdown report.", "FILE")] = None,
    junit: Annotated[Path | None, option("Write JUnit XML.", "FILE")] = None,
    json: AsJson = False,
) -> None:
    """Fail if a revision is slower: exit 1 if slower, 0 if not, 3 if inconclusive."""
    _check_together({name for name, value in locals().items() if value not in (None, False, [])})
    from ..gate.pytest_files import gate_pytest
    from ..gate.verb import gate, gate_against

    if self_test:
        with _stoppable(None):
            code = _self_test()
        raise typer.Exit(code)
    if inconclusive not in (None, "pass", "fail"):
        raise InputError(f"--inconclusive is {inconclusive!r}; it is pass or fail")
    check_targets(markdown, junit)
    settings: dict[str, Any] = {
        "data_type": data_type,
        "target": target,
        "threshold": threshold,
        "tolerate": tolerate,
        "emulate_storage": emulate_storage,
    }
    common: dict[str, Any] = {"spec": spec, "loader": loader}
    if pytest_benchmark:
        outcome = gate_pytest(data or [], threshold=threshold, tolerate=tolerate)
    else:
        path = results or new_results_file()
        with _stoppable(path), closing(make_progress()) as progress:
            common |= {"results": path, "progress": progress}
            if baseline is not None:
                outcome = gate_against(
                    _one(data), baseline=baseline, update=update_baseline, **common, **settings
                )
            else:
                outcome = gate(
                    _one(data), base=base, head=head, base_python=base_python,
                    head_python=head_python, **common, **settings,
                )  # fmt: skip
    problems = _report(outcome, markdown, junit, inconclusive)
    _print(outcome, json=json)
    for problem in problems:
        say(f"feedrate: {problem}")
    code = _exit_code(outcome.judgement.verdict, inconclusive)
    if problems and not code:
        code = USAGE_ERROR
    if code:
        raise typer.Exit(code)


_MEASURING = {
    "data", "spec", "base", "head", "base_python", "head_python", "baseline", "update_baseline",
    "loader", "data_type", "target", "results", "emulate_storage",
}  # fmt: skip
_REVISIONS = {"base", "head", "base_python", "head_python"}
_REPORTS = {"threshold", "tolerate", "inconclusive", "markdown", "junit", "json"}


def _check_together(given: set[str]) -> None:
    """Raise `InputError` for flags that have no effect together with others."""
    rules = [
        ("self_test", _MEASURING | _REPORTS | {"pytest_benchmark"}, "takes nothing else"),
        ("pytest_benchmark", _MEASURING - {"data"}, "compares files, and measures nothing"),
        ("baseline", _REVISIONS, "compares what is installed with results of before"),
    ]
    for flag, against, why in rules:
        if flag in given and (wrong := sorted(against & given)):
            raise InputError(f"{_flag(flag)} {why}: leave out {', '.join(map(_flag, wrong))}")
    if "update_baseline" in given and "baseline" not in given:
        raise InputError("--update-baseline needs --baseline FILE: what to update?")


def _flag(name: str) -> str:
    return "DATA" if name == "data" else f"--{name.replace('_', '-')}"


@contextmanager
def _stoppable(path: Path | None) -> Iterator[None]:
    """Keep the journal and clean up when the gate is stopped by Ctrl-C or a CI server.

    Further signals are ignored until the process ends: cleaning up takes seconds and leaves things
    behind if interrupted, and the exit status must say that there is no verdict.
    """

    def stop(*_: object) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    try:
        with handling(stop):
            yield
    except KeyboardInterrupt:
        remove_empty(path)
        kept = f"; what was measured is in {path}" if path and path.exists() else ""
        say(f"feedrate: stopped, so there is no verdict{kept}")
        raise typer.Exit(USAGE_ERROR) from None
    finally:
        remove_empty(path)


def _self_test() -> int:
    from ..gate.selftest import self_test

    with closing(make_progress()) as progress:
        found = self_test(progress)
    out_console().print(Text(str(found)))
    if found.passed:
        return EXIT["pass"]
    wrong = found.equal.verdict == "regression" or found.planted.verdict == "pass"
    return EXIT["regression" if wrong else "inconclusive"]


def _one(data: list[str] | None) -> str | None:
    if data and len(data) > 1:
        raise InputError(f"one DATA at a time, not {', '.join(data)}")
    return data[0] if data else None


def _print(outcome: GateOutcome, *, json: bool) -> None:
    """Print the verdict on stdout, and the results file and notes on stderr."""
    from ..gate.view import gate_json, gate_view, verdict_line

    if json:
        echo(msgspec.json.encode(gate_json(outcome)).decode(), exact=True)
    else:
        console = out_console()
        # One line if a program reads it; folded in a terminal.
        verdict = Text(verdict_line(outcome), style="bold")
        console.print(verdict, soft_wrap=not console.is_terminal)
        console.print(gate_view(outcome))
    if outcome.results_path is not None:
        say(f"results: {outcome.results_path}")
    for line in (*workflow_commands(outcome), *(f"note: {note}" for note in outcome.notes)):
        say(line)


def _report(
    outcome: GateOutcome, markdown: Path | None, junit: Path | None, inconclusive: str | None
) -> list[StorageError]:
    """Write the requested files and GitHub's step summary; return the errors."""
    from ..gate.view import gate_markdown

    shown = {None: "skipped", "pass": "passed", "fail": "failure"}[inconclusive]
    problems = []
    try:
        if markdown is not None:
            write(markdown, gate_markdown(outcome))
    except StorageError as error:
        problems.append(error)
    try:
        if junit is not None:
            from ...reports.junit import gate_junit

            write(junit, gate_junit(outcome, inconclusive=shown))
    except StorageError as error:
        problems.append(error)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        _add(Path(summary), gate_markdown(outcome))
    return problems


def _exit_code(verdict: GateVerdict, inconclusive: str | None) -> int:
    if verdict == "inconclusive" and inconclusive is not None:
        return EXIT["pass" if inconclusive == "pass" else "regression"]
    return EXIT[verdict]


def _add(path: Path, text: str) -> None:
    """Append to a file that the user did not name: failing to do so changes no verdict."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        say(f"note: no summary of the step: cannot write {path}: {error.strerror or error}")


def workflow_commands(outcome: GateOutcome) -> list[str]:
    """Annotations of cells that did not pass, and of doubts; none outside GitHub Actions."""
    from ..gate.view import failures

    if not in_github_actions():
        return []
    told = [
        (_KINDS[one.verdict], f"{one.cell}: {words}")
        for one, words in failures(outcome.judgement.findings)
    ]
    told += [("warning", doubt) for doubt in outcome.judgement.doubts]
    return [workflow_command(kind, text, "feedrate gate") for kind, text in told]
