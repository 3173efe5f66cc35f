"""The Markdown report tells every metric of what it recommends, or why it is not known."""

from feedrate.harness.metrics import METRICS
from feedrate.harness.recommendation import recommend_all
from feedrate.harness.results import Header, Results, Sample
from feedrate.loaders.dataset import Dataset
from feedrate.loaders.machine import fingerprint
from feedrate.loaders.settings import LoaderSettings
from feedrate.reports.markdown import markdown_report


def sample(backend, launch, wall, reasons):
    settings = LoaderSettings(backend=backend, num_workers=0, prefetch=0, cache="none")
    return Sample(
        trial=backend, job="frame", backend=backend, settings=settings, files=3,
        phase="confirming", round=launch, pass_=0, rows=10, fingerprint="f", verdict="ok",
        metrics={**dict.fromkeys(METRICS), "wall_s": wall}, reasons=reasons, launch=launch,
        threads={"OMP_NUM_THREADS": 1, "arrow_cpu": 2}, page_cache="warm",
    )  # fmt: skip


def test_every_metric_of_the_recommended_settings_has_a_value_or_a_reason():
    dataset = Dataset(
        data_type="a_b", folder="/x", files=3, bytes=5, schema="s", columns=1, rows_per_file=1,
        row_groups_per_file=1.0, codecs=[],
    )  # fmt: skip
    reasons = {name: f"no {name} here" for name in METRICS if name != "wall_s"}
    samples = [
        sample(backend, launch, wall, reasons)
        for launch in range(3)
        for backend, wall in (("original", 1.0), ("pytorch", 0.25))
    ]
    results = Results(Header(spec={}, environment=fingerprint(), dataset=dataset), samples, False)
    text = markdown_report(results, recommend_all(results).found)
    assert "## All that was measured: frame with pytorch" in text
    assert "| time | 250 ms | – | monotonic clock" in text  # noqa: RUF001 - as it is written
    for name in METRICS.keys() - {"wall_s"}:
        assert reasons[name].replace("_", "\\_") in text
    assert "Page cache: warm" in text
    assert "OMP\\_NUM\\_THREADS 1, arrow\\_cpu 2" in text
