"""Decode several files of one layout at once, by polars if it is allowed, else by Arrow.

On 365 files of 850 rows and 19 columns polars takes 56 ms with two CPUs, Arrow 108: polars spends
less on each of the many small column chunks, and on text. It has a thread per CPU, and these do not
survive a fork; so it decodes for two workers or more, in processes that imported it themselves.
Arrow decodes in the calling thread. It also decodes long files of numbers alone, if there are at
least as many as workers, since it takes less memory for them. For polars, small files are joined
into one (`joined`).
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.types as pt

from ..base.machine import effective_cpus
from ..base.stages import stage
from ..caching.segments import MakePiece, MisfitError, Piece
from ..parquet.dictionaries import pages_of, read_dictionaries
from ..parquet.footers import Footer
from ..parquet.layout import Layout
from ..parquet.page_checks import Decoded, agree, has_levels_to_check, nulls_agree
from ..parquet.reader import decode, open_parquet, reading
from ..parquet.schema import in_words, nulls_change_types
from ..parquet.sources import (
    WHOLE_BYTES,
    Held,
    OnDisk,
    ReplacedError,
    check_unchanged,
    taken,
    with_columns,
)
from ..remote.source import RemoteSource
from ..remote.urls import is_url
from .joined import Joined, UnusualFooterError, join
from .pieces import LONG_CHUNK, CannotDecodeError, of_arrow, of_codes, of_polars

if TYPE_CHECKING:
    import polars as pl

POLARS_FROM_WORKERS = 2
POLARS_FROM_BYTES = 256 << 10  # for less, the call itself takes most of the time: 0.8 ms
# The time to import polars, and the time that it then saves in a load with two CPUs.
IMPORT_S = 0.066
SAVED_S_PER_FILE = 60e-6
SAVED_S_PER_CHUNK = 5e-6  # a column of a file
SAVED_S_PER_BYTE = 0.5e-9  # of files
BATCH_ROWS = 131_072  # Arrow's datasets, and so pandas, split longer row groups
_THREADS_VARIABLE = "POLARS_MAX_THREADS"

_importing = threading.Lock()
_missed_s = 0.0  # time that polars would have saved so far
_forked_with_polars = False


def import_polars() -> Any:
    """Import polars, with one thread per CPU of this process unless the user sets a number."""
    with _importing:
        if "polars" not in sys.modules and _THREADS_VARIABLE not in os.environ:
            os.environ[_THREADS_VARIABLE] = str(effective_cpus())
            try:
                import polars as pl  # the first import sets the number of threads
            finally:
                del os.environ[_THREADS_VARIABLE]
        else:
            import polars as pl
    return pl


def polars_may_run(num_workers: int, files: float, size: float, chunks: float) -> bool:
    """Whether polars should decode files: for several workers, and not after a fork.

    It is imported once it would have saved this process's loads as much time as the import takes.
    So at most that time is lost, whether or not other loads follow: the ski-rental rule (Karlin,
    Manasse, Rudolph & Sleator 1988, "Competitive snoopy caching").

    Args:
        num_workers: workers of the load.
        files: number of files.
        size: bytes of the files.
        chunks: columns of the files, each counted once per file.
    """
    if num_workers < POLARS_FROM_WORKERS or size < POLARS_FROM_BYTES or _forked_with_polars:
        return False
    return "polars" in sys.modules or _pays(files, size, chunks)


def _pays(files: float, size: float, chunks: float) -> bool:
    """Add a load to the time that polars would have saved; return whether importing it now pays."""
    global _missed_s  # noqa: PLW0603 - holds for the process
    with _importing:
        _missed_s += files * SAVED_S_PER_FILE + chunks * SAVED_S_PER_CHUNK
        _missed_s += size * SAVED_S_PER_BYTE
        return _missed_s >= IMPORT_S


def are_long(files: Sequence[Footer]) -> bool:
    """Whether files have so many rows that one call per file costs next to nothing."""
    return sum(file.rows for file in files) >= LONG_CHUNK * len(files)


def suits_arrow(layout: Layout, files: Sequence[Footer]) -> bool:
    """Whether Arrow decodes files at least as fast as polars, in less memory: long ones of numbers.

    The time of polars over Arrow's was 1.10 for four integer columns of 60 files of 100,000 rows
    (0.70 to 1.59 in twelve pairs), with 446 MiB instead of 308; for 14 columns, 1.22 with 12 files
    of 28,000 rows and 0.91 with 52 files of 6,500 rows; for three columns of text, 0.5.
    """
    return not layout.others and are_long(files)


def _note_fork() -> None:
    global _forked_with_polars  # noqa: PLW0603 - holds for the process
    _forked_with_polars = _forked_with_polars or "polars" in sys.modules


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def decode_with_polars(files: Sequence[Footer], layout: Layout) -> list[MakePiece]:
    """Decode the columns of files of one layout, with the files' rows one after the other.

    Calling a column's function converts the column, and releases it.

    Raises:
        CannotDecodeError: use Arrow. A column's function may also raise it, after other columns
            have been converted.
        ParquetFileError: a file cannot be read, or was replaced meanwhile.
    """
    sources, joined = _open(files)
    try:
        dictionaries = _dictionaries(sources, joined, layout)
        positions = [
            at for at in layout.polars_types if at not in layout.coded or at in dictionaries
        ]
        types = {layout.names[at]: layout.polars_types[at] for at in positions}
    except polars_failures() as error:  # also for names that are not UTF-8
        raise CannotDecodeError from error
    others = _by_arrow(sources, [name for name in layout.names if name not in types])
    if joined is not None:
        sources = ()  # their bytes are in the joined file
    frame = _collect(joined.data if joined is not None else sources, files, types)
    columns = [
        decoded
        for at, column in zip(positions, frame.get_columns(), strict=True)
        for decoded in _count_nulls(column, layout, at)
    ]
    if not _nulls_agree(sources, joined, columns, len(files[0].schema.physical)):
        raise CannotDecodeError
    return _pieces(frame, others, dictionaries, layout, [file.rows for file in files])


def _open(files: Sequence[Footer]) -> tuple[Sequence[Held | OnDisk], Joined | None]:
    """Open files to decode; join small ones into one, if possible.

    Raises:
        CannotDecodeError: only some of their footers have an unusual layout; one may be damaged.
        ParquetFileError: a file cannot be read, or was replaced meanwhile.
    """
    are_large = max(file.size for file in files) > WHOLE_BYTES
    if are_large and not is_url(files[0].path):
        return [OnDisk(file) for file in files], None
    with stage("read"):
        sources = [Held(file) for file in files]
    # Checking levels takes each file's own footer, which the joined file lacks.
    if are_large or len(sources) == 1 or any(map(has_levels_to_check, sources)):
        return sources, None
    arrow = files[0].schema.arrow
    with stage("decode"):
        try:
            return sources, join(sources, arrow)
        except UnusualFooterError as error:
            # Try two files, since one of them may be the damaged one.
            if any(_is_usual(source, arrow) for source in sources[:2]):
                raise CannotDecodeError from error
            return sources, None


def _is_usual(source: Held, arrow: pa.Schema) -> bool:
    try:
        return join([source], arrow) is not None
    except UnusualFooterError:
        return False


def _collect(
    opened: bytes | Sequence[Held | OnDisk], files: Sequence[Footer], types: Mapping[str, Any]
) -> pl.DataFrame:
    """Decode files, or the one joined from them, by polars.

    Raises:
        CannotDecodeError: polars fails, or its result does not match the footers.
        ParquetFileError: a file was replaced meanwhile.
    """
    sources = [opened] if isinstance(opened, bytes) else [source.data for source in opened]
    on_disk = isinstance(sources[0], str)
    try:
        scan = import_polars().scan_parquet(
            sources, parallel="none", use_statistics=False,
            hive_partitioning=False, glob=False, cache=False,
            # Given the schema of all columns, polars need not read it.
            schema=types if list(types) == files[0].schema.arrow.names else None,
        )  # fmt: skip
        with stage("load" if on_disk else "decode"):
            frame: pl.DataFrame = scan.select(list(types)).collect()
    except polars_failures() as error:
        raise CannotDecodeError from error
    if frame.height != sum(file.rows for file in files) or dict(frame.schema) != types:
        raise CannotDecodeError
    for file in files if on_disk else ():
        check_unchanged(file)
    return frame


def _dictionaries(
    sources: Sequence[Held | OnDisk], joined: Joined | None, layout: Layout
) -> dict[int, Sequence[pa.Array]]:
    """The dictionaries of each column of categories, one per file, if all are available."""
    dictionaries = dict[int, Sequence[pa.Array]]()
    for position in layout.coded:
        name, kind = layout.names[position], layout.types[position]
        with stage("decode"):
            if joined is None:
                pages = pages_of(sources, name)
            else:
                pages = joined.dictionaries(layout.leaves[position])
            of_files = read_dictionaries(pages, kind.value_type)
        if of_files is not None:
            dictionaries[position] = of_files
    return dictionaries


def _by_arrow(sources: Sequence[Held | OnDisk], names: Sequence[str]) -> dict[str, pa.ChunkedArray]:
    """The columns that polars does not decode."""
    if not names:
        return {}
    table = pa.concat_tables(
        _checked_table(item.file, item.data if isinstance(item, Held) else None, names)
        for item in sources
    )
    return dict(zip(table.column_names, table.columns, strict=True))


def _nulls_agree(
    sources: Sequence[Held | OnDisk],
    joined: Joined | None,
    columns: Sequence[Decoded],
    leaves: int,
) -> bool:
    """Whether the decoded columns have as many nulls as the files claim."""
    with stage("decode"):
        if joined is not None:
            return nulls_agree(columns, (joined.nulls(column.leaf) for column in columns))
        try:
            return not columns or agree(sources, columns, leaves)
        except OSError as error:  # a file is gone
            raise CannotDecodeError from error


def _count_nulls(column: pl.Series, layout: Layout, position: int) -> Iterator[Decoded]:
    """The nulls of each leaf of a column, as statistics count them."""
    leaf = layout.leaves[position]
    if position not in layout.nested:
        if position in layout.nullable:
            yield Decoded(column.name, leaf, column.null_count())
    elif pt.is_struct(layout.types[position]):
        if not column.null_count():  # values under a null struct are arbitrary
            for at, field in enumerate(column.struct.unnest().get_columns()):
                yield Decoded(f"{column.name}.{field.name}", leaf + at, field.null_count())
    else:
        # A list without elements counts as a null, and so does a null among elements.
        filled = column.filter(column.list.len() > 0)
        within = filled.explode().null_count() if len(filled) else 0
        yield Decoded(column.name, leaf, len(column) - len(filled) + within)


def _pieces(
    frame: pl.DataFrame,
    others: dict[str, pa.ChunkedArray],
    dictionaries: Mapping[int, Sequence[pa.Array]],
    layout: Layout,
    rows: Sequence[int],
) -> list[MakePiece]:
    """The functions that make the layout's columns, in order."""
    by_polars = {column.name: column for column in frame.get_columns()}

    def piece(position: int) -> Piece:
        name = layout.names[position]
        column = by_polars.pop(name, None)
        if column is None:
            return of_arrow(others.pop(name), layout, position)
        try:
            if (of_files := dictionaries.get(position)) is not None:
                return of_codes(column, of_files, rows, layout.types[position])
            return of_polars(column, layout, position)
        except polars_failures() as error:
            raise CannotDecodeError from error

    return [partial(piece, position) for position in range(len(layout.names))]


def polars_failures() -> tuple[type[BaseException], ...]:
    """The errors that polars and Arrow raise if files are not as polars expects."""
    from polars.exceptions import PanicException, PolarsError

    return PolarsError, PanicException, pa.ArrowException, OSError


def decode_with_arrow(files: Sequence[Footer], layout: Layout) -> list[MakePiece]:
    """Like `decode_with_polars`, but by Arrow, in the calling thread alone.

    Raises:
        ParquetFileError: a file cannot be read, or was replaced meanwhile.
    """
    tables = [_checked_table(file, taken(file), layout.names) for file in files]
    table = pa.concat_tables(tables) if len(tables) > 1 else tables[0]
    columns = list(table.columns)

    def piece(position: int) -> Piece:
        column, columns[position] = columns[position], None
        return of_arrow(column, layout, position)

    return [partial(piece, position) for position in range(len(columns))]


def _checked_table(
    file: Footer, source: bytes | RemoteSource | None, columns: Sequence[str]
) -> pa.Table:
    """Decode columns of a file, from its bytes or the open object if `source` holds them.

    Raises:
        MisfitError: pandas converts lists or structs in several parts, and nulls change the types
            within each.
    """
    if source is None and is_url(file.path):
        with stage("read"):
            source = with_columns(file, columns)
    with (
        stage("load" if source is None else "decode"),
        reading(file.path),
        open_parquet(file.path, source) as opened,
    ):
        groups = opened.num_row_groups
        table = decode(opened, columns, file.groups)
    if source is None:
        check_unchanged(file)
    if len(table) != file.rows or table.column_names != list(columns):
        raise ReplacedError(
            file.path,
            f"its footer says {file.rows} rows of {len(columns)} columns and it has {len(table)} "
            f"of {table.num_columns}",
        )
    if groups <= 1 and len(table) <= BATCH_ROWS:
        return table
    for field, column in zip(table.schema, table.columns, strict=True):
        if pt.is_nested(field.type) and any(map(nulls_change_types, column.chunks)):
            raise MisfitError(
                f"column {field.name!r} has nulls in {in_words(field.type)}, which decide how "
                "pandas converts the rows near them"
            )
    return table.unify_dictionaries()  # a file's categories come from all its row groups
