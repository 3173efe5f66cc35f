"""All samples as tidy CSV: one line a sample, one column a fact."""

from __future__ import annotations

import csv
import io

import msgspec

from ..harness.metrics import METRICS
from ..harness.results import Results
from ..loaders.settings import LoaderSettings

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
    "rows",
    "verdict",
    "fingerprint",
)


def samples_csv(results: Results) -> str:
    """The samples with a header line; what could not be measured is empty, and `reasons` says why.

    Settings have the prefix `settings.`; `backend` is not repeated among them.
    """
    settings = [name for name in LoaderSettings.__struct_fields__ if name != "backend"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            *(name.rstrip("_") for name in _FACTS),
            *(f"settings.{name}" for name in settings),
            *METRICS,
            "reasons",
        ]
    )
    for sample in results.samples:
        writer.writerow(
            [
                *(getattr(sample, name) for name in _FACTS),
                *(getattr(sample.settings, name) for name in settings),
                *(sample.metrics.get(name) for name in METRICS),
                msgspec.json.encode(sample.reasons).decode(),
            ]
        )
    return text.getvalue()
