"""Recommendations as JSON, for `--json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..choose.recommendation import Recommendation
from ..record.emulated import label_of
from ..record.results import Results
from ..record.summary import Summary
from .answer import limits


def recommendations_json(
    results: Results, recommendations: Sequence[Recommendation]
) -> list[dict[str, Any]]:
    """Each recommendation as JSON values; rates are rows/s, sizes bytes."""
    limit_of = {found.summary.job: limit for found, limit in limits(results, recommendations)}
    return [
        {
            "job": found.job,
            "emulated": label_of(results),
            "settings": found.chosen.settings,
            "rows_per_s": found.chosen.rows_per_s,
            "speedup": found.speedup and found.speedup.estimate,
            "first_pass_speedup": found.first_speedup and found.first_speedup.estimate,
            "evidence": found.strength,
            "why": found.why,
            "limit": limit_of.get(found.job),
            "objective": found.objective.name,
            "cost": found.objective.cost(found.chosen),
            "peak_pss_bytes": found.chosen.peak_pss_bytes,
            "front": [_summary(one) for one in found.front],
            "fewer_files": [_summary(one) for one in found.fewer],
        }
        for found in recommendations
    ]


def _summary(summary: Summary) -> dict[str, Any]:
    return {
        "files": summary.files,
        "settings": summary.settings,
        "rows_per_s": summary.rows_per_s,
        "peak_pss_bytes": summary.peak_pss_bytes,
    }
