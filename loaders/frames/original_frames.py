"""The original backend with the interface of the fast ones."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping

from ..base.schedule import ThreadScheduler
from ..parquet.footers import Footer
from .parts import Outcome, PandasPart, Part
from .planning import Plan
from .reader import FrameReader, OnError, SchemaRule


class OriginalReader(FrameReader):
    """Read files by pandas, one by one, with the same checks as the fast loaders.

    Args:
        schema: as in `Checks`.
        on_error: as in `Checks`; `skipped` lists the files left out.
    """

    prunes = False

    def __init__(self, *, schema: SchemaRule = "concat", on_error: OnError | None = None) -> None:
        super().__init__(ThreadScheduler(0), schema=schema, on_error=on_error)

    def parts(
        self,
        plan: Plan,
        paths: Collection[str],
        known: Mapping[str, Footer],
        files: dict[str, Outcome],
    ) -> Generator[Part]:
        """One part per file, read by pandas."""
        del known, files
        plan.complete = True
        return (PandasPart(path, plan.columns) for path in paths)
