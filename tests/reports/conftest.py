"""Results that were never measured, of any shape."""

import itertools

import numpy as np
import pytest
from feedrate.harness.choose.recommendation import recommend_all
from feedrate.harness.record.metrics import METRICS
from feedrate.harness.record.results import Header, Results
from feedrate.loaders.base.errors import InputError
from feedrate.loaders.base.machine import fingerprint
from feedrate.loaders.parquet.dataset import Dataset
from feedrate.reports.measured import Measured
from msgspec import structs

from .. import samples


def sample(backend, turn, seconds, *, phase="confirming", **fields):
    """One sample of thirty files; other fields of a sample or of its settings may be given."""
    peak = {"peak_pss_bytes": 1e8 * (1 + fields.get("num_workers", 0))}
    known = (peak if phase == "memory" else {}) | fields.pop("metrics", {})
    metrics = {**dict.fromkeys(METRICS), "wall_s": seconds, **known}
    usual = {"files": 30, "rows": 1000, "page_cache": "warm", **fields}
    return samples.sample(
        seconds, backend=backend, turn=turn, phase=phase, metrics=metrics, **usual
    )


def results(samples, *, spec=None, command="feedrate tune data", machine=None, **dataset):
    """Results with a header of any dataset and machine."""
    usual = {
        "data_type": "logs", "folder": "/x/logs", "files": 30, "bytes": 5_000, "schema": "s",
        "columns": 4, "rows_per_file": 33, "row_groups_per_file": 1.0, "codecs": ["SNAPPY"],
    }  # fmt: skip
    header = Header(
        spec=spec or {}, environment=structs.replace(fingerprint(), **(machine or {})),
        dataset=Dataset(**{**usual, **dataset}), command=command,
    )  # fmt: skip
    return Results(header, samples, truncated=False)


@pytest.fixture
def make_sample():
    return sample


@pytest.fixture
def make_results():
    return results


@pytest.fixture
def measured():
    """Results as a report takes them, with what is recommended."""

    def make(found, name="results", number=0):
        try:
            advice = recommend_all(found).found
        except InputError:
            advice = []
        return Measured(name, found, advice, number)

    return make


@pytest.fixture
def swept():
    """Samples of a whole tune: a grid screened, the best confirmed, two numbers of files."""
    random = np.random.default_rng(0)
    speeds = {"original": 1.0, "tensorflow": 3.0, "pytorch": 8.0}

    def noisy(seconds):
        return float(seconds * np.exp(0.05 * random.standard_normal()))

    def times(backend, workers, prefetch):
        return 1.0 / speeds[backend] / (1 + 0.2 * min(workers, 2) + 0.02 * prefetch)

    samples = []
    grid = itertools.product(("tensorflow", "pytorch"), (0, 1, 2, 4), (0, 2), ("none", "memory"))
    plans = [("original", 0, 0, "none"), *grid]
    stages = {"stage_plan_s": 0.02, "stage_read_s": 0.02, "stage_decode_s": 0.05,
              "stage_convert_s": 0.01, "stage_gather_s": 0.0, "stage_cache_s": 0.0,
              "stage_handover_s": 0.01, "stage_step_s": 0.0, "ceiling_read_s": 0.01,
              "ceiling_decode_s": 0.03, "ceiling_copy_s": 0.005}  # fmt: skip
    for files, turn in itertools.product((30, 5), range(3)):
        for backend, workers, prefetch, cache in plans:
            for pass_ in range(2):
                faster = 20 if cache == "memory" and pass_ else 1
                seconds = times(backend, workers, prefetch) * files / 30 / faster
                samples.append(
                    sample(backend, turn, noisy(seconds), pass_=pass_, files=files,
                           rows=files * 33, num_workers=workers, prefetch=prefetch, cache=cache,
                           metrics=stages if backend == "pytorch" else {})
                )  # fmt: skip
    for turn, (backend, workers, prefetch, cache), pass_ in itertools.product(
        range(3, 11),
        (("original", 0, 0, "none"), ("pytorch", 2, 2, "memory"), ("pytorch", 4, 2, "memory"),
         ("tensorflow", 2, 2, "memory")),
        range(2),
    ):  # fmt: skip
        seconds = times(backend, workers, prefetch) / (20 if cache == "memory" and pass_ else 1)
        metrics = {name: value for name, value in stages.items() if backend == "pytorch"}
        samples.append(
            sample(backend, turn, noisy(seconds), phase="confirming", pass_=pass_, rows=990,
                   num_workers=workers, prefetch=prefetch, cache=cache, metrics=metrics)
        )  # fmt: skip
        if turn in range(3, 5):
            samples.append(
                sample(backend, turn, seconds, phase="memory", pass_=pass_, rows=990,
                       num_workers=workers, prefetch=prefetch, cache=cache)
            )  # fmt: skip
    return samples
