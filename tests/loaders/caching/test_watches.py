"""What watches memory notices each byte that changes among final rows, and nothing else."""

import ctypes
import mmap
import os

import numpy as np
import pytest
from feedrate.loaders.caching import checksums, pages
from feedrate.loaders.caching.checksums import Checksums
from feedrate.loaders.caching.mapping import map_file
from feedrate.loaders.caching.pages import PAGE, MappedPages, WatchedPages, blank_memory
from hypothesis import given, settings
from hypothesis import strategies as st

COLUMNS = 3


def _kernel_tells():
    try:
        WatchedPages(make_block(10, "f8"), grows=False)
    except OSError:
        return False
    return True


def make_block(rows, dtype):
    """A block whose columns begin with pages, as those of segments that grow."""
    dtype = np.dtype(dtype)
    stride = -(-rows * dtype.itemsize // PAGE) * PAGE
    written, _ = blank_memory(stride * COLUMNS)
    block = np.ndarray((COLUMNS, rows), dtype, written, 0, (stride, dtype.itemsize))
    for column in block:
        column.view(np.uint8)[:] = np.random.default_rng(rows).integers(0, 255, column.nbytes)
    return block


def _by_kernel(block):
    return WatchedPages(block, grows=True)


@pytest.fixture(scope="module", params=["kernel", "checksums"])
def watch(request):
    """A function that watches a block."""
    patch = pytest.MonkeyPatch()
    patch.setattr(checksums, "PIECE_BYTES", 1000)
    if request.param == "checksums":
        yield Checksums
    elif _kernel_tells():
        yield _by_kernel
    else:
        pytest.skip("the kernel does not tell which pages were written to")
    patch.undo()


@pytest.mark.parametrize("dtype", ["f8", "i4", "i1"])
@settings(deadline=None, max_examples=25)
@given(steps=st.lists(st.integers(1, 3000), min_size=1, max_size=5), data=st.data())
def test_each_change_to_rows_that_came_piece_by_piece_is_noticed(watch, dtype, steps, data):
    rows = sum(steps) + 20
    block = make_block(rows, dtype)
    known, stop = watch(block), 0
    for step in steps:
        stop += step
        assert known.extend(stop)
    start = data.draw(st.integers(0, stop - 1))
    row = data.draw(st.sampled_from([start, stop - 1, data.draw(st.integers(start, stop - 1))]))
    assert known.is_unchanged(0, stop)
    assert known.is_unchanged(start, stop)
    block[:, stop:] = 0  # rows to come
    assert known.is_unchanged(start, stop)
    memory = block[data.draw(st.integers(0, COLUMNS - 1))].view(np.uint8)
    memory[row * block.itemsize + data.draw(st.integers(0, block.itemsize - 1))] ^= 0x80
    assert not known.is_unchanged(start, stop)
    assert not known.is_unchanged(row, row + 1)


@pytest.mark.parametrize("row", [0, 700, 999])
def test_a_change_to_final_rows_is_noticed_when_more_come(watch, row):
    block = make_block(4000, "f8")
    known = watch(block)
    assert known.extend(1000)
    block[1].view(np.uint8)[8 * row] ^= 1
    assert not (known.extend(3000) and known.is_unchanged(0, 1000))


def test_a_block_that_is_whole_is_watched_as_a_whole():
    if not _kernel_tells():
        pytest.skip("the kernel does not tell which pages were written to")
    written, read_only = blank_memory(5 * PAGE + 16)
    block = np.ndarray((2, 1281), "f8", written)
    block[:] = 1
    known = WatchedPages(np.ndarray((2, 1281), "f8", read_only), grows=False)
    assert known.extend(1281)
    assert block.sum() == 2 * 1281
    assert known.is_unchanged(0, 1281)
    block[1, -1] = 2
    assert not known.is_unchanged(0, 1281)


def test_a_mapped_file_that_this_process_writes_to_is_noticed_and_stays_as_it_is(tmp_path):
    path = tmp_path / "bytes"
    path.write_bytes(b"\1" * (3 * PAGE + 5))
    with path.open("rb") as file:
        mapped = map_file(file.fileno(), 3 * PAGE + 5)
        try:
            known = MappedPages(mapped)
        except OSError:
            pytest.skip("the kernel does not tell which pages were written to")
        assert mapped.sum() == 3 * PAGE + 5
        assert known.is_unchanged(0, 0)
        anew = mmap.mmap(-1, 1)  # other memory of the process
        anew[:] = b"x"
        assert known.is_unchanged(0, 0)
        pointer = np.ctypeslib.as_array(_bytes_at(mapped.ctypes.data + 2 * PAGE), (1,))
        pointer[0] = 7
    assert not known.is_unchanged(0, 0)
    assert path.read_bytes() == b"\1" * (3 * PAGE + 5)


def _bytes_at(address):
    return ctypes.cast(address, ctypes.POINTER(ctypes.c_ubyte))


def test_a_forked_child_asks_about_its_own_memory():
    if not _kernel_tells():
        pytest.skip("the kernel does not tell which pages were written to")
    block = make_block(2000, "f8")
    known = _by_kernel(block)
    assert known.extend(2000)
    child = os.fork()
    if not child:
        mine = make_block(2000, "f8")
        anew = _by_kernel(mine)
        right = anew.extend(2000) and anew.is_unchanged(0, 2000)
        mine[0, 0] = -1
        os._exit(0 if right and not anew.is_unchanged(0, 2000) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert known.is_unchanged(0, 2000)
    block[2, 5] = -1
    assert not known.is_unchanged(0, 2000)


@pytest.mark.parametrize("machine", ["riscv64", "x86_64"])
def test_where_the_kernel_does_not_tell_an_error_says_so(monkeypatch, machine):
    monkeypatch.setattr(pages, "_process", pages._Process())
    monkeypatch.setattr(pages.platform, "machine", lambda: machine)
    monkeypatch.setattr(pages, "_CALLS", {"x86_64": 1 << 20})  # no such call
    with pytest.raises(OSError, match="Function not implemented"):
        WatchedPages(make_block(10, "f8"), grows=False)
