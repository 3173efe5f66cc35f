"""The stream job: epochs of batches of files, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow.dataset as ds

from . import requirements as names
from .data import INTEGER_COLUMNS, Setup, expect_rows, integer_rows, stacked
from .frames import pyarrow_decode
from .interleave import Comparison, Prepared, Side, UnavailableError

BATCH = 1024
WINDOW = 4
SHUFFLE_BUFFER = 10_000  # the usual size for peers that shuffle in a buffer
FEW_FILES = 12  # slow peers need over half a minute for all 60

Paths = Sequence[str]
Batches = Callable[[], Iterable[Any]]
"""Starts an epoch."""


def ours(paths: Paths, window: int = 1) -> Batches:
    """Our float32 matrices, with default settings except for the window."""
    from feedrate.loaders import LoaderSettings, PyTorchDataLoader, StreamingParquetDataset

    loader = PyTorchDataLoader.from_settings(
        LoaderSettings(backend="pytorch", shuffle_window=window)
    )
    dataset = StreamingParquetDataset(paths, INTEGER_COLUMNS)
    batches = loader.create_dataloader(dataset, batch_size=BATCH, shuffle=True)
    return lambda: batches


def hugging_face(paths: Paths, shuffle_buffer: int | None = None) -> Batches:
    """Columns as tensors in a dict; by default unshuffled, its fastest way."""
    import datasets

    datasets.disable_progress_bars()
    stream = datasets.load_dataset(
        "parquet",
        data_files=list(paths),
        split="train",
        streaming=True,
        columns=INTEGER_COLUMNS,
    ).with_format("torch")
    if shuffle_buffer is not None:
        stream = stream.shuffle(seed=0, buffer_size=shuffle_buffer)
    return lambda: stream.iter(batch_size=BATCH)


def pyarrow_batches(paths: Paths) -> Batches:
    """Arrow's record batches, unshuffled and cut to size, without making tensors."""

    def epoch() -> Iterator[Any]:
        for batch in ds.dataset(list(paths)).to_batches(columns=INTEGER_COLUMNS):
            for start in range(0, batch.num_rows, BATCH):
                yield batch.slice(start, BATCH)

    return epoch


def ray_data(paths: Paths) -> Batches:
    """Columns as tensors in a dict, shuffled in a buffer.

    Raises:
        UnavailableError: Ray is not installed.
    """
    try:
        import ray.data
    except ImportError as error:
        raise UnavailableError(f"Ray Data is not installed ({error}): feedrate[ray]") from error
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    data = ray.data.read_parquet(list(paths), columns=INTEGER_COLUMNS)
    return lambda: data.iter_torch_batches(
        batch_size=BATCH, local_shuffle_buffer_size=SHUFFLE_BUFFER
    )


def _side(batches: Batches, check: Any, *, by_name: bool = False) -> Side:
    """A side that runs an epoch; `by_name`: each batch is a dict of columns."""

    def epoch() -> None:
        for _ in batches():
            pass

    def check_epoch(_: None) -> None:
        found = batches()
        check((stacked(batch, INTEGER_COLUMNS) for batch in found) if by_name else found)

    return Side(epoch, check_epoch)


def _prepare(setup: Setup) -> Prepared:
    paths = setup.files("lineitem")
    check = expect_rows(integer_rows(paths), ds.dataset(paths).count_rows())
    sides = {
        names.HUGGING_FACE: _side(hugging_face(paths), check, by_name=True),
        names.PYTORCH: _side(ours(paths), check),
        f"{names.PYTORCH}, window {WINDOW}": _side(ours(paths, WINDOW), check),
    }
    return Prepared(sides)


def _prepare_pyarrow(setup: Setup) -> Prepared:
    paths = setup.files("lineitem")
    check = expect_rows(integer_rows(paths), ds.dataset(paths).count_rows())
    sides = {
        "pyarrow to_batches": _side(pyarrow_batches(paths), check, by_name=True),
        names.PYTORCH: _side(ours(paths), check),
        "pyarrow, decode only": Side(lambda: pyarrow_decode(paths, INTEGER_COLUMNS)),
    }
    return Prepared(sides)


def _prepare_shuffled(setup: Setup) -> Prepared:
    paths = setup.files("lineitem")[:FEW_FILES]
    check = expect_rows(integer_rows(paths), ds.dataset(paths).count_rows())
    sides = {
        names.RAY: _side(ray_data(paths), check, by_name=True),
        f"{names.HUGGING_FACE}, shuffled": _side(
            hugging_face(paths, SHUFFLE_BUFFER), check, by_name=True
        ),
        names.PYTORCH: _side(ours(paths), check),
    }
    return Prepared(sides)


COMPARISONS = (
    Comparison(
        "stream",
        "stream, batches of 1024, 60 files",
        (names.HUGGING_FACE, names.PYTORCH, f"{names.PYTORCH}, window {WINDOW}"),
        rounds=5,
        prepare=_prepare,
    ),
    Comparison(
        "stream-pyarrow",
        "stream, batches of 1024, 60 files, beside pyarrow",
        ("pyarrow to_batches", names.PYTORCH, "pyarrow, decode only"),
        rounds=15,
        prepare=_prepare_pyarrow,
    ),
    Comparison(
        "stream-shuffled-peers",
        f"stream, batches of 1024, {FEW_FILES} files, shuffling peers",
        (names.RAY, f"{names.HUGGING_FACE}, shuffled", names.PYTORCH),
        rounds=3,
        prepare=_prepare_shuffled,
    ),
)
