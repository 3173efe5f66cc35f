"""The bytes of an object that hold some columns of some row groups."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

import pyarrow.parquet as pq

from ..remote.ranges import Range


def wanted_ranges(
    metadata: pq.FileMetaData,
    columns: Collection[str] | None,
    groups: Iterable[int] | None = None,
) -> Iterator[Range]:
    """Yield the bytes of each column chunk that Arrow reads.

    Args:
        metadata: the footer.
        columns: names of columns, of which nested ones have several chunks; None means all.
        groups: row groups; None means all.
    """
    leaves = _leaves(metadata.schema, columns)
    for group in range(metadata.num_row_groups) if groups is None else groups:
        row_group = metadata.row_group(group)
        for leaf in leaves:
            chunk = row_group.column(leaf)
            start = chunk.data_page_offset
            if chunk.has_dictionary_page and chunk.dictionary_page_offset:
                start = min(start, chunk.dictionary_page_offset)
            if start >= 0 and chunk.total_compressed_size > 0:
                yield Range(start, start + chunk.total_compressed_size)


def _leaves(schema: pq.ParquetSchema, columns: Collection[str] | None) -> Sequence[int]:
    if columns is None:
        return range(len(schema))
    names = set(columns)
    return [
        at
        for at in range(len(schema))
        # The path of a nested leaf begins with its column's name; a name may hold dots itself.
        if (path := schema.column(at).path) in names
        or any(path.startswith(f"{name}.") for name in names)
    ]
