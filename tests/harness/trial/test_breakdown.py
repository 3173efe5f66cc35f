"""What a call hides is taken off it, and stages are never half told."""

import pandas as pd
import pytest
from feedrate.harness.record.metrics import METRICS, STAGES, UNSEEN
from feedrate.harness.record.stages import complete_stages
from feedrate.harness.trial import alone
from feedrate.harness.trial.breakdown import copy_alone, files_alone, rows_alone, stage_metrics
from feedrate.harness.trial.timeline import Timeline
from feedrate.loaders.base.settings import LoaderSettings

ONE, TWO = (LoaderSettings(backend="pytorch", num_workers=count) for count in (1, 2))


def stages(metrics):
    found = {name: metrics.get(f"stage_{name}_s") for name in STAGES}
    return {name: took for name, took in found.items() if took}


def completed(shares, *, gathered_unseen=False, **alone):
    raw = stage_metrics(Timeline(shares, 1), gathered_unseen=gathered_unseen)
    return complete_stages({**raw, **alone})


def test_what_was_noted_apart_stays_as_it_is():
    found = completed({"read": 1.0, "decode": 2.0, "handover": 0.5})
    assert stages(found) == {"read": 1, "decode": 2, "handover": 0.5}
    assert found["stage_gather_s"] == 0


def test_reading_is_taken_off_a_call_that_also_decodes():
    found = completed({"load": 3.0, "convert": 1.0}, read_alone_s=0.5, load_alone_s=3.0)
    assert stages(found) == {"read": 0.5, "decode": 2.5, "convert": 1}


def test_of_a_call_that_steps_hide_in_part_reading_is_a_part_alike():
    found = completed({"load": 0.4, "step": 2.6}, read_alone_s=0.5, load_alone_s=2.5)
    assert stages(found) == pytest.approx({"read": 0.08, "decode": 0.32, "step": 2.6})


def test_reading_and_decoding_are_taken_off_pandas():
    found = completed({"pandas": 10.0, "convert": 1.0}, read_alone_s=1.0, load_alone_s=4.0)
    assert stages(found) == {"read": 1, "decode": 3, "convert": 7}


def test_gathering_out_of_sight_is_taken_off_what_no_stage_accounts_for():
    found = completed({"gather": 1.0, "handover": 5.0}, gathered_unseen=True, gather_alone_s=2.0)
    assert stages(found) == {"gather": 3, "handover": 3}


def test_what_takes_longer_alone_than_the_call_takes_all_of_it():
    found = completed({"load": 1.0}, read_alone_s=5.0, load_alone_s=4.0)
    assert stages(found) == {"read": 1}


@pytest.mark.parametrize(
    ("shares", "unseen"),
    [({"load": 1.0}, False), ({"pandas": 1.0}, False), ({"handover": 1.0}, True)],
)
def test_without_what_is_hidden_a_call_stays_as_it_is(shares, unseen):
    found = completed(shares, gathered_unseen=unseen)
    assert [name for name in UNSEEN if found[f"stage_{name}_s"]] == [
        "library" if unseen else next(iter(shares))
    ]
    assert stages(found) == {}


def test_metrics_of_a_pass_that_noted_none_stay_without_stages():
    assert complete_stages({"wall_s": 1.0}) == {"wall_s": 1.0}


@pytest.mark.parametrize("page_cache", ["as-is", "warm", "cold"])
@pytest.mark.parametrize("columns", [None, ["a"]])
def test_each_part_of_a_pass_is_timed_alone(tmp_path, page_cache, columns):
    paths = [str(tmp_path / f"{number}.parquet") for number in range(3)]
    for path in paths:
        pd.DataFrame({"a": range(1000), "b": ["x"] * 1000}).to_parquet(path)
    of_files, reasons = files_alone(paths, columns, TWO, page_cache)
    assert not reasons or page_cache == "cold"
    found = of_files | rows_alone(1000, 3, 2) | copy_alone(1e6)
    assert {"ceiling_decode_s", "gather_alone_s", "ceiling_copy_s"} <= set(found)
    assert ("load_alone_s" in found) == (not reasons)
    assert set(found) <= set(METRICS)
    assert all(took > 0 for took in found.values())


def test_files_of_several_schemas_have_a_ceiling_by_arrow(tmp_path):
    paths = [str(tmp_path / "1.parquet"), str(tmp_path / "2.parquet")]
    pd.DataFrame({"a": [1]}).to_parquet(paths[0])
    pd.DataFrame({"b": ["x"]}).to_parquet(paths[1])
    assert 0 < files_alone(paths, None, ONE, "as-is")[0]["ceiling_decode_s"] < float("inf")


def test_a_sample_is_scaled_up_and_a_huge_file_is_none(tmp_path, monkeypatch):
    paths = [str(tmp_path / f"{number}.parquet") for number in range(10)]
    for path in paths:
        pd.DataFrame({"a": range(1000)}).to_parquet(path)
    monkeypatch.setattr(alone, "typical_seconds", lambda *_: 1.0)
    monkeypatch.setattr(alone, "SAMPLE_BYTES", alone.total_bytes(paths) / 5)
    assert files_alone(paths, None, ONE, "as-is")[0]["load_alone_s"] == pytest.approx(5, rel=0.3)
    monkeypatch.setattr(alone, "GATHER_BYTES", 4 * 100)
    assert rows_alone(1000, 1, 1)["gather_alone_s"] == 10
    monkeypatch.setattr(alone, "MOST_BYTES", 1)
    found, reasons = files_alone(paths, None, ONE, "as-is")
    assert found == {}
    assert "too much for a sample" in reasons["read_alone_s"]
