"""Ray Data as a backend: the rows are those of the other backends."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ray = pytest.importorskip("ray")
pytest.importorskip("torch")

import torch  # noqa: E402
from feedrate.harness.plan.host import Host  # noqa: E402
from feedrate.harness.plan.spec import Spec, plan  # noqa: E402
from feedrate.loaders import OptimizedHistoricalDataLoader, ParquetStorage  # noqa: E402
from feedrate.loaders.base.errors import (  # noqa: E402
    ColumnError,
    InputError,
    ParquetFileError,
)

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module", autouse=True)
def _cluster():
    """Ends the cluster that the first load starts."""
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three files of 100 rows with numbers, nulls, text and dates."""
    root = tmp_path_factory.mktemp("ray") / "logs"
    root.mkdir()
    for number in range(3):
        rows = np.arange(100 * number, 100 * number + 100)
        table = pa.table(
            {
                "a": rows,
                "b": pa.array([None if row % 7 == 0 else row / 2 for row in rows]),
                "text": [f"t{row % 5}" for row in rows],
                "day": pa.array(rows, pa.int32()).cast(pa.date32()),
            }
        )
        pq.write_table(table, root / f"2024-01-0{number + 1}.parquet")
    return root


@pytest.fixture(scope="module")
def loader(folder):
    return OptimizedHistoricalDataLoader(ParquetStorage(folder.parent), "ray")


@pytest.fixture(scope="module")
def files(folder):
    return sorted(map(str, folder.glob("*.parquet")))


def test_a_frame_has_the_rows_of_the_original_in_the_order_of_the_files(
    loader, files, folder, assert_same
):
    original = OptimizedHistoricalDataLoader(ParquetStorage(folder.parent), "original")
    assert_same(loader.load_files(files), original.load_files(files))
    assert_same(loader.load_files(files, ["text", "a"]), original.load_files(files, ["text", "a"]))


def test_batches_and_streams_give_each_row_once_as_float32(loader, files):
    batches = loader.batches(files, ["a", "b", "day"], "a", batch_size=32, shuffle=True, seed=3)
    stream = loader.stream(files, ["a", "b", "day"], "a", batch_size=32, shuffle=True, seed=3)
    for epochs in (batches, stream):
        orders = []
        for _ in range(2):
            parts = list(epochs)
            assert {x.dtype for x, _ in parts} == {torch.float32}
            x = torch.cat([x for x, _ in parts])
            y = torch.cat([y for _, y in parts])
            assert x.shape == (300, 3)
            assert sorted(y.tolist()) == list(range(300))
            assert torch.equal(x[:, 0], y)
            expected = torch.where(y % 7 == 0, torch.zeros(()), y / 2)  # null becomes 0
            assert torch.equal(x[:, 1], expected)
            assert torch.equal(x[:, 2], y)  # days since 1970-01-01
            orders.append(y.tolist())
        assert orders[0] != list(range(300))
        assert orders[0] != orders[1]


def test_without_shuffling_rows_come_in_the_order_of_the_files(loader, files):
    stream = loader.stream(files, ["a"], batch_size=32, shuffle=False)
    assert torch.cat(list(stream)).flatten().tolist() == list(range(300))


def test_what_it_cannot_do_is_an_error(loader, files, folder):
    with pytest.raises(InputError, match="batches of files"):
        loader.batches(loader.load_files(files), ["a"])
    with pytest.raises(InputError, match="filters"):
        loader.stream(files, ["a"], filters=[("a", ">", 5)])
    lenient = OptimizedHistoricalDataLoader(ParquetStorage(folder.parent), "ray", on_error="skip")
    with pytest.raises(InputError, match="on_error"):
        lenient.load_files(files)


def test_a_file_or_column_that_is_missing_or_damaged_is_named(loader, files, tmp_path):
    with pytest.raises(ParquetFileError, match=r"nothing\.parquet"):
        loader.load_files([*files, str(tmp_path / "nothing.parquet")], ["a"])
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 no footer PAR1")
    with pytest.raises(ParquetFileError, match=r"broken\.parquet"):
        list(loader.stream([*files, str(broken)], ["a"]))
    for load in (loader.load_files, loader.batches, loader.stream):
        with pytest.raises(ColumnError, match="'none'"):  # Ray Data leaves it out silently
            list(load(files, ["a", "none"]))
    with pytest.raises(ColumnError, match="'text'"):
        list(loader.stream(files, ["text"]))


def test_it_is_swept_where_it_is_named_or_a_cluster_is(monkeypatch):
    def swept(spec):
        return {trial.backend for trial in plan(spec, 4, Host.here())}

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert "ray" not in swept(Spec())
    assert "ray" in swept(Spec(backends=["ray"]))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert "ray" in swept(Spec())
