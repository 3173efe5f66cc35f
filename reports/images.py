"""Charts as files: SVG and PNG of the same specifications that a page shows."""

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
SCALE = 2.0  # of PNG, for screens with dense pixels


def write_charts(
    charts: Iterable[Chart], folder: Path, kinds: Iterable[str] = ("svg", "png")
) -> list[Path]:
    """Write charts into a folder, which is made if need be; the paths written.

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
    """Where a picture is, seen from the folder of a text, as links are written."""
    return Path(os.path.relpath(picture.absolute(), text.absolute().parent)).as_posix()


def as_svg(chart: Chart) -> str:
    """A chart as SVG on white ground."""
    return str(vl_convert.vegalite_to_svg(_still(chart), config=theme("light", background="white")))


def as_png(chart: Chart) -> bytes:
    """A chart as PNG on white ground."""
    config = theme("light", background="white")
    return bytes(vl_convert.vegalite_to_png(_still(chart), scale=SCALE, config=config))


def _still(chart: Chart) -> dict[str, Any]:
    """The specification with its title and a width of its own, for there is no page around it."""
    spec = msgspec.json.decode(msgspec.json.encode(chart.spec))
    if spec.get("width") == "container":
        spec["width"] = WIDTH
    return {**spec, "title": {"text": chart.title, "anchor": "start"}, "padding": 12}
