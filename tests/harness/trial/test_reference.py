"""The proof that rows are right covers every kind of column that loaders take as a feature."""

import datetime as dt
from decimal import Decimal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feedrate.harness import sweep
from feedrate.harness.in_process import InProcessExecutor, in_process
from feedrate.harness.plan.source import open_source
from feedrate.harness.plan.spec import make_trial
from feedrate.harness.plan.spec_file import SpecFile
from feedrate.harness.trial import reference as module
from feedrate.harness.trial.reference import reference
from feedrate.harness.trial.work import Data
from feedrate.loaders.base.errors import ColumnError
from feedrate.loaders.base.settings import LoaderSettings
from feedrate.loaders.choosing.registry import find_backend
from feedrate.loaders.training import numeric

from ...backends import unregister

DAYS = [0, 1, 19_000, -3]
UTC = dt.UTC
COLUMNS = {
    "int8": pa.array([1, None, -3, 4], pa.int8()),
    "uint64": pa.array([1, 2, 2**63, 4], pa.uint64()),
    "half": pa.array([1.5, None, -3, 4], pa.float16()),
    "boolean": pa.array([True, None, False, True]),
    "decimal": pa.array([Decimal("1.25"), None, Decimal("-3.50"), Decimal("0.10")]),
    "wide": pa.array([Decimal("1.5"), None, Decimal(7), Decimal(9)], pa.decimal256(40, 2)),
    "date": pa.array([0, None, 19_000, -3], pa.date32()),
    "date64": pa.array([86_400_000 * day for day in DAYS], pa.date64()),
    "ms": pa.array([1500, None, 86_400_000, -1], pa.timestamp("ms")),
    "us": pa.array([1500, None, 1_700_000_000_123_456, -1], pa.timestamp("us")),
    "ns": pa.array([1500, 7, 1_700_000_000_123_456_789, -1], pa.timestamp("ns")),
    "zoned": pa.array([1500, None, 86_400_000, -1], pa.timestamp("ms", "America/New_York")),
    "time": pa.array([0, None, 3_600_250, 86_399_999], pa.time32("ms")),
    "clock": pa.array([0, None, 3_600_250_001, 86_399_999_999], pa.time64("us")),
    "span": pa.array([1500, None, 86_400_000, -1], pa.duration("ms")),
    "category": pa.array([7, None, 9, 7], pa.int16()).dictionary_encode(),
    "dates": pa.array([0, None, 19_000, 0], pa.date32()).dictionary_encode(),
    "nothing": pa.nulls(4),
}
PLAIN = {
    "decimal": [1.25, 0, -3.5, 0.1],
    "date": [0, 0, 19_000, -3],
    "date64": DAYS,
    "ms": [1.5, 0, 86_400, -0.001],
    "us": [0.0015, 0, 1_700_000_000.123456, -1e-6],
    "zoned": [1.5, 0, 86_400, -0.001],
    "clock": [0, 0, 3600.250001, 86_399.999999],
    "span": [1.5, 0, 86_400, -0.001],
    "category": [7, 0, 9, 7],
    "dates": [0, 0, 19_000, 0],
    "nothing": [0] * 4,
}


def written(folder, *tables):
    folder.mkdir(exist_ok=True)
    paths = []
    for number, table in enumerate(tables, start=1):
        paths.append(str(folder / f"logs_2025010{number}.parquet"))
        pq.write_table(table, paths[-1])
    return paths


@pytest.fixture
def data(tmp_path):
    table = pa.table(COLUMNS)
    whole = pa.concat_tables([table] * 30)
    paths = written(tmp_path / "logs", whole, table.slice(1, 2), whole.slice(2, 50))
    source = open_source(str(tmp_path / "logs"))
    features = [name for name in COLUMNS if name != "us"]
    found = source.trial_data(["batches", "stream"], features, "us", SpecFile(None, {}))
    assert found.paths == paths
    return found


@pytest.mark.filterwarnings("ignore::feedrate.loaders.base.errors.FeedrateWarning")
@pytest.mark.parametrize("job", ["batches", "stream"])
@pytest.mark.parametrize(
    "backend", ["original", "pytorch", pytest.param("tensorflow", marks=pytest.mark.slow)]
)
def test_every_kind_of_feature_is_verified_with_every_backend(data, job, backend):
    if not find_backend(backend).installed:
        pytest.skip(f"{backend} is not installed")
    settings = LoaderSettings(backend=backend, num_workers=2, batch_size=32, cache="none", seed=0)
    trial = make_trial(job, find_backend(backend).normalized_for(job, settings), 3)
    run = InProcessExecutor(data).run(trial, "confirming", passes=1, verify=True)
    assert run.verdict is None, run.message
    expected = reference(job, 3, data, ordered=False)
    assert run.fingerprint == expected
    assert expected.rows == 172


@pytest.mark.parametrize("name", PLAIN)
def test_the_reference_has_the_number_that_a_reader_would_write_down(tmp_path, name):
    paths = written(tmp_path / "logs", pa.table({name: COLUMNS[name]}))
    data = Data(paths=paths, columns=None, features=[name], target=None)
    matrix = module._plain_matrix(pd.read_parquet(paths[0]), data, {})
    assert matrix[:, 0].tolist() == pytest.approx(PLAIN[name], rel=1e-7)


@pytest.mark.filterwarnings("ignore::feedrate.loaders.base.errors.FeedrateWarning")
@pytest.mark.parametrize("job", ["batches", "stream"])
@pytest.mark.parametrize("backend", ["original", "pytorch"])
def test_a_fault_in_the_loaders_own_conversion_is_seen_since_the_reference_has_another(
    data, job, backend, monkeypatch
):
    pytest.importorskip("torch")
    monkeypatch.setitem(numeric.TICKS_PER_SECOND, "us", 1_000)
    settings = LoaderSettings(backend=backend, num_workers=0, batch_size=32, cache="none", seed=0)
    trial = make_trial(job, find_backend(backend).normalized_for(job, settings), 3)
    run = InProcessExecutor(data).run(trial, "confirming", passes=1, verify=True)
    assert run.verdict is None, run.message
    assert run.fingerprint != reference(job, 3, data, ordered=False)


WRONG = """
import pandas as pd

def load(settings, files, columns, target, job):
    frame = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
    seconds = frame[["ms"]].astype("int64") / SCALE
    for low in range(0, len(frame), 32):
        yield seconds[low : low + 32].fillna(0).to_numpy("float32")
"""


@pytest.mark.parametrize(("scale", "right"), [("1000", True), ("1", False)])
def test_a_loader_that_delivers_ticks_in_place_of_seconds_is_caught(
    tmp_path, monkeypatch, scale, right
):
    paths = written(tmp_path / "logs", pa.table({"ms": pa.array([1500, -3], pa.timestamp("ms"))}))
    data = Data(paths=paths, columns=None, features=["ms"], target=None)
    (tmp_path / "ticks.py").write_text(WRONG.replace("SCALE", scale))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "ticks", raising=False)
    trial = make_trial("stream", LoaderSettings(backend="ticks:load", cache="none"), 1)
    try:
        run = InProcessExecutor(data).run(trial, "confirming", passes=1, verify=True)
    finally:
        unregister("ticks:load")
    assert run.verdict is None, run.message
    assert (run.fingerprint == reference("stream", 1, data, ordered=False)) is right


@pytest.mark.parametrize("job", ["batches", "stream"])
def test_days_beside_seconds_are_no_column_of_numbers(tmp_path, job):
    days, seconds = pa.array([1], pa.date32()), pa.array([1], pa.timestamp("ms"))
    paths = written(tmp_path / "logs", pa.table({"a": days}), pa.table({"a": seconds}))
    data = Data(paths=paths, columns=None, features=["a"], target=None)
    with pytest.raises(ColumnError, match="holds dates and timestamps"):
        reference(job, 2, data, ordered=False)


def test_text_in_a_column_of_objects_names_the_value():
    frame = pd.DataFrame({"a": [Decimal(1), "x"]}, dtype=object)
    data = Data(paths=[], columns=None, features=["a"], target=None)
    with pytest.raises(ColumnError, match="'a' holds 'x', which is no number, date or time"):
        module._plain_matrix(frame, data, {})


@pytest.mark.slow
def test_a_sweep_over_dates_and_times_is_verified_ok(tmp_path):
    table = pa.table({name: COLUMNS[name] for name in ("date", "ms", "time", "span", "category")})
    written(tmp_path / "logs", *[pa.concat_tables([table] * 20)] * 2)
    outcome = sweep(
        tmp_path / "logs", jobs=["batches", "stream"], columns=["date", "ms", "time", "category"],
        target="span", workers=[0], prefetch=[0], cache=["none"], repeats=1, passes=1, files=[2],
        results=tmp_path / "results.jsonl", make_executor=in_process,
    )  # fmt: skip
    found = outcome.results.samples
    assert {one.job for one in found} == {"batches", "stream"}
    assert {one.verdict for one in found} == {"ok"}, [one.reasons for one in found]
