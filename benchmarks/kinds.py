"""The frame job on many kinds of columns and datasets, compared with the fastest peers.

Peers may deliver other dtypes; ours is checked against the original. Peers that lose unused
categories are left out of the comparison on a category.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from . import requirements as names
from .data import INTEGER_COLUMNS, Setup, expect_frame
from .frames import duckdb_to_pandas, polars_to_pandas, pyarrow_dataset
from .interleave import Comparison, Prepared, Side

Paths = Sequence[str]
DAYS, ROWS = 400, 200
ROUNDS = 7
SECTORS = [f"sector {number}" for number in range(9)]


def pyarrow_tables(paths: Paths) -> pd.DataFrame:
    """One `pq.read_table` per file."""
    return pa.concat_tables([pq.read_table(path) for path in paths]).to_pandas()


PEERS: dict[str, Callable[[Paths], pd.DataFrame]] = {
    "polars": polars_to_pandas,
    "pyarrow.dataset": pyarrow_dataset,
    "pyarrow tables": pyarrow_tables,
    "duckdb": duckdb_to_pandas,
}


@dataclass(frozen=True)
class Kind:
    """A kind of dataset."""

    name: str
    """Its key in `requirements.KINDS`."""
    write: Callable[[Path], None]
    """Writes the files into an empty folder."""
    rounds: int = ROUNDS

    @property
    def peers(self) -> Sequence[str]:
        """The sides beside ours."""
        return names.KINDS[self.name][1]


def prices(number: int, rows: int = ROWS) -> dict[str, Any]:
    """A day of prices: an integer, a text and twelve floats."""
    draw = np.random.default_rng(number)
    return {
        "day": np.full(rows, number),
        "ticker": [f"T{ticker}" for ticker in draw.integers(0, 500, rows)],
        **{f"c{at}": draw.normal(size=rows) for at in range(12)},
    }


def days(folder: Path, extra: Callable[[np.random.Generator], Any] | None = None) -> None:
    """Write daily files of prices, with an extra column if given."""
    for number in range(DAYS):
        columns = prices(number)
        if extra is not None:
            columns["extra"] = extra(np.random.default_rng(number))
        path = folder / f"{number:05}.parquet"
        if isinstance(columns.get("extra"), pa.Array):
            pq.write_table(pa.table(columns), path)
        else:
            pd.DataFrame(columns).to_parquet(path)


def hive(folder: Path) -> None:
    """Write daily files of prices, each in its own folder `date=YYYY-MM-DD`."""
    for number, day in enumerate(pd.date_range("2024-01-01", periods=DAYS)):
        part = folder / f"date={day:%Y-%m-%d}"
        part.mkdir()
        pd.DataFrame(prices(number)).to_parquet(part / "part-0.parquet")


def wide(folder: Path) -> None:
    """Write 60 files of 500 rows and 500 columns."""
    draw = np.random.default_rng(0)
    names = [f"x{number:03}" for number in range(500)]
    for number in range(60):
        frame = pd.DataFrame(draw.normal(size=(500, 500)), columns=names)
        frame.to_parquet(folder / f"{number:05}.parquet")


def tiny(folder: Path, files: int, rows: int) -> None:
    """Write very many very small files."""
    for number in range(files):
        columns = {"n": np.arange(rows), "x": np.ones(rows), "s": ["text"] * rows}
        pq.write_table(pa.table(columns), folder / f"{number:06}.parquet")


def one_large(folder: Path) -> None:
    """Write one file of five million rows: an integer, three floats, a text of 1,000 values."""
    draw, rows = np.random.default_rng(0), 5_000_000
    table = pa.table({
        "n": np.arange(rows),
        **{f"x{at}": draw.normal(size=rows) for at in range(3)},
        "s": pa.DictionaryArray.from_arrays(
            draw.integers(0, 1000, rows), [f"name {number}" for number in range(1000)]
        ).cast(pa.string()),
    })  # fmt: skip
    pq.write_table(table, folder / "0.parquet")


def _category(draw: np.random.Generator) -> Any:
    return pd.Categorical(draw.choice(SECTORS[:-1], ROWS), categories=SECTORS)


def _other_categories(draw: np.random.Generator) -> Any:
    some = draw.choice([f"name {number}" for number in range(100)], 10, replace=False)
    return pd.Categorical(draw.choice(some, ROWS))


def _decimals(draw: np.random.Generator) -> Any:
    return pa.array(draw.integers(0, 10_000, ROWS), pa.int32()).cast(pa.decimal128(12, 2))


def _dates(draw: np.random.Generator) -> Any:
    return pa.array(draw.integers(19_000, 20_000, ROWS).astype(np.int32)).cast(pa.date32())


def _with_gaps(dtype: str, draw: np.random.Generator) -> Any:
    values = pd.array(draw.integers(0, 2, ROWS), dtype="Int64").astype(dtype)
    values[draw.random(ROWS) < 0.1] = pd.NA
    return values


def _zoned(draw: np.random.Generator) -> Any:
    return pd.Timestamp("2024-01-01", tz="America/New_York") + pd.to_timedelta(
        draw.integers(0, 10**6, ROWS), "s"
    )


def _lists(draw: np.random.Generator) -> Any:
    ends = np.concatenate([[0], np.cumsum(draw.integers(0, 4, ROWS))]).astype(np.int32)
    return pa.ListArray.from_arrays(ends, draw.integers(0, 1000, ends[-1]))


def _structs(draw: np.random.Generator) -> Any:
    fields = [pa.array(draw.integers(0, 1000, ROWS)), pa.array(draw.choice(SECTORS, ROWS))]
    return pa.StructArray.from_arrays(fields, ["id", "name"])


KINDS = (
    Kind("plain", days),
    Kind("category", partial(days, extra=_category)),
    Kind("other-categories", partial(days, extra=_other_categories)),
    Kind("nullable", partial(days, extra=partial(_with_gaps, "Int64"))),
    Kind("bools", partial(days, extra=partial(_with_gaps, "boolean"))),
    Kind("zoned", partial(days, extra=_zoned)),
    Kind("decimals", partial(days, extra=_decimals)),
    Kind("dates", partial(days, extra=_dates)),
    Kind("lists", partial(days, extra=_lists)),
    Kind("structs", partial(days, extra=_structs)),
    Kind("hive", hive),
    Kind("wide", wide),
    Kind("one-row", partial(tiny, files=2_000, rows=1)),
    Kind("tiny", partial(tiny, files=20_000, rows=20), rounds=3),
    Kind("one-large", one_large, rounds=5),
)


def _prepare(kind: Kind, setup: Setup) -> Prepared:
    folder = Path(setup.scratch, f"kind-{kind.name}")
    if not folder.exists():
        folder.mkdir()
        kind.write(folder)
    paths = sorted(str(path) for path in folder.rglob("*.parquet"))
    return _sides(setup, paths, kind.peers, None)


def _integers(setup: Setup) -> Prepared:
    peers = {
        "polars": lambda paths: _polars_columns(paths, INTEGER_COLUMNS),
        "pyarrow.dataset": lambda paths: _dataset_columns(paths, INTEGER_COLUMNS),
    }
    return _sides(setup, setup.files("lineitem"), peers, INTEGER_COLUMNS)


def _polars_columns(paths: Paths, columns: Sequence[str]) -> pd.DataFrame:
    import polars as pl

    return pl.read_parquet(list(paths), columns=list(columns)).to_pandas()


def _dataset_columns(paths: Paths, columns: Sequence[str]) -> pd.DataFrame:
    import pyarrow.dataset as ds

    return ds.dataset(list(paths)).to_table(columns=list(columns)).to_pandas()


def _sides(setup: Setup, paths: Paths, peers: Any, columns: Sequence[str] | None) -> Prepared:
    """Ours and the peers, given as names in `PEERS` or as functions by name."""
    ways = peers if isinstance(peers, dict) else {name: PEERS[name] for name in peers}
    ours = setup.loader(backend="pytorch", cache="none")
    check = expect_frame(setup.original.load_files(paths, columns))
    return Prepared({
        **{name: Side(lambda way=way: way(paths)) for name, way in ways.items()},
        names.PYTORCH: Side(lambda: ours.load_files(paths, columns), check),
    })  # fmt: skip


COMPARISONS = (
    *(
        Comparison(
            f"kinds-{kind.name}",
            f"frame, no cache, {names.KINDS[kind.name][0]}",
            (*kind.peers, names.PYTORCH),
            rounds=kind.rounds,
            prepare=partial(_prepare, kind),
        )
        for kind in KINDS
    ),
    Comparison(
        "kinds-integers",
        f"frame, no cache, {names.INTEGERS}",
        ("polars", "pyarrow.dataset", names.PYTORCH),
        rounds=ROUNDS,
        prepare=_integers,
    ),
)
