"""`feedrate doctor`: exit 0 if all can be loaded, 1 for loading errors, 2 for bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from .console import AsJson, echo, option, out_console
from .options import DataType


def doctor_command(
    data: Annotated[str | None, typer.Argument(metavar="[DATA]", help="Data to look at.")] = None,
    data_type: DataType = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure loaders of known behaviour.")
    ] = False,
    write_storage: Annotated[
        Path | None,
        option("Write what is measured of an object store, for --emulate-storage.", "FILE"),
    ] = None,
    json: AsJson = False,
) -> None:
    """Check this machine and data: problems and remedies; exit 1 for loading errors.

    Of a URL it also measures the store, for at most 20 s and 1 GiB.
    """
    from .doctor_view import findings_view, measured_view, run_doctor
    from .store_view import check_write_storage, measured_store, store_view

    check_write_storage(data, write_storage)
    examined, measured = run_doctor(data, data_type, calibrate=calibrate)
    store = measured_store(data, write_storage)
    if json:
        found = {"findings": examined, "calibration": measured, "store": store}
        echo(msgspec.json.encode(found).decode(), exact=True)
    else:
        out_console().print(findings_view(examined))
        if measured:
            out_console().print(measured_view(measured))
        if store is not None:
            out_console().print(store_view(store))
    if any(one.level == "error" for one in examined) or not all(one.holds for one in measured):
        raise typer.Exit(1)
