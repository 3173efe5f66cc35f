"""What would help is measured on a sample, or it is said why it was not."""

import itertools
import time
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feedrate.harness.record.metrics import FEWER_COLUMNS, WHAT_IF_METRICS, WHAT_IFS
from feedrate.harness.record.savings import known_savings
from feedrate.harness.trial import what_if as module
from feedrate.harness.trial.what_if import LOOKS, MOST_S, SAMPLE_S, what_ifs

RUNS = 200  # of made-up rounds


@pytest.fixture
def write(tmp_path):
    def made(count, rows=100, **options):
        paths = []
        for number in range(count):
            path = str(tmp_path / f"{number:03}.parquet")
            table = pa.table({"n": range(rows), "text": [f"{row}" for row in range(rows)]})
            pq.write_table(table, path, **options)
            paths.append(path)
        return paths

    return made


class Spy:
    """A loader that remembers what it was to load."""

    def __init__(self):
        self.files = {}

    def __call__(self, paths, columns):
        tables = [pq.read_table(path, columns=columns) for path in paths]
        folder = paths[0].rpartition("/")[0].rpartition("/")[2]
        codecs = {pq.read_metadata(path).row_group(0).column(0).compression for path in paths}
        rows = [pq.read_metadata(path).row_group(0).num_rows for path in paths]
        key = (folder, tuple(columns or ()))
        self.files[key] = (len(paths), sum(map(len, tables)), codecs, max(rows))


@pytest.fixture
def timed(monkeypatch):
    """Replace each measured time by what a function of the variant says; counts the rounds."""

    def fake(seconds):
        calls = []

        def took(load):
            paths, columns = load.args
            calls.append(FEWER_COLUMNS if columns == ["n"] else Path(paths[0]).parent.name)
            return seconds(calls[-1], calls.count(calls[-1]))

        monkeypatch.setattr(module.alone, "seconds", took)
        return calls

    return fake


def test_each_question_changes_one_thing(write, monkeypatch):
    monkeypatch.setattr(module, "LOOKS", (1,))
    monkeypatch.setattr(module, "SAMPLE_S", 60.0)
    spy = Spy()
    metrics, reasons = what_ifs(write(40, row_group_size=10), None, spy)
    assert set(metrics) == set(WHAT_IF_METRICS)
    assert reasons == {FEWER_COLUMNS: "the column of text ('text')"}
    assert all(isinstance(value, float) for value in metrics.values())
    found = {key[0]: what for key, what in spy.files.items() if not key[1]}
    assert found["alike"] == (40, 4000, {"SNAPPY"}, 10)
    assert found["uncompressed_pct"] == (40, 4000, {"UNCOMPRESSED"}, 10)
    assert found["merged_pct"] == (4, 4000, {"SNAPPY"}, 1000)
    assert found["row_groups_pct"] == (40, 4000, {"SNAPPY"}, 100)
    assert [key[1] for key in spy.files if key[1]] == [("n",)]


def test_what_makes_no_sense_is_not_asked_and_says_why(write):
    paths = write(3, compression="NONE")
    metrics, reasons = what_ifs(paths, ["n"], lambda *_: None)
    assert metrics == dict.fromkeys(WHAT_IF_METRICS)
    assert {name: reasons[name] for name in WHAT_IFS} == {
        "fewer_columns_pct": "all columns that are loaded are plain numbers",
        "uncompressed_pct": "the files are not compressed",
        "merged_pct": "there are too few files to merge any",
        "row_groups_pct": "the row groups are neither small and many, nor large",
    }
    assert reasons["merged_low_pct"] == reasons["merged_high_pct"] == reasons["merged_pct"]


def test_training_can_leave_no_column_out(write):
    metrics, reasons = what_ifs(write(2), ["n", "text"], lambda *_: None, all_needed=True)
    assert metrics["fewer_columns_pct"] is None
    assert reasons["fewer_columns_pct"] == "training needs all columns"


def test_a_sample_that_cannot_be_rewritten_is_a_reason(write, monkeypatch):
    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    paths = write(40)
    monkeypatch.setattr(module.pq, "write_table", refuse)
    metrics, reasons = what_ifs(paths, None, lambda *_: None)
    assert metrics["uncompressed_pct"] is None
    assert "No space left" in reasons["uncompressed_pct"]
    assert metrics["fewer_columns_pct"] is not None


def test_a_loader_that_takes_half_the_time_saves_half_within_an_interval(write, timed):
    timed(lambda name, _: {"fewer_columns_pct": 1.0, "uncompressed_pct": 3.0}.get(name, 2.0))
    metrics, _ = what_ifs(write(2), None, lambda *_: None)
    assert metrics["fewer_columns_pct"] == pytest.approx(50)
    assert metrics["uncompressed_pct"] == pytest.approx(-50)
    low, high = metrics["fewer_columns_low_pct"], metrics["fewer_columns_high_pct"]
    assert 45 < low < 50 < high < 55  # equal ratios in all rounds leave what processes differ by


def test_an_answer_that_is_known_needs_no_more_rounds_and_an_open_one_gets_them(write, timed):
    noise = itertools.cycle([1.0, 4.2, 1.7, 3.8, 1.2])
    known = {"fewer_columns_pct": 1.0}
    calls = timed(
        lambda name, _: next(noise) if name == "uncompressed_pct" else known.get(name, 2.0)
    )
    what_ifs(write(2), None, lambda *_: None)
    assert calls.count("fewer_columns_pct") == 1 + LOOKS[0]  # a warm-up first
    assert calls.count("uncompressed_pct") == calls.count("alike") == 1 + LOOKS[-1]


def test_rounds_that_differ_too_much_show_no_saving_although_their_median_does(write, timed):
    noise = itertools.cycle([1.0, 4.2, 1.7, 3.8, 1.2])
    timed(lambda name, _: next(noise) if name == "uncompressed_pct" else 2.0)
    metrics, _ = what_ifs(write(2), ["text"], lambda *_: None)
    assert metrics["uncompressed_low_pct"] < 0 < metrics["uncompressed_high_pct"]


@pytest.mark.parametrize(("saving", "low", "high"), [(0.0, 0.0, 0.02), (0.2, 0.9, 1.0)])
def test_savings_are_shown_where_there_are_any_and_hold_within_their_intervals(
    monkeypatch, saving, low, high
):
    """Of made-up rounds as noisy as a busy machine's, and processes that differ."""
    random = np.random.default_rng(1)
    files = {"alike": module._Variant(["alike"], None), "merged_pct": module._Variant(["m"], None)}
    shown = within = 0
    for _ in range(RUNS):
        factor = (1 - saving) * np.exp(0.023 * random.standard_normal())

        def took(load, factor=factor):
            noise = np.exp(0.11 * random.standard_normal())  # of one side: 0.15 of the ratio
            return float(noise * (factor if load.args[0] == ["m"] else 1.0))

        monkeypatch.setattr(module.alone, "seconds", took)
        bases = {"alike": files["alike"]}
        found, _ = module._measured(
            {"merged_pct": files["merged_pct"]}, bases, lambda *_: None, time.monotonic()
        )
        shown += found["merged_pct"].shown
        within += found["merged_pct"].low <= 100 * saving <= found["merged_pct"].high
    assert low <= shown / RUNS <= high
    assert within / RUNS >= 0.95


def test_a_loader_too_slow_for_enough_rounds_says_so_and_concludes_nothing(
    write, timed, monkeypatch
):
    clock = itertools.count(step=MOST_S / 4)
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    timed(lambda *_: 1.0)
    metrics, reasons = what_ifs(write(2), None, lambda *_: None)
    assert metrics == dict.fromkeys(WHAT_IF_METRICS)
    assert "an interval needs 8: the sample takes too long" in reasons["uncompressed_pct"]


def test_a_sample_that_loads_slowly_is_of_fewer_files(write, monkeypatch):
    paths = write(10)
    for seconds, files in ((SAMPLE_S / 2, 10), (SAMPLE_S * 2, 5), (SAMPLE_S * 100, 1)):
        monkeypatch.setattr(module.alone, "seconds", lambda _, took=seconds: took)
        assert module._quick(paths, None, lambda *_: None) == paths[:files]


def test_where_every_column_is_text_none_can_be_left_out(write):
    metrics, reasons = what_ifs(write(2), ["text"], lambda *_: None)
    assert metrics[FEWER_COLUMNS] is None
    assert reasons[FEWER_COLUMNS].startswith("all columns that are loaded hold one kind")


ROWS = 500
WORDS = [f"word {number}" for number in range(20)]
COSTLY = {
    "lists of lists": (
        lambda: pa.array([[WORDS[:4], WORDS[4:9]]] * ROWS),
        "the column of lists of lists of text ('tags')",
    ),
    "maps": (
        lambda: pa.array([[("a", 1), ("b", 2)]] * ROWS, pa.map_(pa.string(), pa.int64())),
        "the column of maps ('tags')",
    ),
    "categories": (
        lambda: pa.array([f"{row}" for row in range(ROWS)]).dictionary_encode(),
        "the column of categories ('tags')",
    ),
    "decimals": (
        lambda: pa.array([Decimal(row) / 8 for row in range(ROWS)], pa.decimal128(38, 20)),
        "the column of decimals ('tags')",
    ),
}


@pytest.mark.parametrize("name", COSTLY)
def test_of_text_and_a_slow_kind_of_column_the_slow_one_is_named(tmp_path, name, monkeypatch):
    make, columns = COSTLY[name]
    costs = {"n": 1.0, "text": 2.0, "tags": 20.0}

    def seconds(load):
        return sum(costs[column] for column in load.args[1] or costs)

    monkeypatch.setattr(module.alone, "seconds", seconds)
    monkeypatch.setattr(module, "SAMPLE_S", 100.0)
    paths = []
    for number in range(20):
        paths.append(str(tmp_path / f"{number:03}.parquet"))
        text = [WORDS[row % 20] for row in range(ROWS)]
        pq.write_table(pa.table({"n": range(ROWS), "text": text, "tags": make()}), paths[-1])

    metrics, reasons = what_ifs(paths, None, lambda *_: None)
    assert reasons[FEWER_COLUMNS] == columns, metrics
    found = {one.name: one for one in known_savings(metrics.get, reasons[FEWER_COLUMNS])}
    assert found[FEWER_COLUMNS].sentence("loading").startswith(f"without {columns}, loading would")
    assert found[FEWER_COLUMNS].percent == pytest.approx(100 * 20 / 23)
