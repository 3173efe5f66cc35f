"""Check a dataset: its properties, and its problems for loading."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from ...loaders.base.dates import date_of
from ...loaders.base.errors import ColumnError, FeedrateError, ParquetFileError
from ...loaders.base.mounts import NETWORK, file_system
from ...loaders.parquet.reader import PANDAS_DAMAGE, open_parquet, reading
from ...loaders.parquet.schema import why_pandas_must_read
from ...loaders.remote.ahead import map_paths
from ...loaders.storage import DATE_THEM
from ...loaders.training.numeric import numbers, quantity
from ..plan.source import Listing
from ..record.metrics import FEWER_COLUMNS
from ..record.sampling import ordinal
from ..record.savings import known_savings, tried
from ..system.formats import format_bytes, format_count, format_percent
from ..system.procfs import read_proc
from ..system.units import counted, plural, without_hints
from ..trial.alone import arrow_decoder, size_of
from ..trial.what_if import what_ifs

Level = Literal["ok", "note", "warning", "error"]
"""`error`: files cannot be loaded, or a column cannot be used in training."""

GIANT_ROW_GROUP_BYTES = 1 << 30
MOST_FOOTERS = 200  # evenly spaced files whose footers are examined
MOST_OPENED = 20_000  # evenly spaced files, to find damaged ones: 4 s on a local disk
MOST_REQUESTED = 2000  # objects, whose ends are requested instead: up to 128 MB
MOST_DAMAGED = 20  # findings of one damaged file each; further files share a finding
DOMINANT_SHARE = 0.2  # of the bytes
SHOWN = 5  # names in a finding
WARNING_PCT = 15.0  # of the time; larger savings come with a remedy
_REWRITE = "write it again or move it away; on_error='skip' leaves such files out"
_REMEDIES = {
    FEWER_COLUMNS: "name the needed columns, so that others are not decoded",
    "uncompressed_pct": "use a codec that decodes faster, such as LZ4",
    "merged_pct": "write one file per month instead of per day, or use cache='disk'",
    "row_groups_pct": "write with row_group_size=131_072",
}


class Finding(msgspec.Struct, frozen=True):
    """The result of one check."""

    topic: str
    text: str
    level: Level = "ok"
    remedy: str = ""


def split_damaged(listing: Listing) -> tuple[Listing, list[Finding]]:
    """Return the undamaged files, and findings about the damaged ones."""
    most = MOST_REQUESTED if listing.of_objects else MOST_OPENED
    step = max(1, -(-len(listing.files) // most))
    opened = listing.files[::step]
    converted: set[bytes] = set()

    def damage(path: str) -> Finding | None:
        try:
            _open(path, converted)
        except ParquetFileError as error:
            return unreadable(error)
        return None

    found = zip(opened, map_paths(damage, opened, 0), strict=True)
    damaged = {path: finding for path, finding in found if finding is not None}
    findings = list(damaged.values())[:MOST_DAMAGED]
    if len(damaged) > MOST_DAMAGED:
        others = list(damaged)[MOST_DAMAGED:]
        more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        names = ", ".join(others[:SHOWN])
        text = f"{counted(len(others), 'other file')} cannot be read: {names}{more}"
        findings.append(Finding("data", text, "error", _REWRITE))
    if step > 1:
        text = f"only every {ordinal(step)} file was opened to find damaged ones"
        findings.append(Finding("data", text, "note"))
    good = [path for path in listing.files if path not in damaged]
    return replace(listing, files=good), findings


def examine_data(listing: Listing) -> Iterator[Finding]:
    """Check where the files are stored, how they were written, and what makes them slow to load.

    Raises:
        ParquetFileError: a file is damaged; `split_damaged` removes such files.
    """
    files = listing.files
    yield _storage(listing)
    yield from _undated(listing)
    sizes = list(map(size_of, files))
    step = max(1, -(-len(files) // MOST_FOOTERS))
    converted: set[bytes] = set()
    footers = list(map_paths(lambda path: _open(path, converted), files[::step], 0))
    rows = sum(footer.metadata.num_rows for footer in footers) / len(footers)
    sampled = f" (estimated from {len(footers)} footers)" if len(footers) < len(files) else ""
    yield Finding(
        "data",
        f"{listing.data_type}: {counted(len(files), 'file')}, {format_bytes(sum(sizes))}, "
        f"{format_count(rows * len(files))} rows{sampled}; a file has "
        f"{format_bytes(statistics.median(sizes))} (median), up to {format_bytes(max(sizes))}",
    )
    groups = [
        footer.metadata.row_group(number)
        for footer in footers
        for number in range(footer.metadata.num_row_groups)
    ]
    yield from _row_groups(groups, len(footers))
    if rows:
        yield from _columns(groups)
    repeated = list(_repeated_names(footers))
    yield from repeated
    yield from _schema_drift(footers)
    yield from _read_by_pandas(footers)
    if rows and not repeated:  # files that cannot be loaded need no advice on speed
        yield from _savings(files) if not listing.of_objects else ()


@dataclass(frozen=True)
class _Footer:
    path: str
    schema: pa.Schema
    metadata: pq.FileMetaData


def _open(path: str, converted: set[bytes]) -> _Footer:
    """Read a file's footer.

    Args:
        path: the file.
        converted: schemas that pandas is known to convert; the file's is added.

    Raises:
        ParquetFileError: the footer cannot be read, or pandas' metadata in it is damaged.
    """
    with reading(path, PANDAS_DAMAGE), open_parquet(path) as file:
        schema = file.schema_arrow
        if (key := schema.serialize().to_pybytes()) not in converted:
            schema.empty_table().to_pandas()  # raises if the metadata is damaged
            converted.add(key)
        return _Footer(path, schema, file.metadata)


def unreadable(error: ParquetFileError) -> Finding:
    """The finding about a file that cannot be read."""
    return Finding("data", f"{error.path}: {error.reason}", "error", _REWRITE)


def _storage(listing: Listing) -> Finding:
    if listing.of_objects:
        return Finding("storage", f"the files are objects, in {listing.folder}")
    kind = file_system(listing.files[0], read_proc("/proc/self/mounts"))
    if kind in NETWORK:
        return Finding(
            "storage",
            f"the files are on {kind}, a network file system",
            "warning",
            "cache='disk' keeps decoded rows on a local disk; more workers hide latency",
        )
    if kind == "tmpfs":
        return Finding("storage", "the files are on tmpfs: in memory, so never cold", "note")
    return Finding("storage", f"the files are on {kind or 'a file system of unknown kind'}")


def _undated(listing: Listing) -> Iterator[Finding]:
    """Find files without a date, which a range of dates leaves out."""
    names = list(map(listing.name_in_type, listing.files))
    if undated := [name for name in names if date_of(name) is None]:
        more = f" and {len(undated) - SHOWN} more" if len(undated) > SHOWN else ""
        yield Finding(
            "data",
            f"{len(undated)} of {counted(len(names), 'file')} have no date, so a range of dates "
            f"leaves them out: {', '.join(undated[:SHOWN])}{more}",
            "warning" if len(undated) < len(names) else "note",
            DATE_THEM,
        )


def _row_groups(groups: Sequence[pq.RowGroupMetaData], files: int) -> Iterator[Finding]:
    if not groups:
        yield Finding("data", "the examined files have no rows", "note")
        return
    codecs = Counter(
        group.column(position).compression
        for group in groups
        for position in range(group.num_columns)
    )
    largest = max(group.total_byte_size for group in groups)
    rows = statistics.median(group.num_rows for group in groups)
    per_file = round(len(groups) / files, 2)
    text = (
        f"{per_file:.3g} {plural(per_file, 'row group')} per file, of {format_count(rows)} rows "
        f"(median); the largest has {format_bytes(largest)} decompressed; {', '.join(codecs)}"
    )
    giant = largest > GIANT_ROW_GROUP_BYTES
    yield Finding(
        "data",
        text,
        "warning" if giant else "ok",
        "each worker decodes a whole row group in memory; write smaller ones "
        "(row_group_size=100_000)"
        if giant
        else "",
    )


def _columns(groups: Sequence[pq.RowGroupMetaData]) -> Iterator[Finding]:
    sizes: Counter[str] = Counter()
    for group in groups:
        for position in range(group.num_columns):
            column = group.column(position)
            sizes[column.path_in_schema] += column.total_compressed_size
    total = sizes.total()
    dominant = [
        f"{name} {format_percent(100 * size / total)}"
        for name, size in sizes.most_common()
        if total and size > DOMINANT_SHARE * total
    ]
    if dominant and len(sizes) > 1:
        yield Finding(
            "data",
            f"of {len(sizes)} columns these take most bytes: {', '.join(dominant)}",
            "note",
            "name the needed columns, so that others are not read",
        )


def _read_by_pandas(footers: Sequence[_Footer]) -> Iterator[Finding]:
    """Find files that only pandas can read, with the reasons."""
    reasons = Counter(
        why
        for footer in footers
        if (why := why_pandas_must_read(footer.schema)) and "one name" not in why
    )
    for why, count in reasons.most_common(SHOWN):
        files = f"{count} of {counted(len(footers), 'file')}"
        yield Finding(
            "data",
            f"pandas reads {files} one by one, and no cache keeps them, since {why}",
            "note",
            "leave it out with columns=[…], or store it as plain columns"
            if why.startswith("column")
            else "write the files without it, as with to_parquet(index=False)",
        )


def _repeated_names(footers: Sequence[_Footer]) -> Iterator[Finding]:
    """Find column names that occur more than once in a file."""
    paths_by_name: dict[str, list[str]] = {}
    for footer in footers:
        for name, count in Counter(footer.schema.names).items():
            if count > 1:
                paths_by_name.setdefault(name, []).append(footer.path)
    for name, paths in paths_by_name.items():
        more = f" and {counted(len(paths) - 1, 'other file')}" if len(paths) > 1 else ""
        yield Finding(
            "data",
            f"{paths[0]}{more}: there are several columns {name!r}; loading them is an error",
            "error",
            "rename all but one, or load other columns with columns=[…]",
        )


def _schema_drift(footers: Sequence[_Footer]) -> Iterator[Finding]:
    """Find columns whose type differs between files, or that some files lack."""
    path_by_type: dict[str, dict[pa.DataType, str]] = {}
    for footer in footers:
        for field in footer.schema:
            path_by_type.setdefault(field.name, {}).setdefault(field.type, footer.path)
    for name, paths in path_by_type.items():
        if len(paths) > 1 and not any(footer.schema.names.count(name) > 1 for footer in footers):
            yield _type_drift(name, paths)
    missing = [
        name for name in path_by_type if any(name not in footer.schema.names for footer in footers)
    ]
    if missing:
        yield Finding(
            "data",
            f"not all files have {counted(len(missing), 'column')}: "
            f"{', '.join(missing[:SHOWN])}{' …' * (len(missing) > SHOWN)}",
            "note",
            "missing values become NaN or None, as in pandas.concat",
        )


def _type_drift(name: str, path_by_type: Mapping[pa.DataType, str]) -> Finding:
    """The finding about a column whose type differs between files."""
    # Show two types of different quantities; if there are none, the first two types.
    by_quantity = {
        _quantity(kind): kind for kind in reversed(path_by_type) if not pa.types.is_null(kind)
    }
    shown = list(reversed(by_quantity.values())) if len(by_quantity) > 1 else list(path_by_type)
    types = ", ".join(f"{kind} in {path_by_type[kind]}" for kind in shown[:2])
    text = f"column {name!r} has {len(path_by_type)} types: {types}"
    if len(by_quantity) > 1:
        return Finding(
            "data",
            f"{text}; training on it is an error, and frames hold it as pandas.concat does, mostly "
            "as objects",
            "error",
            "convert it to one type in all files, or leave it out of columns and features",
        )
    return Finding(
        "data", text, "warning", "files of one schema decode faster; rewrite those that differ"
    )


def _quantity(kind: pa.DataType) -> str | None:
    """The quantity of a type's values in training; it must be the same in all files."""
    try:
        numbers(pa.table({"x": pa.array([], kind)}), "x")
    except ColumnError:
        return "no numbers"
    return quantity(kind)


def _savings(files: Sequence[str]) -> Iterator[Finding]:
    """Measure the time that fewer columns or rewritten files would save."""

    def decode(paths: Sequence[str], columns: Sequence[str] | None) -> None:
        arrow_decoder(paths, columns, 1)()

    try:
        saved, reasons = what_ifs(files, None, decode)
    except (FeedrateError, OSError, pa.ArrowException) as error:
        why = without_hints(str(error))
        yield Finding("data", f"savings by other columns or files were not measured: {why}", "note")
        return
    savings = list(known_savings(saved.get, reasons.get(FEWER_COLUMNS)))
    for saving in savings:
        if saving.shown:
            large = saving.percent >= WARNING_PCT
            yield Finding(
                "data",
                f"{saving.sentence('decoding')}, measured now on a sample",
                "ok" if not large else "warning" if saving.name == "merged_pct" else "note",
                _REMEDIES[saving.name] if large else "",
            )
    if unclear := [saving for saving in savings if not saving.shown]:
        yield Finding("data", f"tried on a sample without a clear saving: {tried(unclear)}")
