"""What may differ between the machine and data of a profile and those here: the whole table."""

import msgspec
import pytest
from feedrate.loaders.base.machine import Machine
from feedrate.loaders.base.settings import LoaderSettings
from feedrate.loaders.choosing.profile import Entry, Evidence, Profile
from feedrate.loaders.choosing.trust import DATA, MACHINE, check, major, mismatches
from feedrate.loaders.parquet.dataset import Dataset

GIB = 1 << 30
HERE = Machine(
    cpu_model="EPYC", effective_cpus=4, memory_bytes=16 * GIB, gpu=None, system="Linux x86_64",
    python="3.11.7",
    versions={"feedrate": "0.1.0", "pyarrow": "26.0.1", "torch": "2.13.0", "tensorflow": "2.21.0"},
)  # fmt: skip
DATASET = Dataset(
    data_type="logs", folder="/data/logs", files=100, bytes=10**9, schema="abc", columns=4,
    rows_per_file=1000, row_groups_per_file=2.0, codecs=["SNAPPY"], storage="local",
)  # fmt: skip


def profile(job="frame", peak=2.0 * GIB):
    evidence = Evidence(
        strength="strong", why="", launches=6, passes=3, total_s=1.0, first_pass_s=0.5, rows=10,
        rows_per_s=30.0, speedup=None, speedup_low=None, speedup_high=None, confidence=None,
        peak_pss_bytes=peak,
    )  # fmt: skip
    settings = LoaderSettings(backend="pytorch", num_workers=2)
    entry = Entry(
        job=job, data_type="logs", files=100, max_files=None, settings=settings, evidence=evidence
    )
    return Profile(created="", command="", machine=HERE, datasets=[DATASET], entries=[entry])


def changed(thing, **fields):
    return msgspec.structs.replace(thing, **fields)


def versions(**fields):
    return {"versions": HERE.versions | fields}


@pytest.mark.parametrize(
    ("machine", "holds"),
    [
        ({}, True),
        ({"cpu_model": "Xeon"}, False),
        ({"effective_cpus": 2}, False),
        ({"effective_cpus": 8}, False),
        ({"system": "Darwin arm64"}, False),
        ({"memory_bytes": 64 * GIB}, True),
        ({"memory_bytes": 4 * GIB}, True),  # the peak, 2 GiB, still fits
        ({"memory_bytes": 2 * GIB}, False),
        ({"python": "3.12.1"}, True),
        ({"python": "4.0.0"}, False),
        (versions(pyarrow="26.9.0"), True),
        (versions(pyarrow="27.0.0"), False),
        (versions(torch="3.0.0"), False),
        (versions(tensorflow="3.0.0"), True),  # no entry uses it
        (versions(feedrate="0.1.9"), True),
        (versions(feedrate="0.2.0"), False),  # before 1.0 a minor version may change anything
        ({"gpu": "H200"}, True),  # frames never touch one
    ],
)
def test_each_field_of_the_machine_has_its_rule(machine, holds):
    against = mismatches(profile(), changed(HERE, **machine), [DATASET])
    assert (against == []) == holds, against


def test_where_no_peak_was_measured_less_memory_is_not_trusted():
    against = mismatches(profile(peak=None), changed(HERE, memory_bytes=8 * GIB), [DATASET])
    assert against == ["the memory limit was 16.0 GiB, is 8.0 GiB"]
    assert mismatches(profile(peak=None), HERE, [DATASET]) == []


def test_training_jobs_mind_the_gpu():
    against = mismatches(profile("stream"), changed(HERE, gpu="H200"), [DATASET])
    assert against == ["the GPU was none, is H200"]


@pytest.mark.parametrize(
    ("dataset", "holds"),
    [
        ({"schema": "other"}, False),
        ({"codecs": ["ZSTD"]}, False),
        ({"files": 131}, True),  # a month more
        ({"files": 200}, True),
        ({"files": 201}, False),
        ({"files": 1}, True),  # fewer files have entries of their own
        ({"rows_per_file": 2000}, True),
        ({"rows_per_file": 2001}, False),
        ({"rows_per_file": 499}, False),
        ({"row_groups_per_file": 5.0}, False),
        ({"storage": "network"}, False),
        ({"storage": None}, True),  # not known here
        ({"folder": "/elsewhere", "bytes": 1}, True),  # moved, or compressed a little better
        ({"data_type": "weather"}, False),
    ],
)
def test_each_field_of_the_data_has_its_rule(dataset, holds):
    against = mismatches(profile(), HERE, [changed(DATASET, **dataset)])
    assert (against == []) == holds, against


def test_few_files_may_become_a_month_s_more():
    small = changed(DATASET, files=3)
    known = changed(profile(), datasets=[small])
    assert mismatches(known, HERE, [changed(small, files=34)]) == []
    assert mismatches(known, HERE, [changed(small, files=35)]) != []


def test_every_rule_is_shown_with_what_was_and_what_is():
    shown = {one.what: one for one in check(profile("stream"), HERE, [DATASET])}
    for rule in MACHINE:
        assert rule.what in shown
    for rule in DATA:
        assert f"{rule.what} of logs" in shown
    assert shown["the memory limit"].then == "16.0 GiB"
    assert shown["the schema of logs"].then == "4 columns (abc)"
    assert all(one.near_enough for one in shown.values())


def test_a_new_snapshot_of_a_table_is_judged_by_its_files_and_named_beside_a_difference():
    then = changed(DATASET, snapshot="3")
    known = changed(profile(), datasets=[then])
    assert mismatches(known, HERE, [changed(then, snapshot="4")]) == []
    assert mismatches(known, HERE, [DATASET]) == []  # not known here
    (against,) = mismatches(known, HERE, [changed(then, snapshot="90", files=500)])
    assert against == ("the number of files of logs was 100 in snapshot 3, is 500 in snapshot 90")
    shown = {one.what: one for one in check(known, HERE, [changed(then, snapshot="4")])}
    assert str(shown["the snapshot of logs"]) == "the snapshot of logs was 3, is 4"
    assert "the snapshot of logs" not in {one.what for one in check(profile(), HERE, [DATASET])}


def test_nothing_is_held_against_a_profile_where_no_data_is_known():
    assert mismatches(profile(), HERE, []) == []


def test_a_profile_of_version_1_says_nothing_of_storage():
    old = changed(profile(), datasets=[changed(DATASET, storage=None)])
    assert mismatches(old, HERE, [DATASET]) == []


@pytest.mark.parametrize(
    ("version", "part"),
    [("26.0.1", "26"), ("0.1.3", "0.1"), ("2.13.0+cpu", "2"), ("missing", "missing")],
)
def test_the_major_version_of_what_is_below_one_is_its_minor(version, part):
    assert major(version) == part
