"""Files of `feedrate report`: a page, Markdown and charts of one or more results files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...loaders.base.errors import InputError
from ...loaders.base.machine import is_installed
from ..choose.recommendation import Advice
from ..record.results import Results
from ..show.text import say
from ..system.units import counted
from .options import check_place, write

if TYPE_CHECKING:
    from ...reports.content import Report

_NEEDED = ("altair", "vl_convert", "jinja2")


def write_reports(
    found: Mapping[Path, Results],
    chosen: Mapping[Path, Advice],
    *,
    html: Path | None = None,
    markdown: Path | None = None,
    charts: Path | None = None,
) -> None:
    """Write the requested reports.

    Args:
        found: the results by file.
        chosen: the recommendations by file.
        html: the file of the page, or None for no page; likewise for the others.
        markdown: a Markdown file; its charts go to `charts`, or to a folder next to it.
        charts: a folder for the charts as SVG and PNG.

    Raises:
        InputError: the extra for charts is not installed.
        StorageError: a file cannot be written.
    """
    if missing := missing_modules():
        raise InputError(
            f"reports with charts need {', '.join(missing)}; install with: pip install "
            '"feedrate[reports]"'
        )
    from ...reports.html import html_report

    document = _report(found, chosen)
    if html is not None:
        write(html, html_report(document))
    if charts is not None:
        _write_charts(document, charts, ("svg", "png"))
    if markdown is not None:
        _write_markdown(document, markdown, charts)


def _report(found: Mapping[Path, Results], chosen: Mapping[Path, Advice]) -> Report:
    from ...reports.measured import Measured
    from ...reports.story import report

    names = distinct_names(list(found))
    alone = len(found) == 1
    return report(
        [
            Measured(
                names[path], results, chosen[path].found, 0 if alone else number,
                chosen[path].problems,
            )
            for number, (path, results) in enumerate(found.items(), start=1)
        ]
    )  # fmt: skip


def _write_markdown(document: Report, path: Path, charts: Path | None) -> None:
    """Write the Markdown; its charts are in `charts` already, or written next to it."""
    from ...reports.images import path_from
    from ...reports.markdown import markdown_report

    folder = charts or path.with_name(f"{path.stem}-charts")
    if charts is None:
        _write_charts(document, folder, ("png",))
    names = [chart.name for chart in document.charts]
    pictures = {name: path_from(path, folder / f"{name}.png") for name in names}
    write(path, markdown_report(document, pictures))


def _write_charts(document: Report, folder: Path, formats: tuple[str, ...]) -> None:
    from ...reports.images import write_charts

    if document.charts:
        write_charts(document.charts, folder, formats)
        say(f"wrote {counted(len(document.charts), 'chart')} to {folder}")


def missing_modules() -> list[str]:
    """The modules that charts need and that are not installed."""
    return [module for module in _NEEDED if not is_installed(module)]


def check_outputs(inputs: Iterable[Path], outputs: Iterable[Path | None]) -> None:
    """Raise for an output that is also an input, is named twice, or cannot be written."""
    taken = {path.resolve(): "is one of the results" for path in inputs}
    for path in filter(None, outputs):
        check_place(path)
        if (why := taken.get(path.resolve())) is not None:
            raise InputError(f"{path} {why}; write to another file")
        taken[path.resolve()] = "is written already"


def distinct_names(paths: Sequence[Path]) -> dict[Path, str]:
    """The name of each file: its stem, with as many folders as make the names distinct.

    >>> distinct_names([Path("a/laptop.jsonl"), Path("b/ci.jsonl")]).values()
    dict_values(['laptop', 'ci'])
    >>> distinct_names([Path("laptop/results.jsonl"), Path("ci/results.jsonl")]).values()
    dict_values(['laptop/results', 'ci/results'])
    """
    parts = {path: path.absolute().with_suffix("").parts for path in paths}
    for count in range(1, max(map(len, parts.values())) + 1):
        names = {path: "/".join(mine[-count:]) for path, mine in parts.items()}
        if len(set(names.values())) == len(names):
            return names
    return {path: str(path) for path in paths}  # they differ only in their suffix
