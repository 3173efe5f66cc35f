"""A trial that cannot fit into memory is not started, and its row says so."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from feedrate.harness.plan.spec import make_trial
from feedrate.harness.run.prediction import SAMPLE_ROWS, check_memory, estimate_rows
from feedrate.harness.trial.work import Data
from feedrate.loaders.base.settings import LoaderSettings

ROWS, FILES = 10_000, 10
COLUMN = 8 * ROWS * FILES


@pytest.fixture
def data(tmp_path):
    paths = [str(tmp_path / f"{number}.parquet") for number in range(FILES)]
    for path in paths:
        numbers = np.random.default_rng(0).random((ROWS, 2))
        pd.DataFrame(numbers, columns=["a", "b"]).to_parquet(path)
    return Data(paths=paths, columns=None, features=["a"], target="b")


def trial(job="frame", backend="pytorch", cache="none", files=FILES):
    settings = LoaderSettings(backend=backend, num_workers=0, prefetch=0, cache=cache)
    return make_trial(job, settings, files)


def test_rows_and_bytes_are_estimated_from_a_few_files(data):
    found = estimate_rows(data.paths, None)
    assert found.count == pytest.approx(ROWS * FILES, rel=0.01)
    assert found.bytes == pytest.approx(2 * COLUMN, rel=0.03)
    assert estimate_rows(data.paths, ["a"]).bytes == pytest.approx(COLUMN, rel=0.03)


@pytest.mark.parametrize(
    ("which", "columns"),
    [(trial(), 2), (trial(cache="memory"), 2), (trial("batches"), 3), (trial(files=5), 1)],
)
def test_what_must_be_held_is_compared_with_the_limit(data, which, columns):
    need = columns * COLUMN
    assert check_memory(data, wanted=None, free=need)(which) is None
    assert check_memory(data, wanted=need, free=1 << 40)(which) is None
    why = check_memory(data, wanted=None, free=int(0.8 * need))(which)
    assert why.startswith("not started: it would need about")


def test_a_stream_is_always_tried_and_the_original_only_bound_by_what_is_free(data):
    assert check_memory(data, wanted=1, free=1)(trial("stream")) is None
    assert check_memory(data, wanted=1, free=1 << 40)(trial(backend="original")) is None
    assert check_memory(data, wanted=None, free=1)(trial(backend="original")) is not None


def test_files_that_cannot_be_read_are_left_to_who_loads_them(data, tmp_path):
    (tmp_path / "0.parquet").write_bytes(b"no Parquet")
    assert estimate_rows(data.paths, None).count > 0
    assert estimate_rows(data.paths[:1], None).count == 0


def test_a_dictionary_counts_once_however_many_rows_refer_to_it(tmp_path):
    path, rows = tmp_path / "codes.parquet", 4 * SAMPLE_ROWS
    words = [f"a rather long word, number {number}" for number in range(20_000)]
    codes = pd.Categorical.from_codes(np.arange(rows) % len(words), words)
    pd.DataFrame({"word": codes}).to_parquet(path)
    table = pq.read_table(path).combine_chunks()
    assert estimate_rows([str(path)], None).bytes == pytest.approx(table.nbytes, rel=0.05)
