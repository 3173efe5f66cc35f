"""Which parts of an object are requested."""

import itertools

import pytest

pytest.importorskip("hypothesis")
from feedrate.loaders.remote.ranges import Range, divided, merged
from hypothesis import given
from hypothesis import strategies as st

RANGES = st.lists(
    st.tuples(st.integers(0, 200), st.integers(0, 40)).map(lambda one: Range(one[0], sum(one))),
    max_size=12,
)


@given(RANGES, st.integers(0, 50))
def test_merged_ranges_hold_each_byte_once_and_little_more(ranges, gap):
    out = merged(ranges, gap)
    wanted = {byte for one in ranges for byte in range(*one)}
    read = [byte for one in out for byte in range(*one)]
    assert len(read) == len(set(read))
    assert wanted <= set(read)
    assert out == sorted(out)
    assert all(after.start - before.stop > gap for before, after in itertools.pairwise(out))
    edges = {one.start for one in out} | {one.stop - 1 for one in out}
    assert edges <= wanted
    assert merged(out, gap) == out


@given(st.integers(0, 100), st.integers(1, 1000), st.integers(1, 300))
def test_a_divided_range_is_whole_and_its_parts_are_of_nearly_one_size(start, size, split):
    parts = divided(Range(start, start + size), split)
    assert [byte for one in parts for byte in range(*one)] == list(range(start, start + size))
    sizes = [one.size for one in parts]
    assert max(sizes) <= split
    assert max(sizes) - min(sizes) <= 1
    assert len(parts) == -(-size // split)
