"""Limits are measured on the files at hand, and what cannot be measured says why."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feedrate.harness.cli.doctor_view import ceiling_finding
from feedrate.harness.system.pagecache import Established
from feedrate.harness.trial import alone
from feedrate.harness.trial import ceilings as module
from feedrate.harness.trial.alone import sample
from feedrate.harness.trial.ceilings import ceilings
from feedrate.loaders.base.machine import effective_cpus


@pytest.fixture
def paths(tmp_path):
    made = []
    for number in range(3):
        path = str(tmp_path / f"{number}.parquet")
        pq.write_table(pa.table({"a": range(1000), "b": [f"{row}" for row in range(1000)]}), path)
        made.append(path)
    return made


@pytest.mark.parametrize("columns", [None, ["a"]])
def test_each_limit_is_a_rate_with_its_spread(paths, columns, monkeypatch):
    monkeypatch.setattr(alone, "COPY_BYTES", 1 << 20)
    monkeypatch.setattr(module, "GATHER_ROWS", 1000)
    found = {one.name: one for one in ceilings(paths, columns)}
    threads = [f"decode, {count} thread{'s' * (count > 1)}" for count in {1, effective_cpus()}]
    assert set(found) == {
        "storage read", "page cache read", *threads, "decode, polars", "memory copy", "gather",
        "host to device",
    }  # fmt: skip
    for one in found.values():
        assert one.unit in ("B/s", "rows/s")
        assert one.how
        if one.name not in ("storage read", "host to device"):
            assert 0 < one.low <= one.rate <= one.high
        assert ceiling_finding(one).text.startswith(one.name)


def test_storage_that_cannot_be_read_cold_has_no_limit_and_says_why(paths, monkeypatch):
    monkeypatch.setattr(module, "establish", lambda *_: Established("unknown", "on tmpfs"))
    first = next(ceilings(paths))
    assert (first.name, first.rate) == ("storage read", None)
    finding = ceiling_finding(first)
    assert (finding.level, "not measured: on tmpfs" in finding.text) == ("note", True)


def test_files_that_polars_cannot_read_together_have_the_other_limits(paths):
    pq.write_table(pa.table({"c": ["x"]}), paths[1])
    found = {one.name: one for one in ceilings(paths)}
    assert found["decode, polars"].rate is None
    assert "polars cannot" in found["decode, polars"].how
    assert found["decode, 1 thread"].rate > 0


def test_of_many_bytes_a_part_from_all_over_is_used(paths, monkeypatch):
    assert sample(paths) == paths
    monkeypatch.setattr(alone, "SAMPLE_BYTES", 1)
    assert sample(paths) == paths[:1]
    monkeypatch.setattr(alone, "SAMPLE_BYTES", 20_000)
    assert set(sample(paths * 100)) <= set(paths)
    assert 1 <= len(sample(paths * 100)) < 300


def test_copies_to_a_gpu_are_a_rate_or_say_why_not(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(alone, "COPY_BYTES", 1 << 20)
    found = module.to_device("a GPU")
    if torch.cuda.is_available():
        assert found.rate > 0
    else:
        assert (found.rate, found.how) == (None, "not measured: no CUDA device")
    monkeypatch.setattr(module, "measure_h2d", lambda *_, **__: ({"h2d_pinned_s": 0.5}, {}))
    assert module.to_device("a GPU").rate == 2 << 20
