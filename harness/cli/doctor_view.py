"""The checks and tables of `feedrate doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table

from ...loaders.base.errors import ParquetFileError
from ...loaders.remote.urls import is_url
from ..doctor import calibration
from ..doctor.files import Finding, examine_data, split_damaged, unreadable
from ..doctor.machine import examine_machine
from ..plan.source import find_files
from ..show.text import Text, say
from ..system.formats import format_bytes_per_s, format_rows_per_s
from ..system.scratch import scratch
from ..system.units import counted
from ..trial.alone import leading_files
from ..trial.ceilings import Ceiling, ceilings

CALIBRATED_BYTES = 256 << 20  # of the data, which is read cold and warm
SCRATCH_FILES, SCRATCH_BYTES = 64, 1 << 20  # files to read for calibration without data
_STYLES = {"ok": "", "note": "cyan", "warning": "yellow", "error": "red"}
_MARKS = {"ok": " ", "note": "·", "warning": "!", "error": "x"}


def run_doctor(
    data: str | None, data_type: str | None, *, calibrate: bool
) -> tuple[list[Finding], list[calibration.Finding]]:
    """Check the machine, the data if named, and with `calibrate` the measurements themselves.

    Raises:
        FeedrateError: the data do not exist.
    """
    found = list(examine_machine())
    listing = None if data is None else find_files(data, data_type)
    files: list[str] = []
    if listing is not None:
        good, damaged = split_damaged(listing)
        found += damaged
        files = good.files
        checks = (examine_data(good), map(ceiling_finding, ceilings(files)))
        for check in checks if files else ():
            try:
                found += check
            except ParquetFileError as error:  # damage that only decoding finds
                if (finding := unreadable(error)) not in found:
                    found.append(finding)
    measured: list[calibration.Finding] = []
    if calibrate:
        with scratch() as folder:
            paths = files if files and not is_url(files[0]) else _scratch(folder)
            for one in calibration.calibrate(leading_files(paths, CALIBRATED_BYTES)):
                say(f"{'holds' if one.holds else 'FAILS'}: {one.what}")
                measured.append(one)
    return found, measured


def ceiling_finding(ceiling: Ceiling) -> Finding:
    """The finding for a ceiling."""
    if ceiling.rate is None:
        return Finding("ceiling", f"{ceiling.name}: {ceiling.how}", "note")
    form = format_bytes_per_s if ceiling.unit == "B/s" else format_rows_per_s
    spread = f"{form(ceiling.low)} to {form(ceiling.high)}"
    return Finding("ceiling", f"{ceiling.name} {form(ceiling.rate)} ({spread}; {ceiling.how})")


def _scratch(folder: Path) -> list[str]:
    """Write files to read if the user names none."""
    paths = [folder / f"{number:02}.bin" for number in range(SCRATCH_FILES)]
    for path in paths:
        path.write_bytes(bytes(SCRATCH_BYTES))
    return [str(path) for path in paths]


def findings_view(found: Sequence[Finding]) -> RenderableType:
    """One line each, by topic, with the remedy below it."""
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    for one in found:
        style = _STYLES[one.level]
        text = Text(one.text, style=style)
        if one.remedy:
            text.append(f"\n→ {one.remedy}", style="bold")
        table.add_row(Text(_MARKS[one.level], style=style), one.topic, text)
    errors = sum(one.level == "error" for one in found)
    warnings = sum(one.level == "warning" for one in found)
    totals = [f"{counted(errors, 'loading error')} (x)"] if errors else []
    totals += [f"{counted(warnings, 'problem')} to fix (!)"] if warnings else []
    return Group(table, Text(f"\n{', '.join(totals) or 'nothing is wrong'}"))


def measured_view(found: Sequence[calibration.Finding]) -> RenderableType:
    """A table of measured against true values."""
    table = Table(title="Known truth", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("a loader that")
    for name in ("true", "measured"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for one in found:
        verdict = "holds" if one.holds else "FAILS"
        what = f"{one.what} ({one.reason})" if one.reason and not one.holds else one.what
        table.add_row(Text(what), one.true, one.measured, verdict)
    return Padding(table, (1, 0, 0, 0))
