"""Peers as user-defined loaders, so that the harness runs and verifies them.

Each is `factory(settings, files, columns, target, job)`. It returns a DataFrame for the frame job,
and an epoch of float32 matrices, the input of a model, for the stream job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

Files, Columns = Sequence[str], Sequence[str] | None


def pandas_list(_: Any, files: Files, columns: Columns, *__: Any) -> pd.DataFrame:
    """One call of pandas with all files."""
    return pd.read_parquet(list(files), columns=columns)


def pyarrow_dataset(_: Any, files: Files, columns: Columns, *__: Any) -> pd.DataFrame:
    """Arrow's dataset of all files, as pandas."""
    import pyarrow.dataset as ds

    return ds.dataset(list(files)).to_table(columns=columns).to_pandas()


def polars(_: Any, files: Files, columns: Columns, *__: Any) -> pd.DataFrame:
    """polars, as pandas."""
    import polars as pl

    return pl.read_parquet(list(files), columns=columns).to_pandas()


def duckdb(_: Any, files: Files, columns: Columns, *__: Any) -> pd.DataFrame:
    """duckdb, as pandas."""
    import duckdb as db

    relation = db.read_parquet(list(files))
    return (relation if columns is None else relation.select(*columns)).df()


def pyarrow_batches(settings: Any, files: Files, columns: Files, *_: Any) -> Iterator[Any]:
    """Arrow's record batches, cut to size, unshuffled."""
    import pyarrow.dataset as ds

    for batch in ds.dataset(list(files)).to_batches(columns=list(columns)):
        matrix = np.column_stack(
            [column.to_numpy(zero_copy_only=False) for column in batch.columns]
        )
        rows = matrix.astype(np.float32)
        for start in range(0, len(rows), settings.batch_size):
            yield rows[start : start + settings.batch_size]


def hugging_face(settings: Any, files: Files, columns: Files, *_: Any) -> Iterator[Any]:
    """Hugging Face datasets, streaming and unshuffled, its fastest way."""
    import datasets

    datasets.disable_progress_bars()
    stream = datasets.load_dataset(
        "parquet", data_files=list(files), split="train", streaming=True, columns=list(columns)
    ).with_format("numpy")
    for batch in stream.iter(batch_size=settings.batch_size):
        yield np.column_stack([batch[name] for name in columns]).astype(np.float32)


FRAMES: dict[str, Callable[..., Any]] = {
    "pandas(list)": pandas_list,
    "pyarrow.dataset": pyarrow_dataset,
    "polars": polars,
    "duckdb": duckdb,
}
STREAMS: dict[str, Callable[..., Any]] = {
    "pyarrow to_batches": pyarrow_batches,
    "Hugging Face datasets": hugging_face,
}
for loader in FRAMES.values():
    loader.uses = set()  # type: ignore[attr-defined]  # they use none of our settings
for loader in STREAMS.values():
    loader.uses = {"batch_size"}  # type: ignore[attr-defined]
