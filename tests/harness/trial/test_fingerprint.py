from datetime import date
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from feedrate.harness.trial import fingerprint
from feedrate.harness.trial.fingerprint import difference, fingerprint_batches, frame_fingerprint


def frame():
    return pd.DataFrame(
        {
            "a": [1, 2, 3],
            "b": [1.5, None, 2.5],
            "c": ["x", "y", None],
            "d": [[1, 2], None, [3]],
        }
    )


def test_equal_frames_have_equal_fingerprints():
    assert frame_fingerprint(frame()) == frame_fingerprint(frame())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda f: f.assign(a=[1, 3, 2]), "the same values in another order: column 'a'"),
        (lambda f: f.assign(a=f["a"].astype("int32")), "column 'a' is int32 instead of int64"),
        (
            lambda f: f.astype({"a": "int32", "b": "float32"}),
            "column 'a' is int32 instead of int64, and 1 more of another dtype",
        ),
        (lambda f: f.rename(columns={"a": 0}), "without column 'a'"),
        (lambda f: f.assign(b=[1.5, 0.0, 2.5]), "other values in column 'b'"),
        (lambda f: f.assign(c=["x", "y", ""]), "other values in column 'c'"),
        (lambda f: f.assign(d=[[1, 2], None, [4]]), "other values in column 'd'"),
        (
            lambda f: f.assign(a=0, b=0.0, c="z", d="z").astype({"d": object}),
            "other values in columns 'a', 'b', 'c' and 1 more",
        ),
        (lambda f: f.rename(columns={"a": "z"}), "without column 'a'"),
        (lambda f: f.assign(z=1), "with column 'z', which the files do not have"),
        (lambda f: f[["b", "a", "c", "d"]], "the columns come in another order, or more than once"),
        (
            lambda f: f.iloc[::-1].reset_index(drop=True),
            "the same values in another order: columns 'a', 'b', 'c' and 1 more",
        ),
        (lambda f: f.iloc[:2], "2 rows instead of 3"),
    ],
)
def test_any_difference_changes_a_frames_fingerprint_and_is_told(change, told):
    found, expected = frame_fingerprint(change(frame())), frame_fingerprint(frame())
    assert found.digest != expected.digest
    assert difference(found, expected) == told


def test_a_number_as_a_name_is_not_its_text():
    number, text = pd.DataFrame({0: [1]}), pd.DataFrame({"0": [1]})
    found, expected = frame_fingerprint(text), frame_fingerprint(number)
    assert found.digest != expected.digest
    assert difference(found, expected) == "without column 0"


def test_of_batches_the_number_of_rows_is_told(xy):
    whole = fingerprint_batches([xy], ordered=False)
    half = fingerprint_batches([(xy[0][:500], xy[1][:500])], ordered=False)
    assert difference(half, whole) == "500 rows instead of 1,000"


def test_of_batches_it_is_told_which_columns_are_wrong(xy):
    x, y = xy
    whole = fingerprint_batches([xy], ordered=False)

    def told(x, y):
        found = fingerprint_batches([(x, y)], ordered=False)
        assert found.digest != whole.digest
        return difference(found, whole)

    assert told(x, y + 1) == "other values in column 3"
    assert told(x[:, [1, 0, 2]], y) == "other values in columns 0, 1"
    assert told(x, y[::-1]) == "each column has the right values, in other rows"
    assert difference(fingerprint_batches([x], ordered=False), whole) == "without column 3"


def test_an_index_that_does_not_count_the_rows_is_told():
    other = frame()
    other.index += 5
    found, expected = frame_fingerprint(other), frame_fingerprint(frame())
    assert found.digest != expected.digest
    assert "index" in difference(found, expected)
    other.index = pd.Index([0, 1, 2])  # the same as a range, but for its type
    assert frame_fingerprint(other).digest != expected.digest


def batches(x, y, size):
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


@pytest.fixture
def xy():
    random = np.random.default_rng(0)
    return (
        random.standard_normal((1000, 3)).astype("float32"),
        random.standard_normal(1000).astype("float32"),
    )


@pytest.mark.parametrize("ordered", [True, False])
def test_the_batch_size_does_not_matter(xy, ordered):
    prints = {fingerprint_batches(batches(*xy, size), ordered=ordered) for size in (1, 7, 1000)}
    assert len(prints) == 1


def test_the_order_matters_only_where_it_is_asked_for(xy):
    x, y = xy
    order = np.random.default_rng(1).permutation(len(x))
    plain, mixed = batches(x, y, 64), batches(x[order], y[order], 64)
    assert fingerprint_batches(plain, ordered=False) == fingerprint_batches(mixed, ordered=False)
    assert fingerprint_batches(plain, ordered=True) != fingerprint_batches(mixed, ordered=True)


def test_a_lost_repeated_or_crossed_row_is_seen_in_any_order(xy):
    x, y = xy
    whole = fingerprint_batches(batches(x, y, 64), ordered=False)
    lost = fingerprint_batches(batches(x[1:], y[1:], 64), ordered=False)
    repeated = np.r_[0, 0, 2 : len(x)]
    crossed = y.copy()
    crossed[:2] = y[1::-1]
    assert whole != lost
    assert whole != fingerprint_batches(batches(x[repeated], y[repeated], 64), ordered=False)
    assert whole != fingerprint_batches(batches(x, crossed, 64), ordered=False)


def test_signs_of_zero_and_kinds_of_nan_are_the_same_value():
    odd = np.array([[0.0, np.nan]], "float32")
    other = np.array([[-0.0, -np.nan]], "float32")
    assert fingerprint_batches([odd], ordered=True) == fingerprint_batches([other], ordered=True)


def test_frameworks_tensors_are_read(xy):
    torch = pytest.importorskip("torch")
    x, y = xy
    tensors = [(torch.from_numpy(x), torch.from_numpy(y))]
    assert fingerprint_batches(tensors, ordered=True) == fingerprint_batches([(x, y)], ordered=True)


DAY = pd.Timestamp("2025-01-02")
CELLS = {
    "a date and its text": (date(2025, 1, 2), "2025-01-02"),
    "a date and a time": (date(2025, 1, 2), pd.Timestamp("2025-01-02")),
    "a decimal and its text": (Decimal("1.50"), "1.50"),
    "a decimal and a float": (Decimal("1.5"), 1.5),
    "bytes and text": (b"abc", "abc"),
    "an integer and its text": (1, "1"),
    "an integer and a float": (1, 1.0),
    "an integer and a boolean": (1, True),
}


@pytest.mark.parametrize("pair", CELLS)
@pytest.mark.parametrize("beside", [[], [None], ["text", 7]])
def test_an_object_cells_kind_counts(pair, beside):
    one, other = (
        frame_fingerprint(pd.DataFrame({"a": pd.Series([cell, *beside], dtype=object)}))
        for cell in CELLS[pair]
    )
    assert one.digest != other.digest
    assert difference(one, other) == "other values in column 'a'"


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, np.int64(1)), (1.5, np.float64(1.5)), (True, np.True_), (None, np.nan), (None, pd.NaT),
     (None, pd.NA), (DAY.to_pydatetime(), DAY), ([1, 2], np.array([1, 2]))],
)  # fmt: skip
def test_object_cells_of_one_kind_are_equal_whichever_library_made_them(one, other):
    frames = []
    for cell in (one, other):
        cells = np.empty(2, object)
        cells[0], cells[1] = cell, "text"
        frames.append(pd.DataFrame({"a": pd.Series(cells, dtype=object)}))
    assert frame_fingerprint(frames[0]) == frame_fingerprint(frames[1])


def test_batches_of_one_row_are_put_together_as_many_as_larger_ones(monkeypatch):
    sizes = []
    monkeypatch.setattr(fingerprint, "CHUNK_ROWS", 100)
    real = fingerprint.BatchFingerprint.update
    monkeypatch.setattr(
        fingerprint.BatchFingerprint,
        "update",
        lambda self, rows: (sizes.append(len(rows)), real(self, rows)),
    )
    rows = np.arange(500, dtype=np.float32).reshape(250, 2)
    single = fingerprint_batches(np.split(rows, 250), ordered=True)
    assert sizes == [100, 100, 50]
    assert single == fingerprint_batches([rows], ordered=True)
