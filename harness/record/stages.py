"""Split the time of a pass into stages, even if one call does several of them.

Some libraries do several stages in one call: Arrow reads and decodes, pandas also converts, and
TensorFlow and torch's own DataLoader gather rows out of Python's sight. A hidden stage is measured
alone, with as many workers (`alone` in the names), and subtracted from the call.
"""

from __future__ import annotations

from collections.abc import Mapping

from .metrics import STAGES, UNSEEN

Numbers = dict[str, float | None]


def complete_stages(metrics: Mapping[str, float | None]) -> Numbers:
    """Return a pass's metrics with its hidden stages split.

    If a call hides a stage that was not measured alone in this process, the call's time is not
    split; callers with measurements of other launches can split it.
    """
    unsplit = dict(metrics)
    times = {name: metrics.get(f"stage_{name}_s") for name in (*STAGES, *UNSEEN)}
    if times["handover"] is None:
        return unsplit
    read, load, gather = (metrics.get(f"{name}_alone_s") for name in ("read", "load", "gather"))
    by_pandas, loaded, by_library = (times[name] or 0.0 for name in ("pandas", "load", "library"))
    if (loaded or by_pandas) and (read is None or load is None):
        return unsplit
    if by_library and gather is None:
        return unsplit
    loaded_by_pandas = min(load or 0.0, by_pandas)
    loading = loaded + loaded_by_pandas
    # In proportion, since a consumer's steps may hide some of the loading.
    reading = loading * min(1.0, (read or 0.0) / load) if load else 0.0
    gathering = min(gather or 0.0, by_library)
    stages = {name: times[name] or 0.0 for name in STAGES}
    stages["read"] += reading
    stages["decode"] += loading - reading
    stages["convert"] += by_pandas - loaded_by_pandas
    stages["gather"] += gathering
    stages["handover"] += by_library - gathering
    stages |= dict.fromkeys(UNSEEN, 0.0)
    return unsplit | {f"stage_{name}_s": seconds for name, seconds in stages.items()}
