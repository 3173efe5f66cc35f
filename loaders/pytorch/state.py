"""A loader's position as a small JSON document, and the checks before a loader resumes there."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..base.errors import InputError, shown
from ..base.settings import LoaderSettings
from ..training.epochs import Leg, Order
from ..training.parquet_rows import ParquetRows
from .datasets import ParquetDataset, StreamingParquetDataset

FORMAT = "feedrate-loader-state"
# Increase it also if a seed's order changes.
# 1: position, and identity of the loader.
# 2: also numpy's version, and a digest of a sample order that it draws.
# 3: also the parts of the epoch that other numbers of ranks have read.
VERSION = 3
READ = (2, 3)
DRAWN = 1000  # rows of the sample order
SAMPLED = 64  # rows that identify a matrix


@dataclass(frozen=True)
class Position:
    """The position to resume from."""

    epoch: int
    batches: int = 0
    """Batches that have been yielded of what the legs left of the epoch."""
    seed: int = 0
    legs: tuple[Leg, ...] = ()
    """What other numbers of ranks have read of the epoch before."""


def to_document(position: Position, identity: Mapping[str, Any], world_size: int) -> dict[str, Any]:
    """A position, with the values that must match where it is resumed."""
    header = {"format": FORMAT, "version": VERSION, "numpy": np.__version__}
    legs = [[leg.world_size, leg.rows] for leg in position.legs]
    return {**header, **asdict(position), "legs": legs, **identity, "world_size": world_size}


def from_document(
    state: object, identity: Mapping[str, Any], seed: int | None, world_size: int
) -> Position:
    """The position in a state.

    Args:
        state: as `to_document` returned it.
        identity: identity of the loader that resumes.
        seed: seed of that loader if it has one and shuffles.
        world_size: number of ranks that resume; if another number has written the state, what it
            has read becomes a leg.

    Raises:
        InputError: `state` is no state, or is of another dataset, batch size or order, or of a
            numpy that draws another order; the message lists the differences.
    """
    if not isinstance(state, Mapping) or state.get("format") != FORMAT:
        raise InputError("the state is not one that state_dict() of a feedrate loader returned")
    if state.get("version") not in READ:
        raise InputError(
            f"the state has version {shown(state.get('version'))} and this version of feedrate "
            f"reads {READ[0]} to {READ[-1]}; resume with the version that wrote it"
        )
    if state.get("order") != identity["order"] and state.get("shuffle") == identity["shuffle"]:
        raise InputError(
            f"the state's epoch was shuffled by numpy {state.get('numpy')}, and numpy "
            f"{np.__version__} draws another order; resume with that numpy"
        )
    expected = identity if seed is None else {**identity, "seed": seed}
    differing = [
        f"{name} is {state.get(name)!r} in the state and {value!r} here"
        for name, value in expected.items()
        if state.get(name) != value
    ]
    if differing:
        raise InputError(
            f"the state is of another loader: {'; '.join(differing)}; "
            "make the loader as it was when the state was taken"
        )
    position = Position(
        _count(state, "epoch"), _count(state, "batches"), _count(state, "seed"), _legs(state)
    )
    ranks = _count(state, "world_size")
    if not ranks:
        raise InputError("the state is damaged: world_size is 0, not a number of ranks")
    if ranks == world_size:
        return position
    leg = Leg(ranks, position.batches * identity["batch_size"])
    legs = (*position.legs, leg) if leg.rows else position.legs
    return Position(position.epoch, 0, position.seed, legs)


def _count(state: Mapping[str, Any], name: str) -> int:
    value = state.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError(f"the state is damaged: {name} is {shown(value)}, not a count")
    return value


def _legs(state: Mapping[str, Any]) -> tuple[Leg, ...]:
    found = state.get("legs", [])
    try:
        legs = tuple(Leg(*map(operator.index, pair)) for pair in found)
    except TypeError:
        legs = (Leg(0, 0),)
    if any(leg.world_size < 1 or leg.rows < 0 for leg in legs):
        raise InputError(f"the state is damaged: legs is {shown(found)}, not pairs of counts")
    return legs


def check_position(position: Position, total: int, batches: int) -> None:
    """Raise `InputError` if a position is beyond the end of its epoch.

    Args:
        position: of a state.
        total: rows of the epoch.
        batches: of a rank in what the legs left.
    """
    read = sum(leg.world_size * leg.rows for leg in position.legs)
    if read > total or position.batches > batches:
        raise InputError(
            f"the state is damaged: it is at row {read:,} of {total:,} and then at batch "
            f"{position.batches} of {batches}"
        )


def identify(
    dataset: ParquetDataset | StreamingParquetDataset, settings: LoaderSettings
) -> dict[str, Any]:
    """The values that decide the order of the rows. Not the rank: all ranks advance alike."""
    columns = dataset.columns
    target = list(columns.target) if isinstance(columns.target, tuple) else columns.target
    return {
        "rows": len(dataset),
        "features": list(columns.features),
        "target": target,
        "data": _data_digest(dataset),
        "batch_size": settings.batch_size,
        "shuffle": settings.shuffle,
        "order": _order_digest() if settings.shuffle else "",
        "shuffle_window": settings.shuffle_window,
        "drop_last": settings.drop_last,
    }


def _order_digest() -> str:
    """Digest a sample order; it differs if this numpy version draws other orders."""
    order = Order(True, 1).permutation(DRAWN).astype("<i8")
    return hashlib.sha256(order.tobytes()).hexdigest()[:16]


def _data_digest(dataset: ParquetDataset | StreamingParquetDataset) -> str:
    """Digest a dataset: files by their names and row counts, rows in memory by some of them."""
    rows = dataset.rows
    digest = hashlib.sha256()
    if isinstance(rows, ParquetRows):
        # Not by folder: the data may have moved between two runs.
        for span in rows.spans:
            name = span.path.replace("\\", "/").rpartition("/")[2]
            row_filter = f"/{span.row_filter.digest()}" if span.row_filter else ""
            digest.update(f"{name}/{span.groups}/{span.rows}{row_filter}\n".encode())
        return f"files {rows.chunk_rows} {digest.hexdigest()[:16]}"
    if len(rows):
        sample = np.unique(np.linspace(0, len(rows) - 1, SAMPLED).astype(np.int64))
        for tensor in rows.take(sample):
            digest.update(tensor.numpy().tobytes())
    return f"rows {digest.hexdigest()[:16]}"
