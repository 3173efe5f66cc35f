import doctest
import math
from pathlib import Path

import pytest
from feedrate.harness.record import metrics
from feedrate.harness.record.metrics import METRICS
from feedrate.harness.system.formats import (
    MISSING,
    TIMES,
    format_bytes,
    format_bytes_per_s,
    format_count,
    format_percent,
    format_ratio,
    format_rows_per_s,
    format_seconds,
)
from hypothesis import given
from hypothesis import strategies as st

FORMATTERS = [
    format_seconds,
    format_bytes,
    format_count,
    format_rows_per_s,
    format_bytes_per_s,
    format_percent,
    format_ratio,
]

# The names that results files have held from the beginning, and those that came later.
NAMES = """
    wall_s rows_per_s bytes_per_s first_batch_s batch_p50_s batch_p95_s batch_p99_s wait_s cpu_s
    baseline_pss_bytes peak_pss_bytes peak_rss_bytes peak_uss_bytes arrow_peak_bytes shm_bytes
    storage_read_bytes syscall_read_bytes steal_s throttled_s h2d_pageable_s h2d_pinned_s
    h2d_overlap_s h2d_bytes gpu_util_pct gpu_mem_peak_bytes
"""
LATER = """
    steady_rows_per_s step_s step_alone_s step_slowdown_pct stall_pct harness_s cpu_stall_s
    io_stall_s memory_stall_s load_1m stage_plan_s stage_read_s stage_decode_s stage_convert_s
    stage_gather_s stage_cache_s stage_handover_s stage_step_s read_alone_s load_alone_s
    gather_alone_s ceiling_read_s ceiling_decode_s ceiling_gather_s ceiling_copy_s
    uncompressed_pct merged_pct row_groups_pct idle_workers
    uncompressed_low_pct uncompressed_high_pct
    merged_low_pct merged_high_pct row_groups_low_pct row_groups_high_pct
    cgroup_peak_bytes stage_load_s stage_pandas_s stage_library_s
    fewer_columns_pct fewer_columns_low_pct fewer_columns_high_pct files_by_pandas
    requests request_bytes request_retries request_throttled_s
"""


def test_examples_in_docstrings_hold():
    assert doctest.testmod(metrics).failed == 0


def test_every_documented_metric_is_registered_under_its_name():
    later = LATER.split()
    assert [name for name in METRICS if name not in later] == NAMES.split()
    assert {name for name in METRICS if name in later} == set(later)
    assert all(name == metric.name for name, metric in METRICS.items())


def test_units_follow_from_names():
    for name, metric in METRICS.items():
        endings = ("_per_s", "_s", "_bytes", "_pct", "load_1m", "idle_workers", "files_by_pandas")
        endings += ("requests", "request_retries")
        ending = next(end for end in endings if name.endswith(end))
        assert (
            metric.unit
            in {
                "_per_s": {"rows/s", "B/s"},
                "_s": {"s"},
                "_bytes": {"B"},
                "_pct": {"%"},
                "load_1m": {""},
                "idle_workers": {""},
                "files_by_pandas": {""},
                "requests": {""},
                "request_retries": {""},
            }[ending]
        )


def test_every_metric_says_how_it_is_measured_and_formats_what_is_missing():
    for metric in METRICS.values():
        assert metric.label
        assert metric.how
        assert metric.format(None) == MISSING
        assert metric.format(1.0) != MISSING


@pytest.mark.parametrize("formatter", FORMATTERS)
@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_what_cannot_be_told_is_a_dash(formatter, value):
    assert formatter(value) == MISSING


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (5e-10, "0.50 ns"),
        (0.00001234, "12.3 µs"),
        (0.0123, "12.3 ms"),
        (0.9996, "1.00 s"),
        (0.9994, "999 ms"),
        (1.2345, "1.23 s"),
        (99.96, "100 s"),
        (119.4, "119 s"),
        (119.6, "2 min 0 s"),
        (3599.7, "1 h 0 min"),
        (7325, "2 h 2 min"),
        (-0.0123, "-12.3 ms"),
        (-754, "-12 min 34 s"),
    ],
)
def test_seconds_take_the_unit_that_fits(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (12, "12 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (4 << 30, "4.00 GiB"),
        (1536.0, "1.50 KiB"),
        (0.5, "0.50 B"),
        (-2048, "-2.00 KiB"),
        (5 << 50, "5120 TiB"),
    ],
)
def test_bytes_are_binary(size, text):
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (999.9, "1.00 k"), (12.34, "12.3"), (1_234_567, "1.23 M")],
)
def test_counts_are_decimal(count, text):
    assert format_count(count) == text


def test_rates_percentages_and_ratios_carry_their_unit():
    assert format_rows_per_s(17_000_000) == "17.0 M rows/s"
    assert format_bytes_per_s(300 << 20) == "300 MiB/s"
    assert format_percent(99.96) == "100.0%"
    assert format_ratio(7.84) == f"7.84{TIMES}"
    assert format_ratio(212.6) == f"213{TIMES}"


@given(st.floats(min_value=1e-9, max_value=1e12))
def test_seconds_below_two_minutes_read_back_to_three_digits(seconds):
    text = format_seconds(seconds)
    if " min" in text:
        return
    number, unit = text.split()
    factor = {"ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1.0}[unit]
    assert float(number) * factor == pytest.approx(seconds, rel=0.006)


def test_numbers_are_formatted_without_any_package():
    source = Path(metrics.__file__).read_text(encoding="utf-8")
    assert "import numpy" not in source
