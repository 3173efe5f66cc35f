"""What a call hides is taken off it, and stages are never half told."""

import pandas as pd
import pytest
from feedrate.harness.breakdown import (
    complete_stages,
    copy_alone,
    files_alone,
    rows_alone,
    stage_metrics,
)
from feedrate.harness.metrics import METRICS, STAGES
from feedrate.harness.timeline import Timeline


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
    found = completed({"load": 3.0, "convert": 1.0}, read_alone_s=0.5)
    assert stages(found) == {"read": 0.5, "decode": 2.5, "convert": 1}


def test_reading_and_decoding_are_taken_off_pandas():
    found = completed({"pandas": 10.0, "convert": 1.0}, read_alone_s=1.0, load_alone_s=4.0)
    assert stages(found) == {"read": 1, "decode": 3, "convert": 7}


def test_gathering_out_of_sight_is_taken_off_what_no_stage_accounts_for():
    found = completed({"gather": 1.0, "handover": 5.0}, gathered_unseen=True, gather_alone_s=2.0)
    assert stages(found) == {"gather": 3, "handover": 3}


def test_what_takes_longer_alone_than_the_call_takes_all_of_it():
    found = completed({"load": 1.0}, read_alone_s=5.0)
    assert stages(found) == {"read": 1}


@pytest.mark.parametrize(
    ("shares", "unseen"),
    [({"load": 1.0}, False), ({"pandas": 1.0}, False), ({"handover": 1.0}, True)],
)
def test_without_what_is_hidden_there_are_no_stages(shares, unseen):
    found = completed(shares, gathered_unseen=unseen)
    assert not any(name.startswith("stage_") for name in found)


def test_metrics_of_a_pass_that_noted_none_stay_without_stages():
    assert complete_stages({"wall_s": 1.0}) == {"wall_s": 1.0}


@pytest.mark.parametrize("page_cache", ["as-is", "warm", "cold"])
@pytest.mark.parametrize("columns", [None, ["a"]])
def test_each_part_of_a_pass_is_timed_alone(tmp_path, page_cache, columns):
    paths = [str(tmp_path / f"{number}.parquet") for number in range(3)]
    for path in paths:
        pd.DataFrame({"a": range(1000), "b": ["x"] * 1000}).to_parquet(path)
    found = files_alone(paths, columns, 2, page_cache) | rows_alone(1000, 3, 2) | copy_alone(1e6)
    assert {"load_alone_s", "ceiling_decode_s", "gather_alone_s", "ceiling_copy_s"} <= set(found)
    assert set(found) <= set(METRICS)
    assert all(took > 0 for took in found.values())


def test_files_of_several_schemas_have_a_ceiling_by_arrow(tmp_path):
    paths = [str(tmp_path / "1.parquet"), str(tmp_path / "2.parquet")]
    pd.DataFrame({"a": [1]}).to_parquet(paths[0])
    pd.DataFrame({"b": ["x"]}).to_parquet(paths[1])
    assert 0 < files_alone(paths, None, 1, "as-is")["ceiling_decode_s"] < float("inf")
