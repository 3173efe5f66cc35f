"""Charts as files: SVG and PNG from the same specifications as the page."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import vl_convert

from ..loaders.base.errors import StorageError
from .content import Chart
from .themes import theme

WIDTH = 640  # pixels of a plot that fills its page
SCALE = 2.0  # of PNG, for high-density screens


def write_charts(
    charts: Iterable[Chart], folder: Path, kinds: Iterable[str] = ("svg", "png")
) -> list[Path]:
    """Write charts into a folder, creating it if necessary; return the written paths.

    Raises:
        StorageError: the folder cannot be written.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for chart in charts:
            for kind in kinds:
                path = folder / f"{chart.name}.{kind}"
                path.write_bytes(as_png(chart) if kind == "png" else as_svg(chart).encode())
                written.append(path)
    except OSError as error:
        raise StorageError(
            f"cannot write charts to {folder}: {error.strerror or error}; name a folder you can "
            "write to"
        ) from error
    return written


def path_from(text: Path, picture: Path) -> str:
    """The path of a picture relative to the folder of a text, with slashes as in links."""
    return Path(os.path.relpath(picture.absolute(), text.absolute().parent)).as_posix()


def as_svg(chart: Chart) -> str:
    """A chart as SVG on a white background."""
    return str(vl_convert.vegalite_to_svg(_still(chart), config=theme("light", background="white")))


def as_png(chart: Chart) -> bytes:
    """A chart as PNG on a white background."""
    config = theme("light", background="white")
    return bytes(vl_convert.vegalite_to_png(_still(chart), scale=SCALE, config=config))


def _still(chart: Chart) -> dict[str, Any]:
    """The specification with its title and a fixed width, since no page surrounds it."""
    spec = msgspec.json.decode(msgspec.json.encode(chart.spec))
    if spec.get("width") == "container":
        spec["width"] = WIDTH
    return {**spec, "title": {"text": chart.title, "anchor": "start"}, "padding": 12}
