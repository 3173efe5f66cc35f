"""All samples as tidy CSV: one line per sample, one column per fact."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping

import msgspec

from ..harness.record.emulated import label_of
from ..harness.record.metrics import METRICS
from ..harness.record.results import Results
from ..loaders.base.settings import LoaderSettings

_FACTS = (
    "trial",
    "job",
    "backend",
    "files",
    "phase",
    "arm",
    "launch",
    "round",
    "pass_",
    "passes",
    "rows",
    "verdict",
    "fingerprint",
    "verified_every",
    "page_cache",
    "run_s",
)


def samples_csv(results: Mapping[str, Results]) -> str:
    """The samples with a header line; unmeasured values are empty, with the reason in `reasons`.

    Settings have the prefix `settings.`; `backend` is not repeated among them. `emulated` is empty
    for real storage.

    Args:
        results: journals by their name in the column `results`.
    """
    settings = [name for name in LoaderSettings.__struct_fields__ if name != "backend"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    facts = [name.rstrip("_") for name in _FACTS]
    prefixed = [f"settings.{name}" for name in settings]
    columns = ["results", *facts, *prefixed, *METRICS, "threads", "reasons", "emulated"]
    writer.writerow(columns)
    for name, journal in results.items():
        emulated = label_of(journal)
        for sample in journal.samples:
            row = [getattr(sample, fact) for fact in _FACTS]
            row += [getattr(sample.settings, field) for field in settings]
            row += [sample.metrics.get(metric) for metric in METRICS]
            row += [msgspec.json.encode(part).decode() for part in (sample.threads, sample.reasons)]
            writer.writerow([name, *row, emulated])
    return text.getvalue()
