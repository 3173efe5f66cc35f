"""Samples that were never measured: the one builder of all tests that need some."""

from feedrate.harness.plan.spec import make_trial
from feedrate.harness.record.results import Sample
from feedrate.loaders.base.settings import LoaderSettings


def sample(seconds=1.0, *, backend="pytorch", job="frame", files=10, turn=0, **fields):
    """A sample of one pass.

    Args:
        seconds: the wall time; None where there is none.
        backend: of the settings.
        job: what was loaded.
        files: how many files.
        turn: the round.
        **fields: other fields of the sample (`metrics` are added to the time) or of its settings,
            which are no workers, no prefetch and no cache.
    """
    names = [name for name in LoaderSettings.__struct_fields__ if name in fields]
    plain = {"num_workers": 0, "prefetch": 0, "cache": "none", "seed": 0}
    chosen = {name: fields.pop(name) for name in names}
    settings = LoaderSettings(backend=backend, **{**plain, **chosen})
    metrics = {"wall_s": seconds, **fields.pop("metrics", {})}
    usual = {
        "trial": make_trial(job, settings, files).id, "phase": "confirming", "pass_": 0,
        "rows": 100, "fingerprint": "f", "verdict": "ok", "reasons": {}, "launch": turn + 1,
    }  # fmt: skip
    return Sample(
        job=job, backend=backend, settings=settings, files=files, round=turn, metrics=metrics,
        **{**usual, **fields},
    )  # fmt: skip
