"""Batches on a device: the order in which buffers, copies and streams are used; on a GPU, all."""

from __future__ import annotations

import itertools
import multiprocessing
import threading
import time
from collections import namedtuple

import numpy as np
import pandas as pd
import pytest
import torch
from feedrate.loaders import (
    LoaderSettings,
    ParquetDataset,
    PyTorchDataLoader,
    StreamingParquetDataset,
)
from feedrate.loaders.base.errors import InputError
from feedrate.loaders.pytorch import device as torch_device
from feedrate.loaders.pytorch import memory_rows
from feedrate.loaders.pytorch.device import AHEAD, CHUNKS_AHEAD, DeviceLoader
from feedrate.loaders.pytorch.feed import FeedDataLoader
from feedrate.loaders.pytorch.memory_rows import MatrixRows

from .torch_rows import ROWS, dataset_of, feeding_threads, rows_of, write_files

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
Pair = namedtuple("Pair", "x y")  # noqa: PYI024 - a plain namedtuple is what is tested


class LateEvent:
    """A mark whose copies are only done when somebody waits for it."""

    def __init__(self, copies, log):
        self.copies, self.log = copies, log
        self.waited = False
        self.lock = threading.Lock()

    def synchronize(self):
        self.log.append(("wait", id(self)))
        self.finish()

    def finish(self):
        with self.lock:  # threads that gather wait, too
            for source, target in self.copies:
                target.copy_(source)
            self.copies = []
            self.waited = True


class LateCopier:
    """Copies that happen as late as the rules allow, so that a broken rule delivers wrong rows."""

    def __init__(self, device):
        self.device = device
        self.log = []
        self.buffers = []
        self.begun = []
        self.events = []
        self.current = 0  # the consumer's stream
        self.ordered = set()  # events, and the streams that were ordered after them

    def buffer(self, like):
        made = torch.full_like(like, -1)
        self.buffers.append(made)
        return made

    def copy(self, source):
        target = torch.full_like(source, -2)
        self.begun.append((source, target))
        return target

    def mark(self):
        event = LateEvent(self.begun, self.log)
        self.begun = []
        self.events.append(event)
        return event

    def hand_over(self, event, tensors):
        assert event is not None
        self.log.append(("hand over", id(event), len(tensors)))
        self.ordered.add((id(event), self.current))
        event.finish()

    def consumer(self):
        return self.current


@pytest.fixture
def late():
    made = []

    def make(device):
        made.append(LateCopier(device))
        return made[-1]

    make.made = made
    return make


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("rows"))


class Seen:
    """Keeps the chunks that come by."""

    chunk_bytes = 1

    def __init__(self):
        self.chunks = []

    def room(self, _number, like):
        return tuple(map(torch.empty_like, like))

    def __call__(self, chunks):
        for chunk in chunks:
            self.chunks.append(chunk)
            yield chunk


def chunks_of(loader):
    """The chunks of a loader's next epoch, which are its first again afterwards."""
    seen = Seen()
    list(loader.start_epoch(seen))
    loader.set_epoch(0)
    return seen.chunks


def feed(kind="frame", files=(), batch_size=16, workers=2, **options):
    return PyTorchDataLoader(workers).create_dataloader(
        dataset_of(kind, files), batch_size, seed=1, **options
    )


@pytest.fixture
def small_chunks(monkeypatch):
    """Rows in memory come in chunks of three batches of 16."""
    monkeypatch.setattr(memory_rows, "CHUNK_BYTES", 3 * 16 * 4 * 4)
    monkeypatch.setattr(torch_device, "CHUNK_BYTES", 3 * 16 * 4 * 4)


# Rows in memory, files, and what torch's worker processes decode.
CHUNKED = [
    ("frame", {}),
    ("frame, kept", {}),
    ("stream", {}),
    ("files", {}),
    ("stream", {"worker_kind": "process"}),
]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    ("kind", "options", "batch_size"),
    [
        *((*case, 16) for case in CHUNKED),
        *((kind, {}, size) for kind in ("frame", "stream", "files") for size in (1, 7, 100, 250)),
    ],
)
def test_batches_come_whole_in_order_and_stay_when_held(late, files, kind, options, batch_size):
    loader = PyTorchDataLoader(2, **options)

    def feed():
        return loader.create_dataloader(dataset_of(kind, files), batch_size, seed=1)

    wanted = rows_of(feed())
    on_device = DeviceLoader(feed(), "cuda", late)
    assert len(on_device) == -(-ROWS // batch_size)
    held = list(on_device)
    assert rows_of(held) == wanted
    assert [len(y) for _, y in held] == [len(y) for _, y in feed()]
    assert all(isinstance(batch, tuple) for batch in held)


@pytest.mark.usefixtures("small_chunks")
def test_rows_are_copied_a_chunk_at_a_time_from_a_few_buffers(late):
    for workers, rooms in ((0, CHUNKS_AHEAD + 1), (2, 2 + 2)):  # a prefetch of 2
        rows_of(DeviceLoader(feed(workers=workers), "cuda", late))
        copier = late.made[-1]
        assert len(copier.events) == 6  # of three batches, but for the last
        assert len(copier.buffers) == 2 * rooms


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_of_a_matrix_are_gathered_where_they_are_copied_from(late, monkeypatch, workers):
    monkeypatch.setattr(MatrixRows, "take", None)
    loader = feed(batch_size=1, workers=workers)
    assert sorted(rows_of(DeviceLoader(loader, "cuda", late))) == list(range(ROWS))


@pytest.mark.parametrize(("workers", "chunks"), [(0, 4), (2, 4), (8, 9)])
def test_chunks_are_as_large_as_the_device_wants_but_one_at_least_for_each_worker(
    late, monkeypatch, workers, chunks
):
    monkeypatch.setattr(memory_rows, "CHUNK_BYTES", 4 * 4 * 4)
    monkeypatch.setattr(torch_device, "CHUNK_BYTES", 64 * 4 * 4)
    rows_of(DeviceLoader(feed(batch_size=4, workers=workers), "cuda", late))
    assert len(late.made[0].events) == chunks


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("workers", [0, 2, 8])
def test_an_epoch_that_is_left_waits_for_its_copies(late, workers, monkeypatch):
    unseen = []
    monkeypatch.setattr("sys.unraisablehook", unseen.append)
    finish = LateEvent.finish

    def slowly(event):
        time.sleep(0.01)
        finish(event)

    monkeypatch.setattr(LateEvent, "finish", slowly)
    batches = iter(DeviceLoader(feed(workers=workers), "cuda", late))
    next(batches)
    batches.close()
    assert all(event.waited for event in late.made[0].events)
    assert feeding_threads() == []
    assert unseen == []


@pytest.mark.usefixtures("small_chunks")
def test_a_chunks_buffer_is_written_again_only_after_its_copy_is_done(late):
    batches = DeviceLoader(feed(workers=0), "cuda", late)
    for number, _ in enumerate(batches):
        events, chunk = late.made[0].events, number // 3
        # The first chunk is handed over alone; later ones when the next has been begun.
        assert len(events) == (1 if chunk == 0 else min(6, chunk + 1 + CHUNKS_AHEAD))
        waited = {entry[1] for entry in late.made[0].log if entry[0] == "wait"}
        # The last batch is what is left when there are no more chunks, nor copies under way.
        free = 6 if number == 15 else max(0, len(events) - CHUNKS_AHEAD - 1)
        assert waited == {id(event) for event in events[:free]}


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("batch_size", [5, 16])
def test_a_batch_is_ready_for_the_stream_that_is_current_when_it_comes(late, batch_size):
    batches = DeviceLoader(feed(batch_size=batch_size), "cuda", late)
    rows = 0
    for number, (_, y) in enumerate(batches):
        copier = late.made[0]
        events = [id(event) for event in copier.events]
        chunk = rows // (48 // batch_size * batch_size)  # of 45 or 48 rows: of whole batches
        assert (events[chunk], copier.current) in copier.ordered
        rows += len(y)
        copier.current = number % 3
    assert rows == ROWS


def test_a_batch_of_two_chunks_is_joined_on_a_stream_that_waits_for_both(late, files):
    loader = feed("stream", files)
    lengths = [len(chunk[0]) for chunk in chunks_of(loader)]
    owner = [number for number, length in enumerate(lengths) for _ in range(length)]
    batches = iter(DeviceLoader(loader, "cuda", late))
    rows, joined = 0, 0
    for number in range(len(loader)):
        if late.made:
            late.made[0].current = number
        _, y = next(batches)
        copier = late.made[0]
        events = [id(event) for event in copier.events]
        cut_from = set(owner[rows : rows + len(y)])
        assert all((events[chunk], copier.current) in copier.ordered for chunk in cut_from)
        rows, joined = rows + len(y), joined + (len(cut_from) > 1)
    assert (rows, joined > 4) == (ROWS, True)


@pytest.mark.usefixtures("small_chunks")
def test_a_consumer_that_stays_on_its_stream_waits_once_for_each_chunk(late):
    rows_of(DeviceLoader(feed(), "cuda", late))
    handed = [entry for entry in late.made[0].log if entry[0] == "hand over"]
    assert len(handed) == 6
    assert {entry[2] for entry in handed} == {2}  # X and y: the allocator is told of both


def collated(samples):
    xs, ys = zip(*samples, strict=True)
    return torch.stack(xs), torch.stack(ys)


@pytest.mark.parametrize("how", ["a collate_fn", "a batch_sampler", "processes"])
def test_what_is_made_or_fetched_one_by_one_is_copied_so(late, how):
    if how == "a collate_fn":
        loader = feed(collate_fn=collated)
    elif how == "a batch_sampler":
        sampler = [list(range(low, min(ROWS, low + 16))) for low in range(0, ROWS, 16)]
        loader = FeedDataLoader(dataset_of("frame"), LoaderSettings(), batch_sampler=sampler)
    else:
        loader = PyTorchDataLoader(2, worker_kind="process", persistent_workers=False)
        loader = loader.create_dataloader(dataset_of("frame"), 16)
    with pytest.raises(InputError, match="have no chunks"):
        loader.start_epoch(Seen())
    assert sorted(rows_of(DeviceLoader(loader, "cuda", late))) == list(range(ROWS))
    assert len(late.made[0].events) == 16


def test_an_epoch_behind_a_device_is_not_watched(late):
    told = []
    loader = feed()
    loader.watch = lambda *epoch: told.append(epoch)
    rows_of(DeviceLoader(loader, "cuda", late))
    assert told == []
    rows_of(loader)
    assert len(told) == 1


@pytest.mark.usefixtures("small_chunks")
def test_epochs_share_a_copier_and_kept_processes_go_on_after_an_early_stop(late, files):
    loader = PyTorchDataLoader(1, worker_kind="process", persistent_workers=True)
    on_device = DeviceLoader(
        loader.create_dataloader(dataset_of("stream", files), 16, seed=1), "cuda", late
    )
    batches = iter(on_device)
    next(batches)
    batches.close()
    kept = multiprocessing.active_children()
    assert sorted(rows_of(on_device)) == list(range(ROWS))
    assert multiprocessing.active_children() == kept
    assert len(late.made) == 1


def test_a_few_buffers_serve_all_batches(late):
    rows_of(DeviceLoader(list(feed()), "cuda", late))
    (copier,) = late.made
    assert len(copier.buffers) == 2 * (AHEAD + 1)
    assert len(copier.events) == 16


def test_a_buffer_is_written_again_only_after_its_copy_is_done(late):
    batches = DeviceLoader(list(feed()), "cuda", late)
    for number, _ in enumerate(batches):
        events = late.made[0].events
        # Batches up to AHEAD after this one have been begun; the slot of the last was free.
        begun = min(16, number + 1 + AHEAD)
        assert len(events) == begun
        assert all(event.waited for event in events[: max(0, begun - AHEAD - 1)])
        waits = [entry[1] for entry in late.made[0].log if entry[0] == "wait"]
        assert waits[: begun - AHEAD - 1] == [id(event) for event in events][: len(waits)]


def test_the_consumers_stream_waits_for_each_copy_before_it_gets_the_batch(late):
    batches = iter(DeviceLoader(list(feed()), "cuda", late))
    for number in range(16):
        x, y = next(batches)
        copier = late.made[0]
        handed = [entry[1:] for entry in copier.log if entry[0] == "hand over"]
        assert handed[-1] == (id(copier.events[number]), 2)
        assert len(handed) == number + 1
        assert (x != -2).all()
        assert (y != -2).all()


def test_features_alone_and_lists_are_copied_ahead_too(late):
    tensors = [torch.arange(low, low + 4.0) for low in range(0, 40, 4)]
    moved = list(DeviceLoader(tensors, "cuda", late))
    assert all(torch.equal(a, b) for a, b in zip(moved, tensors, strict=True))
    lists = list(DeviceLoader([[t, t + 1] for t in tensors], "cuda", late))
    assert isinstance(lists[0], list)
    assert torch.equal(lists[3][1], tensors[3] + 1)
    assert [len(copier.buffers) for copier in late.made] == [AHEAD + 1, 2 * (AHEAD + 1)]


def test_larger_and_other_batches_get_buffers_of_their_own(late):
    shapes = [(2, 3), (5, 3), (4, 3), (4, 2), (4, 2), (1, 2), (6, 3), (6, 3)]
    batches = [torch.rand(shape) for shape in shapes]
    batches.append(torch.arange(6))
    moved = list(DeviceLoader(batches, "cuda", late))
    assert all(torch.equal(a, b) for a, b in zip(moved, batches, strict=True))
    assert moved[-1].dtype == torch.int64


def test_what_is_nested_is_moved_when_its_turn_comes(late):
    x = torch.arange(4.0)
    nested = [{"x": x, "more": [x, (x, "text")]}, Pair(x, x + 1), (x, torch.tensor(2)), "text"]
    loader = DeviceLoader(nested, "meta", late)
    first, pair, scalar, text = loader
    assert first["x"].device.type == first["more"][1][0].device.type == "meta"
    assert first["more"][1][1] == text == "text"
    assert isinstance(pair, Pair)
    assert pair.y.device.type == scalar[1].device.type == "meta"
    assert late.made[0].buffers == []


def test_other_devices_and_the_cpu_need_no_copies_ahead():
    to_device = PyTorchDataLoader().to_device
    batches = [(torch.ones(2), torch.ones(2))]
    (passed,) = to_device(batches, "cpu")
    assert passed is batches[0]
    ((x, _),) = to_device(batches, torch.device("meta"))
    assert x.device.type == "meta"
    with pytest.raises(TypeError):
        len(to_device(iter(batches), "cpu"))


def test_stopping_early_waits_for_copies_and_closes_the_loader(late, files):
    closed = []

    def batches():
        try:
            yield from feed("stream", files)
        finally:
            closed.append(True)

    for _ in DeviceLoader(batches(), "cuda", late):
        break
    assert closed == [True]
    assert all(event.waited for event in late.made[0].events)
    assert len(late.made[0].events) == AHEAD + 1


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(("kind", "options"), CHUNKED)
def test_stopping_within_a_chunk_waits_for_copies_and_stops_the_workers(late, files, kind, options):
    loader = PyTorchDataLoader(2, persistent_workers=False, **options)
    fed = loader.create_dataloader(dataset_of(kind, files), 16, seed=1)
    batches = iter(DeviceLoader(fed, "cuda", late))
    for _ in range(5):
        next(batches)
    batches.close()
    assert len(late.made[0].events) > 0
    assert all(event.waited for event in late.made[0].events)
    assert feeding_threads() == []
    assert not options or multiprocessing.active_children() == []


def test_an_error_of_the_loader_comes_out_and_leaves_nothing_under_way(late):
    def batches():
        yield torch.ones(2)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        list(DeviceLoader(batches(), "cuda", late))
    assert all(event.waited for event in late.made[0].events)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kind", ["frame", "stream"])
def test_states_count_what_the_consumer_got_not_what_is_copied_ahead(kind, late, files):
    whole = feed(kind, files)
    epochs = [rows_of(whole), rows_of(whole)]
    for stop in (0, 1, 7, 14, 15, 16):
        loader = DeviceLoader(feed(kind, files), "cuda", late)
        head = rows_of(itertools.islice(iter(loader), stop)) if stop else []
        again = DeviceLoader(feed(kind, files), "cuda", late)
        again.load_state_dict(loader.state_dict())
        rest = rows_of(again)
        assert head + rest == (epochs[0] if stop < 16 else epochs[0] + epochs[1])
    again.set_epoch(0)
    assert rows_of(again) == epochs[0]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kind", ["frame", "stream"])
def test_an_epoch_that_is_begun_but_not_read_is_the_one_that_a_state_resumes(kind, late, files):
    whole = feed(kind, files)
    epochs = [rows_of(whole), rows_of(whole)]
    plain, loader = feed(kind, files), DeviceLoader(feed(kind, files), "cuda", late)
    first = [iter(plain), iter(loader)]
    for batches in first:
        rows_of(itertools.islice(batches, 3))
    assert loader.state_dict() == plain.state_dict()
    second = [iter(plain), iter(loader)]
    state = loader.state_dict()
    assert state == plain.state_dict()
    assert (state["epoch"], state["batches"]) == (1, 0)
    again = DeviceLoader(feed(kind, files), "cuda", late)
    again.load_state_dict(state)
    assert rows_of(again) == epochs[1]
    assert rows_of(second[1]) == epochs[1]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kind", ["frame", "stream"])
def test_two_iterators_run_side_by_side(kind, late, files):
    loader = DeviceLoader(feed(kind, files), "cuda", late)
    pairs = list(zip(loader, loader, strict=True))
    assert sorted(rows_of(one for one, _ in pairs)) == list(range(ROWS))
    assert sorted(rows_of(two for _, two in pairs)) == list(range(ROWS))


@needs_gpu
@pytest.mark.parametrize("pin_memory", [True, False])
def test_on_a_gpu_rows_arrive_whole_while_it_computes(pin_memory):
    x = torch.arange(200_000, dtype=torch.float32).reshape(-1, 1).repeat(1, 32)
    frame_loader = PyTorchDataLoader(2, pin_memory=pin_memory)
    batches = list(x.split(1000))
    busy = torch.rand(2000, 2000, device="cuda")
    sums = []
    for batch in frame_loader.to_device(batches, "cuda"):
        busy = busy @ busy / 2000
        sums.append(batch.sum(dtype=torch.float64))
        batch.zero_()  # its memory may serve the next copies
    wanted = [batch.sum(dtype=torch.float64) for batch in batches]
    assert torch.equal(torch.stack(sums).cpu(), torch.stack(wanted))


@needs_gpu
def test_on_a_gpu_a_loaders_epoch_arrives_on_any_stream(files):
    for kind in ("frame", "stream"):
        loader = PyTorchDataLoader.to_device(feed(kind, files), "cuda")
        with torch.cuda.stream(torch.cuda.Stream()):
            held = [(x, y) for x, y in loader]
            torch.cuda.current_stream().synchronize()
        assert all(x.is_cuda and y.is_cuda for x, y in held)
        assert sorted(rows_of((x.cpu(), y.cpu()) for x, y in held)) == list(range(ROWS))


@needs_gpu
@pytest.mark.parametrize("kind", ["frame", "stream"])
def test_on_a_gpu_chunks_arrive_whole_on_the_stream_that_is_current(kind, tmp_path, monkeypatch):
    """Two streams take turns within a chunk, busy with the last batch when the next one comes."""
    monkeypatch.setattr(memory_rows, "CHUNK_BYTES", 64 << 10)
    rows = np.arange(100_000, dtype="float32")
    frame = pd.DataFrame({f"x{number}": rows for number in range(8)})
    paths = [tmp_path / f"{number}.parquet" for number in range(10)]
    for number, path in enumerate(paths):
        frame[number * 10_000 : (number + 1) * 10_000].to_parquet(path)
    dataset = (
        ParquetDataset.from_dataframe(frame, list(frame))
        if kind == "frame"
        else StreamingParquetDataset(paths, list(frame))
    )
    loader = PyTorchDataLoader(2).create_dataloader(dataset, 700, seed=1)
    wanted = [batch.sum(dtype=torch.float64) for batch in loader]
    loader.set_epoch(0)
    streams = [torch.cuda.Stream() for _ in range(2)]
    busy = [torch.rand(1500, 1500, device="cuda") for _ in streams]
    torch.cuda.synchronize()
    batches = iter(PyTorchDataLoader.to_device(loader, "cuda"))
    sums = []
    for number in range(len(loader)):
        turn = number % 2
        with torch.cuda.stream(streams[turn]):
            batch = next(batches)
            busy[turn] = busy[turn] @ busy[turn] / 1500
            sums.append(batch.sum(dtype=torch.float64))
            batch.zero_()  # its memory may serve the next copies
            del batch
    torch.cuda.synchronize()
    assert torch.equal(torch.stack(sums).cpu(), torch.stack(wanted))


def test_a_device_that_is_not_there_is_an_error_that_says_so():
    with pytest.raises(InputError, match=r"device is 'foo'; use one like 'cuda'"):
        PyTorchDataLoader.to_device([], "foo")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match=r"device is 'cuda' and torch sees no CUDA here"):
            PyTorchDataLoader.to_device([], "cuda")
