"""The time that fewer columns or rewritten files would save, measured on a sample of the files."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ...loaders.base.errors import FeedrateError
from ...loaders.base.schedule import split
from ...loaders.parquet.reader import open_parquet, read_table, reading
from ...loaders.remote.urls import is_url
from ..record.metrics import (
    FEWER_COLUMNS,
    WHAT_IF_METRICS,
    WHAT_IFS,
    what_if_bounds,
)
from ..record.savings import Saving, saved
from ..record.statistics import CONFIDENCE, median, paired_ratio
from ..system.formats import format_bytes
from ..system.scratch import scratch
from ..system.units import counted
from . import alone
from .column_kinds import Kind, costliest, kinds_of, others

# Rounds after which results are checked; the checks share the 5% chance of an error. A
# ratio's logarithm varies between rounds with sd 0.14 to 0.24 (2 busy CPUs): 32 rounds rule out
# savings above 10 to 14%, and smaller ones if the machine is less busy.
LOOKS = (8, 16, 32)
LOOK_CONFIDENCE = 1 - (1 - CONFIDENCE) / len(LOOKS)
MOST_S = 4.0  # for all loads; the rest of explaining takes about as long
SEED = 0  # of the order of loads, which differs between rounds
SAMPLE_BYTES = 2 << 20
# Of one load, so that nine rounds of six loads, and the loads to find columns, fit into 4 s.
SAMPLE_S = 0.05
MOST_BYTES = 32 * SAMPLE_BYTES  # limit if a single file is larger than a sample
SMALL_FILE_BYTES = 1 << 20
MERGED_AT_ONCE = 30  # daily files into a monthly one
FEWEST_MERGED = 4  # files after merging, so that workers still have work to share
GROUP_ROWS = 131_072
# Of a row group: outside this range another size is tried.
FEW_ROWS, MANY_ROWS = GROUP_ROWS // 4, 8 * GROUP_ROWS

_ORIGINALS, _COPIES = "", "alike"
"""The bases of comparison: the files, and their unchanged copies by our writer."""

Load = Callable[[Sequence[str], Sequence[str] | None], object]
"""Loads columns (None: all) of files, from scratch."""


class _NotApplicable(Exception):  # noqa: N818 - an answer, not an error
    """A change does not apply to these files; the message says why."""


@dataclass(frozen=True)
class _Variant:
    paths: Sequence[str]
    columns: Sequence[str] | None


def what_ifs(
    paths: Sequence[str], columns: Sequence[str] | None, load: Load, *, all_needed: bool = False
) -> tuple[dict[str, float | None], dict[str, str]]:
    """Measure the loading time that each change would save, in percent, with 95% intervals.

    A few quick loads find the columns to leave out: those of the kind that costs most, see
    `costliest`. Then the sample is loaded unchanged and with each change, each round in another
    order, until each answer is known (a saving worth reporting, or none of that size), or for 32
    rounds or 4 seconds. All files are in the page cache. Rewritten files are compared with
    unchanged copies by the same writer (Arrow's), so that each answer is about one change alone.

    Args:
        paths: the files of a pass; about 2 MiB of them are used, fewer if they load slowly, and at
            least one. Nothing is measured of objects.
        columns: the columns that are loaded; None means all.
        load: the loader.
        all_needed: whether no column can be left out.

    Returns:
        Metrics by the names in `WHAT_IF_METRICS`, and the reasons for those that are None; under
        `FEWER_COLUMNS`, the reasons name the columns that were left out.
    """
    began = time.monotonic()
    # Neighbours, since merged files should be adjacent ones.
    sample = alone.leading_files(paths, SAMPLE_BYTES)
    if (why := _why_not(sample)) is not None:
        return _answers({}, dict.fromkeys(WHAT_IFS, why))
    reasons: dict[str, str] = {}
    if all_needed:
        reasons[FEWER_COLUMNS] = "training needs all columns"
    sample = _quick(sample, columns, load)
    left_out: Kind | None = None
    with scratch() as folder:
        variants: dict[str, _Variant] = {}
        for name in [name for name in WHAT_IFS if name not in reasons]:
            try:
                if name == FEWER_COLUMNS:
                    left_out, rest = _without_costliest(sample, columns, load)
                    variants[name] = _Variant(sample, rest)
                else:
                    variants[name] = _rewritten_for(name, sample, columns, folder)
            except _NotApplicable as error:
                reasons[name] = str(error)
            except (pa.ArrowException, FeedrateError, OSError) as error:
                reasons[name] = f"the sample could not be rewritten: {error}"
        bases = {_ORIGINALS: _Variant(sample, columns)}
        if rewritten := variants.keys() - {FEWER_COLUMNS}:
            try:
                bases[_COPIES] = _Variant(_rewritten(sample, folder / _COPIES), columns)
            except (pa.ArrowException, FeedrateError, OSError) as error:
                reasons |= dict.fromkeys(rewritten, f"the sample could not be rewritten: {error}")
                variants = {key: variants[key] for key in variants if key not in rewritten}
        savings, rounds = _measured(variants, bases, load, began)
    too_few = (
        f"{counted(rounds, 'round')} took {MOST_S:g} s, and an interval needs {LOOKS[0]}: the "
        "sample takes too long to load"
    )
    reasons |= {name: too_few for name in variants if name not in savings}
    metrics, reasons = _answers(savings, reasons)
    if left_out is not None and FEWER_COLUMNS in savings:
        reasons[FEWER_COLUMNS] = str(left_out)
    return metrics, reasons


def _why_not(sample: Sequence[str]) -> str | None:
    """Why nothing can be measured of a sample; None if it can."""
    if any(map(is_url, sample)):
        return "loads of rewritten objects could only be timed in their store"
    if (size := alone.total_bytes(sample)) > MOST_BYTES:
        return f"one file has {format_bytes(size)}, too much for a sample"
    return None


def _quick(paths: list[str], columns: Sequence[str] | None, load: Load) -> list[str]:
    """The first files that load within `SAMPLE_S` together, at least one."""
    load(paths[:1], columns)  # a warm-up
    seconds = alone.seconds(partial(load, paths, columns))
    return paths[: max(1, int(len(paths) * min(1.0, SAMPLE_S / seconds)))]


def _answers(
    savings: Mapping[str, Saving], reasons: Mapping[str, str]
) -> tuple[dict[str, float | None], dict[str, str]]:
    """The savings as metrics, and why some are None."""
    metrics: dict[str, float | None] = dict.fromkeys(WHAT_IF_METRICS)
    for saving in savings.values():
        metrics |= saving.metrics
    return metrics, {
        metric: reason
        for name, reason in reasons.items()
        for metric in (name, *what_if_bounds(name))
    }


def _measured(
    variants: Mapping[str, _Variant], bases: Mapping[str, _Variant], load: Load, began: float
) -> tuple[dict[str, Saving], int]:
    """Measure the saving of each variant until it is settled; also return the number of rounds.

    The time limit counts from `began`, by the monotonic clock.
    """
    times: dict[str, list[float]] = {name: [] for name in (*variants, *bases)}
    savings: dict[str, Saving] = {}
    unsettled = list(variants)
    shuffler = random.Random(SEED)  # noqa: S311 - no secret
    rounds, longest = -1, 0.0  # the first round is a warm-up
    for look in LOOKS:
        while unsettled and rounds < look and time.monotonic() - began + longest < MOST_S:
            start = time.monotonic()
            arms = {_base(name): bases[_base(name)] for name in unsettled}
            arms |= {name: variants[name] for name in unsettled}
            # Shuffled, so that no load always follows the same one.
            for name, arm in shuffler.sample(list(arms.items()), len(arms)):
                seconds = alone.seconds(partial(load, arm.paths, arm.columns))
                if rounds >= 0:
                    times[name].append(seconds)
            rounds += 1
            longest = max(longest, time.monotonic() - start)
        if rounds < LOOKS[0]:
            break
        for name in unsettled:
            base_times = times[_base(name)][:rounds]
            savings[name] = saved(name, paired_ratio(times[name], base_times, LOOK_CONFIDENCE))
        unsettled = [name for name in unsettled if not savings[name].settled]
    return savings, max(0, rounds)


def _base(name: str) -> str:
    """The base that a variant is compared with."""
    return _ORIGINALS if name == FEWER_COLUMNS else _COPIES


def _rewritten_for(
    name: str, paths: Sequence[str], columns: Sequence[str] | None, folder: Path
) -> _Variant:
    """Rewrite the files with one change."""
    rewrite = {
        "uncompressed_pct": _uncompressed,
        "merged_pct": _merged,
        "row_groups_pct": _regrouped,
    }
    return _Variant(rewrite[name](paths, folder / name), columns)


def _without_costliest(
    paths: Sequence[str], columns: Sequence[str] | None, load: Load
) -> tuple[Kind, list[str]]:
    """The kind of column that costs most, and the loaded columns without it."""
    with reading(paths[0]), open_parquet(paths[0]) as file:
        schema = file.schema_arrow
    fields = [field for field in schema if columns is None or field.name in columns]
    loaded = [field.name for field in fields]
    kinds = kinds_of(fields)
    if not kinds:
        raise _NotApplicable("all columns that are loaded are plain numbers")
    removable = [kind for kind in kinds if others(kind, loaded)]
    if not removable:
        raise _NotApplicable("all columns that are loaded hold one kind, so none would be left")

    def seconds(chosen: Sequence[str] | None) -> float:
        return alone.seconds(partial(load, paths, columns if chosen is None else chosen))

    kind = costliest(removable, loaded, seconds)
    return kind, others(kind, loaded)


def _uncompressed(paths: Sequence[str], folder: Path) -> list[str]:
    if _codec(paths[0]) == "NONE":
        raise _NotApplicable("the files are not compressed")
    return _rewritten(paths, folder, codec="NONE")


def _merged(paths: Sequence[str], folder: Path) -> list[str]:
    count = max(FEWEST_MERGED, len(paths) // MERGED_AT_ONCE)
    if median([float(Path(path).stat().st_size) for path in paths]) > SMALL_FILE_BYTES:
        raise _NotApplicable("the files are not small")
    if len(paths) < 2 * count:
        raise _NotApplicable("there are too few files to merge any")
    folder.mkdir()
    return [
        _written(
            pa.concat_tables([read_table(path) for path in part], promote_options="permissive"),
            folder / f"{number:06}.parquet",
            _codec(part[0]),
            GROUP_ROWS,
        )
        for number, part in enumerate(split(paths, count))
    ]


def _regrouped(paths: Sequence[str], folder: Path) -> list[str]:
    rows = [count for path in paths for count in _group_rows(path)]
    small_and_many = len(rows) > len(paths) and median([float(count) for count in rows]) < FEW_ROWS
    if not small_and_many and max(rows, default=0) <= MANY_ROWS:
        raise _NotApplicable("the row groups are neither small and many, nor large")
    return _rewritten(paths, folder, group_rows=GROUP_ROWS)


def _rewritten(
    paths: Sequence[str], folder: Path, codec: str | None = None, group_rows: int | None = None
) -> list[str]:
    """Rewrite files with our writer; keep the codec and row group size unless given."""
    folder.mkdir()
    return [
        _written(
            read_table(path),
            folder / f"{number:06}.parquet",
            codec or _codec(path),
            group_rows or max(1, max(_group_rows(path), default=1)),
        )
        for number, path in enumerate(paths)
    ]


def _group_rows(path: str) -> Iterator[int]:
    with reading(path), open_parquet(path) as file:
        for number in range(file.metadata.num_row_groups):
            yield file.metadata.row_group(number).num_rows


def _codec(path: str) -> str:
    with reading(path), open_parquet(path) as file:
        footer = file.metadata
        if not (footer.num_row_groups and footer.num_columns):
            return "SNAPPY"
        codec = str(footer.row_group(0).column(0).compression)
    return "NONE" if codec == "UNCOMPRESSED" else codec


def _written(table: pa.Table, path: Path, codec: str, group_rows: int) -> str:
    # Store decimals as integers if they fit, as most writers do but Arrow by default does not.
    pq.write_table(
        table, path, compression=codec, row_group_size=group_rows, store_decimal_as_integer=True
    )
    return str(path)
