"""Split the time of a pass into stages, even if one call does several of them.

Some libraries do several stages in one call: Arrow reads while it decodes, pandas converts as
well, and TensorFlow and torch's own DataLoader gather where Python cannot see it. A hidden stage
is measured alone, with as many workers (`alone` in the names), and subtracted from the call.
"""

from __future__ import annotations

from collections.abc import Mapping

from .metrics import STAGES, UNSEEN

Numbers = dict[str, float | None]


def complete_stages(metrics: Mapping[str, float | None]) -> Numbers:
    """Return a pass's metrics with its hidden stages split.

    If a call hides a stage that was not measured alone in this process, the call's time stays
    whole, for a caller that has the measurements of other launches.
    """
    found = dict(metrics)
    raw = {name: metrics.get(f"stage_{name}_s") for name in (*STAGES, *UNSEEN)}
    if raw["handover"] is None:
        return found
    read, load, gather = (found.get(f"{what}_alone_s") for what in ("read", "load", "gather"))
    by_pandas, loaded, unseen = (raw[name] or 0.0 for name in ("pandas", "load", "library"))
    if (loaded or by_pandas) and (read is None or load is None):
        return found
    if unseen and gather is None:
        return found
    by_pandas_loaded = min(load or 0.0, by_pandas)
    loading = loaded + by_pandas_loaded
    # In proportion, since some of the loading may be hidden behind a consumer's steps.
    reading = loading * min(1.0, (read or 0.0) / load) if load else 0.0
    gathering = min(gather or 0.0, unseen)
    stages = {name: raw[name] or 0.0 for name in STAGES}
    stages["read"] += reading
    stages["decode"] += loading - reading
    stages["convert"] += by_pandas - by_pandas_loaded
    stages["gather"] += gathering
    stages["handover"] += unseen - gathering
    stages |= dict.fromkeys(UNSEEN, 0.0)
    return found | {f"stage_{name}_s": took for name, took in stages.items()}
